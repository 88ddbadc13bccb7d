"""The form: what it asks for, what it refuses and where it says so, and what it says a run will take."""

import re
from dataclasses import fields, replace

import pytest

from sparsedash.catalog.model_shape import shipped_shape
from sparsedash.catalog.presets import method_named
from sparsedash.catalog.resources import LeastMemory, RunDisk
from sparsedash.schema.errors import ModelError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service.model_lookup import NamedModel
from sparsedash.service.preflight import DiskNeed, Duration, Memory
from sparsedash.service.request_checks import Problem
from sparsedash.ui.form_address import form_address
from tests.ui import specimens
from tests.ui.conftest import button, markup, words

SETTINGS = specimens.SETTINGS


def test_the_form_begins_with_the_default_run(open_page, backend):
    app = open_page("prune")
    button(app, "Start").click().run()
    own = replace(SETTINGS.calibration, corpus="builtin:smollm2-text")
    assert backend.submitted == [replace(SETTINGS, methods=(method_named("best"),), calibration=own)]
    assert app.query_params["run"] == backend.submitted[0].key()
    assert "Waiting" in words(app)


def test_another_model_writes_its_own_text_unless_a_text_was_chosen(open_page):
    app = open_page("prune")
    app.selectbox(key="model").set_value("facebook/opt-1.3b").run()
    assert app.selectbox(key="calibration").value == "self"
    app.selectbox(key="model").set_value("builtin:smollm2-135m").run()
    assert app.selectbox(key="calibration").value == "builtin:smollm2-text"
    app.selectbox(key="calibration").set_value("c4").run()
    app.selectbox(key="model").set_value("facebook/opt-1.3b").run()
    assert app.selectbox(key="calibration").value == "c4"


def test_settings_come_from_the_address(open_page, backend):
    app = open_page(
        "prune",
        model="facebook/opt-1.3b",
        sparsity="5, 12.5",
        text="lambada_openai",
        calibration="wikitext-2",
        samples="64",
        length="128",
        seed="3",
        weights="residual",
        packed="true",
        passages="200",
        shuffle="7",
        dtype="bfloat16",
        width="64",
    )
    button(app, "Start").click().run()
    (asked,) = backend.submitted
    assert (asked.model, asked.dtype, asked.sparsities_permille) == ("facebook/opt-1.3b", "bfloat16", (50, 125))
    assert (asked.evaluation.corpus, asked.evaluation.n_passages, asked.evaluation.shuffle_seed) == (
        "lambada_openai",
        200,
        7,
    )
    calibration = asked.calibration
    assert (calibration.corpus, calibration.n_samples, calibration.length, calibration.seed) == (
        "wikitext-2",
        64,
        128,
        3,
    )
    assert (calibration.token_weights, calibration.packed) == ("residual", True)
    assert asked.methods[0].width_multiple == 64


def test_any_model_reference_can_be_typed(open_page, backend):
    open_page("prune", model="/models/my llama")
    assert backend.asked_about[-1].model == "/models/my llama"


def test_several_methods_make_one_run(open_page, backend):
    app = open_page("prune")
    app.get("button_group")[1].set_value(["least-squares", "random"]).run()
    button(app, "Start").click().run()
    assert backend.submitted[0].methods == (method_named("least-squares"), method_named("random"))


@pytest.mark.parametrize(
    ("sparsity", "complaint"),
    [
        ("abc", "sparsity: 'abc' is not possible; allowed: 0 to 90 percent"),
        ("10, 10", "each one once"),
        ("95", "0 to 90 percent"),
        ("12.55", "in tenths at the finest"),
    ],
)
def test_a_wrong_sparsity_is_refused_under_its_field(sparsity, complaint, open_page, backend):
    app = open_page("prune", sparsity=sparsity)
    assert complaint in words(app)
    assert ".st-key-sparsity" in markup(app)
    assert button(app, "Start").disabled


def test_what_would_fail_at_once_is_said_under_its_field(open_page, backend):
    problem = Problem(field="evaluation text", message="Evaluation text: there is no file /x.jsonl on this machine.")
    backend.before = replace(
        backend.before, duration=Duration(unknown=("pruning",)), memory=Memory(), problems=(problem,)
    )
    app = open_page("prune")
    assert problem.message in words(app)
    assert ".st-key-text" in markup(app)
    assert button(app, "Start").disabled


def test_a_problem_of_no_single_field_stands_at_the_button(open_page, backend):
    problem = Problem(field="calibration size", message="Calibration: 5 x 256 tokens are too few for this model.")
    backend.before = replace(
        backend.before, duration=Duration(unknown=("pruning",)), memory=Memory(), problems=(problem,)
    )
    app = open_page("prune")
    assert words(app).count(problem.message) == 1
    assert "sd-field-error" not in re.sub(r"<style>.*?</style>", "", markup(app), flags=re.DOTALL)
    assert "border-color: var(--broke) !important" not in markup(app)
    assert button(app, "Start").disabled


def test_the_estimate_says_time_memory_and_what_is_stored(open_page):
    said = words(open_page("prune"))
    assert "Time about 4 min Memory about 1.2 GB" in said
    assert "Stored already calibration, dense answers, 1 of 3 sparse models" in said


def test_the_estimate_says_the_time_of_every_stage_and_the_disk(open_page, backend):
    known = Duration(seconds=245.0, parts=(("loading", 5.0), ("pruning", 240.0)))
    takes = DiskNeed(takes=RunDisk(stays_bytes=1_200_000_000, passing_bytes=640_000_000), free_bytes=500_000_000)
    backend.before = replace(backend.before, duration=known, disk=takes)
    said = words(open_page("prune"))
    assert "By stage loading 5 s, pruning 4 min" in said
    assert "Disk about 1.2 GB, and up to 640 MB more while it runs" in said
    assert "The data folder's disk has 500 MB left: the run is likely to fill it." in said


def test_without_measurements_the_estimate_does_not_guess(open_page, backend):
    unknown = Duration(unknown=("answering", "pruning"))
    backend.before = replace(backend.before, duration=unknown, memory=Memory(), problems=())
    assert "Time not known: no run like this has finished here yet" in words(open_page("prune"))


def test_what_was_measured_is_said_beside_what_was_not(open_page, backend):
    some = Duration(seconds=245.0, unknown=("pruning",))
    backend.before = replace(backend.before, duration=some)
    said = words(open_page("prune"))
    assert "Time about 4 min, and pruning, which has not been measured here yet" in said


LEAST = LeastMemory(n_bytes=2_340_000_000, beside_bytes=1_800_000_000, purpose="the backward pass")
BACKWARD = "at least 2.3 GB, 1.8 GB of it for the backward pass"


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (Memory(), "not known yet"),
        (Memory(measured_bytes=10**9, least=LEAST, backward=True), BACKWARD),
        (Memory(measured_bytes=3 * 10**9, least=LEAST, backward=True), "about 3.0 GB"),
        (Memory(least=LEAST, backward=True), BACKWARD),
        (Memory(measured_bytes=10**9, backward=True), "about 1.0 GB, and more for the backward pass"),
    ],
)
def test_the_memory_is_that_of_an_earlier_run_unless_this_one_needs_more(open_page, backend, memory, said):
    backend.before = replace(backend.before, memory=memory)
    assert f"Memory {said} Stored already" in words(open_page("prune"))


def test_a_stored_run_opens_at_once(open_page, backend):
    everything = replace(backend.before.stored, sparse=3)
    backend.before = replace(backend.before, stored=everything)
    assert "a moment: everything is stored" in words(open_page("prune"))


SIZES = {"Quick look": "builtin:cloze", "Decide": "builtin:cloze-402", "Paper": "lambada_openai"}


def test_how_sure_is_one_choice_that_fills_in_the_passages(open_page, backend):
    app = open_page("prune")
    sure = app.radio(key="sure")
    assert list(sure.options) == list(SIZES) and sure.value == "Quick look"
    for size, text in SIZES.items():
        app.radio(key="sure").set_value(size).run()
        assert app.selectbox(key="text").value == text
        assert backend.asked_about[-1].evaluation == EvaluationSettings(corpus=text)
    app.number_input(key="passages").set_value(500).run()
    assert app.radio(key="sure").value == "As chosen below"
    app.radio(key="sure").set_value("Decide").run()
    assert (app.selectbox(key="text").value, app.number_input(key="passages").value) == ("builtin:cloze-402", None)


def test_every_size_says_its_time_and_the_smallest_loss_it_shows(open_page):
    captions = open_page("prune").radio(key="sure").proto.captions
    assert [text.replace("\xa0", " ") for text in captions] == [
        "132 passages, built in · about 4 min · can show losses from about 1.23 × word perplexity or 4.4 points",
        "402 passages, built in · about 4 min · can show losses from about 1.13 × word perplexity or 2.5 points",
        "5,151 passages, LAMBADA, fetched once from the hub · about 4 min · "
        "can show losses from about 1.03 × word perplexity or 0.7 points",
    ]


def test_a_search_has_the_same_three_sizes(open_page):
    assert open_page("prune", goal="How much can go?", text="lambada_openai").radio(key="sure").value == "Paper"


def test_one_method_is_recommended_until_others_are_chosen(open_page):
    app = open_page("prune")
    assert "By best, which is recommended." in words(app)
    assert not app.session_state["race"]
    raced = open_page("prune", method=["best", "random"])
    assert "2 methods race: best, random." in words(raced)
    assert raced.session_state["race"]
    assert "By least-squares." in words(open_page("prune", method="least-squares"))


LLAMA = NamedModel(family="llama", counted=shipped_shape("llama-7b"))


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (None, "It is not on this machine yet"),
        (LLAMA, "Family: llama. 32 blocks of 11,008 channels, 6.7 billion weights, 27.0 GB in FP32."),
        (NamedModel(family="phi3", counted=None), "Family: phi3. Its sizes, and so memory and time, are known once"),
    ],
)
def test_a_model_is_known_as_soon_as_it_is_named(named, said, open_page, backend):
    backend.named = named
    assert said in words(open_page("prune", model="some/model"))


LISTED = "EleutherAI/gpt-j-6b"
"""A name that the select box of the test client knows."""


def test_a_model_that_is_not_here_is_looked_up_on_the_hub_when_somebody_asks(open_page, backend):
    app = open_page("prune", model=LISTED)
    assert backend.looked_up == []
    button(app, "Look it up on the hub").click().run()
    assert backend.looked_up == [LISTED]
    assert "Family: llama. 32 blocks" in words(app)
    assert "Look it up on the hub" not in [each.label for each in app.button]


def test_what_the_hub_refuses_is_told(open_page, backend):
    backend.hub_says = ModelError("There is no the model on the hub.", "Check the spelling.")
    app = open_page("prune", model=LISTED)
    button(app, "Look it up on the hub").click().run()
    assert [toast.value for toast in app.toast] == ["There is no the model on the hub. Check the spelling."]
    assert "It is not on this machine yet" in words(app)


def test_what_is_no_hub_id_is_not_looked_up_there(open_page, backend, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert "Look it up on the hub" not in [each.label for each in open_page("prune", model=str(folder)).button]


def test_a_race_of_several_methods_says_how_many_models_it_makes(open_page):
    app = open_page("prune")
    app.get("button_group")[1].set_value(["least-squares", "random"]).run()
    assert "2 methods at 3 sparsities: 6 sparse models on one calibration, in one job." in words(app)


OWN = {"own": "true", "saliency": "random", "compensation": "none"}


class TestAMethodOfOnesOwn:
    def test_it_races_beside_the_presets(self, open_page, backend):
        app = open_page("prune", **OWN, allocation="global")
        assert "Its name in charts: random + none + global" in words(app)
        button(app, "Start").click().run()
        asked = backend.submitted[0].methods
        assert asked[0] == method_named("best")
        assert (asked[1].saliency, asked[1].compensation, asked[1].allocation) == ("random", "none", "global")

    def test_it_may_be_the_only_one(self, open_page, backend):
        app = open_page("prune", **OWN)
        app.get("button_group")[1].set_value([]).run()
        button(app, "Start").click().run()
        assert backend.submitted[0].methods == (method_named("random"),)

    def test_no_method_at_all_is_refused(self, open_page):
        app = open_page("prune")
        app.get("button_group")[1].set_value([]).run()
        assert "No method is chosen. Choose at least one." in words(app)
        assert button(app, "Start").disabled

    def test_the_same_method_is_raced_once(self, open_page, backend):
        app = open_page("prune", own="true", method="least-squares")
        button(app, "Start").click().run()
        assert backend.submitted[0].methods == (method_named("least-squares"),)

    def test_only_the_parameters_it_has_are_asked(self, open_page):
        def asked(**choices):
            return {n.key for n in open_page("prune", own="true", **choices).number_input}

        assert {"damping", "strength"} <= asked(compensation="sequential")
        assert "strength" not in asked(compensation="least-squares")
        assert not {"damping", "strength"} & asked(compensation="none")
        assert "lot" in asked(saliency="random")
        assert "damping" not in asked(compensation="none", allocation="sensitivity")
        assert "damping" not in asked(compensation="none", saliency="obs")
        assert {"floor", "ceiling", "blend"} <= asked(allocation="sensitivity")
        assert not {"floor", "ceiling", "blend"} & asked(allocation="global")
        assert "rounds" in asked(saliency="fisher")
        assert "rounds" not in asked(saliency="obs")

    @pytest.mark.parametrize("allocation", ["uniform", "sensitivity"])
    @pytest.mark.parametrize("saliency", ["activation-aware", "fisher", "random"])
    def test_every_field_of_it_says_what_it_means(self, open_page, saliency, allocation):
        app = open_page("prune", own="true", saliency=saliency, compensation="sequential", allocation=allocation)
        own = {"lot", *(field.name for field in fields(MethodSettings))} - {"seed"}
        drawn = [field for field in (*app.selectbox, *app.number_input) if field.key in own]
        assert len(drawn) >= 6
        assert all(field.help for field in drawn)

    def test_its_parameters_come_from_the_address(self, open_page, backend):
        app = open_page("prune", own="true", compensation="sequential", damping="0.1", strength="1")
        button(app, "Start").click().run()
        assert (backend.submitted[0].methods[1].damping, backend.submitted[0].methods[1].strength) == (0.1, 1.0)

    def test_the_published_schedule_can_be_asked_for_from_the_address(self, open_page, backend):
        app = open_page("prune", own="true", saliency="fisher", rounds="4", schedule="cubic")
        button(app, "Start").click().run()
        made = backend.submitted[0].methods[1]
        assert (made.saliency, made.rounds, made.schedule) == ("fisher", 4, "cubic")

    def test_the_bounds_of_an_allocation_come_from_the_address(self, open_page, backend):
        bounds = {"floor": "0.05", "ceiling": "0.3", "blend": "1"}
        app = open_page("prune", own="true", allocation="sensitivity", **bounds)
        button(app, "Start").click().run()
        made = backend.submitted[0].methods[1]
        assert (made.floor, made.ceiling, made.blend) == (0.05, 0.3, 1.0)

    @pytest.mark.parametrize(
        "choices",
        [
            {"saliency": "random", "compensation": "none", "seed": 123_456_789},
            {"allocation": "sensitivity", "blend": 0.123_456_7, "ceiling": 0.3},
            {"pattern": "4:8", "saliency": "magnitude", "compensation": "none", "scope": "decoder"},
            {"saliency": "fisher", "compensation": "none", "rounds": 5, "schedule": "cubic"},
        ],
    )
    def test_the_address_of_a_method_chooses_just_that(self, open_page, backend, choices):
        asked = replace(SETTINGS, methods=(MethodSettings(**choices),))
        button(open_page("prune", **form_address(asked)), "Start").click().run()
        assert backend.submitted == [asked]

    def test_the_address_of_a_request_says_all_of_it(self, open_page, backend):
        names = ("obs", "best", "wanda-2:4")
        methods = (*map(method_named, names), MethodSettings(saliency="wifv", damping=0.3))
        asked = RunSettings(
            model="facebook/opt-1.3b",
            dtype="bfloat16",
            methods=tuple(replace(method, width_multiple=64) for method in methods),
            sparsities_permille=(50, 125),
            calibration=CalibrationSettings(
                corpus="wikitext-2", n_samples=7, length=99, seed=3, token_weights="residual", packed=True
            ),
            evaluation=EvaluationSettings(
                corpus="lambada", n_passages=10, shuffle_seed=0, rule="published", stop_early=True
            ),
        )
        app = open_page("prune", **form_address(asked))
        button(app, "Start").click().run()
        (made,) = backend.submitted
        assert set(made.methods) == set(asked.methods)
        assert replace(made, methods=asked.methods) == asked

    def test_the_form_has_no_room_for_two_methods_of_ones_own(self):
        own = [MethodSettings(damping=damping) for damping in (0.1, 0.2)]
        assert form_address(replace(SETTINGS, methods=tuple(own))) is None
        assert form_address(replace(SETTINGS, methods=(own[0], MethodSettings(width_multiple=64)))) is None

    def test_a_floor_above_the_ceiling_is_refused_in_place(self, open_page):
        app = open_page("prune", own="true", allocation="sensitivity", floor="0.7")
        assert "floor: 0.7 is not possible; allowed: at most the ceiling, 0.6" in words(app)
        assert button(app, "Start").disabled

    def test_choices_that_do_not_go_together_are_refused_in_place(self, open_page):
        app = open_page("prune", own="true", pattern="1x1", compensation="bias")
        assert "compensation: 'bias' is not possible; allowed: none, least-squares with pattern 1x1" in words(app)
        assert button(app, "Start").disabled


def test_single_weights_are_said_to_make_nothing_smaller_and_a_fixed_pattern_its_sparsity(open_page, backend):
    app = open_page("prune", own="true", pattern="2:4", scope="decoder")
    said = words(app)
    assert "do not make the model smaller or faster by themselves" in said
    assert "50 %, which its pattern decides." in said
    button(app, "Start").click().run()
    assert backend.submitted[0].methods[1].scope == "decoder"


def test_presets_of_masks_are_a_field_of_their_own_that_says_what_they_do_not_bring(open_page, backend):
    app = open_page("prune")
    channels, masks = app.get("button_group")[1:3]
    assert {"least-squares", "flap"} <= set(channels.options)
    assert not set(channels.options) & set(masks.options)
    assert "do not make the model smaller or faster by themselves" in words(app)
    masks.set_value(["wanda-2:4"]).run()
    button(app, "Start").click().run()
    assert backend.submitted[0].methods == (method_named("best"), method_named("wanda-2:4"))


def test_an_evaluation_may_stop_early(open_page, backend):
    app = open_page("prune", stop="true")
    button(app, "Start").click().run()
    assert backend.submitted[0].evaluation.stop_early


def test_more_settings_are_open_where_the_address_says_something_in_them(open_page):
    assert not open_page("prune").session_state["more"]
    assert open_page("prune", calibration="no-such-text").session_state["more"]


def test_the_methods_stay_open_when_the_last_of_them_is_taken_back(open_page):
    form = open_page("prune", own="true")
    form.toggle(key="own").set_value(False).run()
    assert form.session_state["race"]


ENDLESS = ("1e999", "-1e999", "inf", "9" * 400)


@pytest.mark.parametrize("value", [*ENDLESS, "nan", "1e10", "-5", "many", "", "\x00", "٣x"])
def test_a_number_in_the_address_that_the_field_cannot_hold_leaves_its_own(value, open_page):
    names = ("samples", "length", "seed", "passages", "shuffle", "width", "lot", "rounds", "damping")
    fields = {"own": "true", "saliency": "fisher", **dict.fromkeys(names, value)}
    usual = {field.key: field.value for field in open_page("prune", own="true", saliency="fisher").number_input}
    shown = open_page("prune", **fields)
    assert {field.key: field.value for field in shown.number_input} == usual
    assert not button(shown, "Start").disabled


def test_a_field_that_the_address_has_an_endless_number_for_can_be_changed(open_page, backend):
    app = open_page("prune", samples="1e999")
    app.number_input(key="samples").set_value(64).run()
    button(app, "Start").click().run()
    assert not app.exception
    assert backend.submitted[0].calibration.n_samples == 64
