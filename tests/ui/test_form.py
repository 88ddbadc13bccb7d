"""The form of the prune page: its fields, its address, its errors and its estimates."""

import re
from dataclasses import replace

import pytest
from huggingface_hub.constants import ENDPOINT

from sparsedash.catalog.builtin_tasks import DECIDING_TASKS
from sparsedash.catalog.cost_model import LeastMemory
from sparsedash.catalog.model_sizes import shipped_shape
from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.catalog.resources import RunDisk
from sparsedash.schema.errors import JobError, ModelError
from sparsedash.schema.fields import field_rows
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.method_settings import MethodSettings, with_budget
from sparsedash.schema.model_shape import ModelStructure
from sparsedash.schema.settings import (
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.estimates import Duration
from sparsedash.service.model_lookup import NamedModel
from sparsedash.service.preflight import DiskNeed, Memory
from sparsedash.ui.form_address import FRESH, SEARCH, SWEEP, form_address
from tests.factories import MIXTURE_SHAPE, plain
from tests.ui import specimens
from tests.ui.conftest import button, markup, opened, words

SETTINGS = specimens.SETTINGS
MASKS_SAVE_NOTHING = "do not make the model smaller or faster by themselves"


def group(app, label):
    return next(field for field in app.get("button_group") if field.label == label)


def submitted(app, backend):
    """The settings that the form starts a job with."""
    button(app, "Start").click().run()
    assert not app.exception
    return backend.submitted[-1]


def test_the_form_begins_with_the_recommended_run(open_page, backend):
    app = open_page("prune", goal=SWEEP)
    request = submitted(app, backend)
    methods = replace(SETTINGS.calibration, corpus="builtin:mixed")
    first = {"methods": (method_named("best"),), "sparsities_permille": (20, 100, 300)}
    assert request == replace(SETTINGS, calibration=methods, **first)
    assert app.query_params["run"] == request.key()
    assert "Waiting" in words(app)


def test_another_model_writes_its_own_text_unless_a_text_was_chosen(open_page):
    app = open_page("prune", goal=SWEEP)
    for key, value, calibration in (
        ("model", "facebook/opt-1.3b", "self"),
        ("model", "builtin:smollm2-135m", "builtin:mixed"),
        ("calibration", "c4", "c4"),
        ("model", "facebook/opt-1.3b", "c4"),
    ):
        app.selectbox(key=key).set_value(value).run()
        assert app.selectbox(key="calibration").value == calibration


CUSTOM = {
    "random": {"saliency": "random", "compensation": "none", "seed": 123_456_789},
    "random, global": {
        "saliency": "random",
        "compensation": "none",
        "allocation": "global",
    },
    "curves": {"allocation": "curves", "curve_levels": 5},
    "sequential": {
        "compensation": "sequential",
        "damping": 0.1,
        "strength": 0.123_456_7,
    },
    "4:8": {
        "pattern": "4:8",
        "saliency": "magnitude",
        "compensation": "none",
        "scope": "decoder",
    },
    "fisher": {
        "saliency": "fisher",
        "compensation": "none",
        "rounds": 5,
        "schedule": "cubic",
    },
}
CALIBRATION = CalibrationSettings(
    corpus="wikitext-2",
    n_samples=7,
    length=99,
    seed=3,
    token_weights="residual",
    packed=True,
)
EVALUATION = EvaluationSettings(
    corpus="lambada", n_passages=400, shuffle_seed=0, rule="published"
)
EVERYTHING = {
    "model": "facebook/opt-1.3b",
    "dtype": "bfloat16",
    "residency": "streamed",
    "calibration": CALIBRATION,
}
SEVERAL = (
    *map(method_named, ("obs", "best", "wanda-2:4")),
    MethodSettings(saliency="wifv", damping=0.3),
)
REQUESTS = {
    **{
        f"custom {name}": replace(SETTINGS, methods=(MethodSettings(**values),))
        for name, values in CUSTOM.items()
    },
    "every field": RunSettings(
        methods=tuple(
            replace(field, width_multiple=64) if field.uses("width_multiple") else field
            for field in SEVERAL
        ),
        sparsities_permille=(50, 125),
        evaluation=replace(EVALUATION, stop_early=True),
        prompts=("Once, a <b>", "Twice & 1 + 1 ="),
        **EVERYTHING,
    ),
    "search": FindSettings(
        method=replace(method_named("best"), width_multiple=64),
        evaluation=EVALUATION,
        tolerance=Tolerance(ratio=1.2, points=3.0),
        **EVERYTHING,
    ),
    "no prompts": replace(SETTINGS, prompts=()),
    "budget": replace(
        SETTINGS,
        methods=with_budget([*map(method_named, ("best", "wanda"))], "weights"),
    ),
    "search of a budget": FindSettings(
        method=MethodSettings(saliency="wifv", budget="bytes")
    ),
    "healed": replace(
        SETTINGS, methods=tuple(map(method_named, ("obs", "wanda-2:4")))
    ).healed(12),
    "healed, custom": replace(
        SETTINGS, methods=(MethodSettings(saliency="wifv"),)
    ).healed(12),
    "quantised": replace(
        SETTINGS,
        methods=tuple(map(method_named, ("obs", "wanda-2:4"))),
        quantise=("q8_0", "q4_k_m"),
    ),
    "healed, quantised": replace(
        SETTINGS, methods=(method_named("obs"),), heal_steps=(0, 12), quantise=("q4_0",)
    ),
    "search, quantised": FindSettings(
        method=method_named("best"), quantise=("q8_0", "q4_k_m")
    ),
    "search of healed models": FindSettings(method=method_named("best"), heal_steps=8),
    "custom search": FindSettings(method=MethodSettings(saliency="wifv", damping=0.5)),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_address_of_a_request_fills_in_all_of_it(open_page, backend, name):
    request = REQUESTS[name]
    filled_in = submitted(open_page("prune", **form_address(request)), backend)
    if isinstance(request, RunSettings):
        assert set(filled_in.methods) == set(request.methods)
        filled_in = replace(filled_in, methods=request.methods)
    assert filled_in == request


@pytest.mark.parametrize("name", ["every field", "search"])
def test_a_link_forgets_what_was_in_the_form_before(open_page, backend, name):
    app = open_page("prune", **form_address(REQUESTS[name]))
    app.query_params.clear()
    app.switch_page("pages/runs.py").run()
    request = replace(SETTINGS, sparsities_permille=(200,))
    app.query_params.update(form_address(request))
    app.switch_page("pages/prune.py").run()
    assert submitted(app, backend) == request
    assert FRESH not in app.query_params


def test_more_than_can_go_is_refused_beside_the_shares(open_page, backend):
    backend.named = NamedModel(family="llama", shape=shipped_shape("smollm2-135m"))
    app = open_page("prune", goal=SWEEP, sparsity="60", budget="bytes")
    assert (
        "Sparsity must be at most 58 % of the file size" in words(app)
        and button(app, "Start").disabled
    )
    app.selectbox(key="chosen-budget").select("weights").run()
    assert (
        app.text_input(key="sparsity").value == "60"
        and app.query_params["budget"] == "weights"
    )
    assert not button(app, "Start").disabled


def test_the_chosen_method_stays_when_the_goal_changes(open_page, backend):
    app = open_page("prune", goal=SWEEP, method="flap", masks="wanda-2:4")
    for goal, kept in ((SEARCH, "flap"), (SWEEP, "flap"), (SEARCH, "flap")):
        group(app, "What to do").set_value(goal).run()
        if goal == SEARCH:
            assert (
                app.selectbox(key="with").value == kept
                and app.query_params["with"] == kept
            )
        else:
            assert group(app, "Method").value == [kept]
    app.selectbox(key="with").select("sleb").run()
    group(app, "What to do").set_value(SWEEP).run()
    assert submitted(app, backend).methods == (method_named("sleb"),)


def test_shares_that_are_not_of_the_chosen_budget_are_told(open_page):
    app = open_page(
        "prune",
        goal=SWEEP,
        method="best",
        layers="layers",
        masks=["sparsegpt", "wanda-2:4"],
    )
    assert "layers: shares of the layers." in words(app)
    assert "sparsegpt: shares of the decoder's weights." in words(app)
    assert "wanda-2:4: 50 %, which its pattern decides." in words(app).replace(
        "\u00a0", " "
    )
    assert "best: shares" not in words(app)


def test_prompts_that_are_kept_begin_the_next_form_and_one_that_is_too_long_is_refused(
    open_page, backend
):
    app = open_page("prune", goal=SWEEP)
    app.text_area(key="prompts").set_value("  Once  \n\nTwice").run()
    button(app, "Keep as my prompts").click().run()
    assert submitted(open_page("prune", goal=SWEEP), backend).prompts == (
        "Once",
        "Twice",
    )
    app.text_area(key="prompts").set_value("x" * 301).run()
    assert "1 to 300 characters" in words(app) and button(app, "Start").disabled


def test_the_address_has_no_room_for_two_custom_methods_or_widths_or_a_healed_method_alone():
    methods = [MethodSettings(damping=damping) for damping in (0.1, 0.2)]
    assert form_address(replace(SETTINGS, methods=tuple(methods))) is None
    assert (
        form_address(
            replace(SETTINGS, methods=(methods[0], MethodSettings(width_multiple=64)))
        )
        is None
    )
    assert form_address(replace(SETTINGS, heal_steps=(8,))) is None


@pytest.mark.parametrize("goal", [None, SEARCH])
def test_minutes_of_healing_become_steps_of_every_method_that_removes_channels(
    goal, open_page, backend, monkeypatch
):
    monkeypatch.setattr(backend, "healing_steps", lambda minutes, settings: 8 * minutes)
    address = {"goal": goal} if goal else {"masks": "wanda-2:4", "goal": SWEEP}
    app = open_page("prune", heal="6", **address)
    assert "48 steps of 2,048 tokens" in words(app)
    best = method_named("best")
    request = submitted(app, backend)
    if goal:
        assert (request.method, request.heal_steps) == (best, 48)
    else:
        assert request.methods == (best, method_named("wanda-2:4"))
        assert request.heal_steps == (0, 48)


def test_healing_that_is_not_possible_is_refused_under_its_field(
    open_page, backend, monkeypatch
):
    def unknown(minutes, settings):
        raise JobError("How long healing takes is not known yet.")

    monkeypatch.setattr(backend, "healing_steps", unknown)
    for odd in ("soon", "6 min 8 steps", "1441", "-6"):
        app = open_page("prune", heal=odd)
        assert (
            "up to 1,440 minutes, or steps" in words(app)
            and button(app, "Start").disabled
        )
    app = open_page("prune", goal=SWEEP, heal="6")
    assert "not known yet" in words(app) and button(app, "Start").disabled
    monkeypatch.setattr(backend, "healing_steps", lambda minutes, settings: 8 * minutes)
    for address, why in (
        ({"method": "", "masks": "wanda-2:4"}, "no method removes channels"),
        ({"goal": SEARCH, "with": "wanda"}, "no method removes channels"),
    ):
        app = open_page("prune", heal="6", **address)
        assert why in words(app) and button(app, "Start").disabled


def test_healing_of_experts_is_refused_before_the_machine_is_measured(
    open_page, backend, monkeypatch
):
    monkeypatch.setattr(
        backend, "healing_steps", lambda *_: pytest.fail("it was asked")
    )
    backend.named = MIXTURE
    for heal in ("6", "8 steps"):
        app = open_page("prune", heal=heal)
        assert "narrower experts cannot be healed here" in words(app)
        assert button(app, "Start").disabled


def test_quantised_models_are_counted_and_refused_with_the_reason(open_page, backend):
    app = open_page("prune", goal=SWEEP, quantise="Q6_K", sparsity="10,20")
    assert (
        "3 more models: dense and 2 sparse models, each in Q6_K. Widths are multiples of 256."
        in words(app)
    )
    app = open_page("prune", goal=SEARCH, quantise="Q6_K")
    more = "2 more models: dense and the answer, each in Q6_K. Widths are multiples of 256."
    assert more in words(app)
    app.selectbox(key="dtype").select("bfloat16").run()
    assert (
        "float32 where models are quantised" in words(app)
        and button(app, "Start").disabled
    )
    backend.named = NamedModel(family="phi3", shape=None)
    app.selectbox(key="model").set_value("facebook/opt-1.3b").run()
    assert group(
        app, "Quantised too"
    ).disabled and "none of phi3 can be made here" in words(app)
    assert not button(app, "Start").disabled


@pytest.mark.parametrize("odd", ["inf", "0.5"])
def test_a_tolerance_in_the_address_that_is_not_allowed_leaves_the_default(
    odd, open_page, backend
):
    assert (
        submitted(open_page("prune", goal=SEARCH, limits=odd), backend).tolerance.ratio
        == 1.1
    )


@pytest.mark.parametrize("value", ["1e999", "9" * 400, "nan", "\x00"])
def test_a_number_in_the_address_that_the_field_cannot_hold_leaves_its_own(
    value, open_page
):
    names = (
        "samples",
        "length",
        "seed",
        "passages",
        "shuffle",
        "width",
        "lot",
        "rounds",
        "damping",
    )
    defaults = {}
    for settings in (MethodSettings, CalibrationSettings, EvaluationSettings):
        for row in field_rows(settings).values():
            defaults[row.key] = row.default
    shown = open_page(
        "prune",
        goal=SWEEP,
        own="true",
        saliency="fisher",
        **dict.fromkeys(names, value),
    )
    assert {field.key: field.value for field in shown.number_input} == {
        field.key: defaults[field.key] for field in shown.number_input
    }
    shown.number_input(key="samples").set_value(64).run()
    assert (
        shown.number_input(key="samples").value == 64
        and not button(shown, "Start").disabled
    )


@pytest.mark.parametrize(("sparsity", "told"), [("0.5", True), ("0, 20", False)])
def test_less_than_one_percent_is_told_to_be_percent(sparsity, told, open_page):
    assert (
        "50 is half of them" in words(open_page("prune", goal=SWEEP, sparsity=sparsity))
    ) == told


@pytest.mark.parametrize(
    ("address", "key", "complaint"),
    [
        (
            {"sparsity": "10, abc"},
            "sparsity",
            "Sparsity must be 0–90 %, at most one decimal, not 'abc'.",
        ),
        (
            {"sparsity": "10 10"},
            "sparsity",
            "Sparsities must be all different, not '10, 10'.",
        ),
        (
            {"samples": "-5"},
            "samples",
            "Calibration samples must be a whole number from 1 to 100,000, not -5.",
        ),
        (
            {"own": "true", "damping": "11"},
            "damping",
            "Damping must be more than 0, at most 10, not 11.0.",
        ),
        ({"model": " "}, "model", "Choose a model."),
        (
            {"model": "/etc/hostname"},
            "model",
            "there is no model /etc/hostname on this machine",
        ),
        (
            {"text": "upload:theirs.txt@0123456789abcdef0123456789abcdef"},
            "text",
            "there is no file",
        ),
        (
            {"own": "true", "allocation": "global", "saliency": "obs"},
            "own",
            "uniform or curves",
        ),
        (
            {"own": "true", "pattern": "2:4", "compensation": "none", "goal": SEARCH},
            "with",
            "pattern",
        ),
    ],
)
def test_a_wrong_value_is_refused_under_its_field(address, key, complaint, open_page):
    app = open_page("prune", **address)
    assert words(app).count(complaint) == 1
    assert f".st-key-{key} " in markup(app)
    assert button(app, "Start").disabled


def test_a_click_together_with_a_refused_value_starts_nothing(open_page, backend):
    for key, value in (
        ("sparsity", "-10"),
        ("tolerance-ratio", 0.5),
        ("tolerance-points", -1.0),
    ):
        app = open_page("prune", goal=SWEEP if key == "sparsity" else SEARCH)
        (app.text_input if key == "sparsity" else app.number_input)(key=key).set_value(
            value
        )
        button(app, "Start").click().run()
        assert backend.submitted == [] and not app.exception
        assert " must be " in words(app) and button(app, "Start").disabled


def test_a_pasted_address_becomes_the_name_that_it_stands_for(open_page, backend):
    app = open_page("prune", goal=SWEEP, model=f"{ENDPOINT}/owner/name/tree/v1")
    assert (
        backend.asked_about[-1].model == "owner/name@v1"
        and not button(app, "Start").disabled
    )


def test_a_suggested_model_is_chosen_by_its_title(open_page):
    app = opened(open_page("prune", goal=SWEEP), "suggested")
    assert "LLaMA 7B" in group(app, "With published results").options
    group(app, "Current").set_value("Qwen/Qwen3-0.6B-Base").run()
    assert app.selectbox(key="model").value == "Qwen/Qwen3-0.6B-Base"
    assert "Qwen 3 0.6B: 2.4 GB in FP32" in words(app)


@pytest.mark.parametrize(
    ("field", "key"),
    [("evaluation text", "text"), ("model", "model"), ("calibration size", None)],
)
def test_a_problem_is_shown_under_its_field_or_else_at_the_button(
    open_page, backend, field, key
):
    problem = f"{field}: there is a problem."
    backend.before = replace(backend.before, problems=(problem,))
    backend.refused = {field: problem}
    app = open_page("prune", goal=SWEEP)
    drawn = re.sub(r"<style>.*?</style>", "", markup(app), flags=re.DOTALL)
    assert words(app).count(problem) == 1
    assert ("sd-field-error" in drawn) == bool(key)
    assert ("border-color: var(--broke) !important" in markup(app)) == bool(key)
    assert not key or f".st-key-{key} " in markup(app)
    assert button(app, "Start").disabled


LEAST = LeastMemory(
    n_bytes=2_340_000_000, beside_bytes=1_800_000_000, purpose="the backward pass"
)
BACKWARD = "Memory at least 2.3 GB, 1.8 GB of it for the backward pass"
NEEDED = DiskNeed(
    takes=RunDisk(stays_bytes=1_200_000_000, passing_bytes=640_000_000),
    free_bytes=500_000_000,
)


READ_BY_BLOCK = f"{BACKWARD}. The weights are streamed block by block: in memory they would take 9.0 GB."
LIKELY_OUT_OF_MEMORY = (
    "This machine has 1.0 GB of memory: the run is likely to run out of it."
)
BY_STAGE = Duration(seconds=245.0, parts=(("loading", 5.0), ("pruning", 240.0)))
SOME_KNOWN = "Time about 4 min, and pruning, which has not been measured here yet"
ESTIMATES = [
    ({}, "Memory about 1.2 GB Time about 4 min"),
    ({}, "Reused from earlier runs calibration, dense answers, 1 of 3 sparse models"),
    ({"duration": BY_STAGE}, "By stage loading 5 s, pruning 4 min"),
    ({"disk": NEEDED}, "Disk about 1.2 GB, and up to 640 MB more while it runs"),
    (
        {"disk": NEEDED},
        "The data folder's disk has 500 MB left: the run is likely to fill it.",
    ),
    (
        {"duration": Duration(unknown=("evaluating", "pruning"))},
        "no run like this has finished here yet",
    ),
    ({"duration": Duration(seconds=245.0, unknown=("pruning",))}, SOME_KNOWN),
    ({"memory": Memory()}, "Memory not known yet"),
    ({"memory": Memory(measured_bytes=10**9, least=LEAST, backward=True)}, BACKWARD),
    (
        {"memory": Memory(measured_bytes=3 * 10**9, least=LEAST, backward=True)},
        "Memory about 3.0 GB",
    ),
    (
        {"memory": Memory(measured_bytes=10**9, backward=True)},
        "Memory about 1.0 GB, and more for the backward pass",
    ),
    (
        {
            "memory": Memory(
                least=replace(LEAST, streamed=True), resident_bytes=9 * 10**9
            )
        },
        READ_BY_BLOCK,
    ),
    ({"memory": Memory(least=LEAST, there_bytes=10**9)}, LIKELY_OUT_OF_MEMORY),
]


@pytest.mark.parametrize(("known", "sentence"), ESTIMATES, ids=range(len(ESTIMATES)))
def test_the_estimate_shows_time_memory_disk_and_what_is_reused(
    open_page, backend, known, sentence
):
    backend.before = replace(backend.before, **known)
    assert sentence in words(open_page("prune", goal=SWEEP))


def test_a_stored_run_opens_at_once(open_page, backend):
    backend.before = replace(
        backend.before,
        stored=replace(backend.before.stored, points=(0, 1, 2)),
        disk=NEEDED,
    )
    shown = words(open_page("prune", goal=SWEEP))
    assert "seconds: all results are stored" in shown
    assert "Disk" not in shown and "disk has" not in shown


SIZES = {
    "Quick look": "builtin:cloze",
    "Decide": "builtin:cloze-402",
    "Paper": "lambada_openai",
}


def test_an_evaluation_size_fills_in_the_passages(open_page, backend):
    app = open_page("prune", goal=SWEEP)
    sure = app.radio(key="sure")
    assert list(sure.options) == list(SIZES) and sure.value == "Quick look"
    assert [plain(text) for text in sure.proto.captions] == [
        f"{n} passages, about 4 min" for n in ("132", "402", "5,151")
    ]
    assert (
        "132 passages show that about 1.47 × perplexity exceeds the limit of 1.10 ×"
        in words(app)
    )
    for size, text in SIZES.items():
        app.radio(key="sure").set_value(size).run()
        assert app.selectbox(key="text").value == text
        tasks = () if size == "Quick look" else DECIDING_TASKS
        assert backend.asked_about[-1].evaluation == EvaluationSettings(
            corpus=text, tasks=tasks
        )
    app.number_input(key="passages").set_value(500).run()
    assert app.radio(key="sure").value == "As chosen below"
    app.radio(key="sure").set_value("Decide").run()
    assert (
        app.selectbox(key="text").value,
        app.number_input(key="passages").value,
    ) == (
        "builtin:cloze-402",
        None,
    )


def test_tasks_that_a_visitor_chose_stay_when_the_size_changes(open_page):
    app = open_page(
        "prune", goal=SWEEP, text="builtin:cloze-402", tasks="builtin:copying"
    )
    assert app.multiselect(key="tasks").value == ["builtin:copying"]
    app.radio(key="sure").set_value("Quick look").run()
    assert app.multiselect(key="tasks").value == ["builtin:copying"]
    assert (
        open_page("prune", goal=SWEEP, text="builtin:cloze-402", tasks="")
        .multiselect(key="tasks")
        .value
        == []
    )


def test_a_text_that_is_out_of_reach_is_told_beside_its_field_and_its_size(
    open_page, backend
):
    backend.out_of_reach = ("lambada_openai",)
    app = open_page("prune", goal=SWEEP)
    assert "; the hub does not answer" in app.radio(key="sure").proto.captions[-1]
    assert "this text was never read here" not in words(app)
    app.radio(key="sure").set_value("Paper").run()
    assert "The hub does not answer, and this text was never read here." in words(app)


def test_a_search_has_the_same_sizes_and_a_budget(open_page):
    app = open_page("prune", goal=SEARCH, text="lambada_openai")
    assert app.radio(key="sure").value == "Paper"


def test_one_method_is_recommended_until_others_are_chosen(open_page):
    app = open_page("prune", goal=SWEEP)
    assert "Method: best (recommended)." in words(app)
    assert not app.session_state["methods"] and not app.session_state["more"]
    group(app, "Method").set_value(["least-squares", "random"]).run()
    assert "2 methods to compare: least-squares, random." in words(app)
    assert (
        "2 methods at 3 sparsities: 6 sparse models on one calibration, in one job."
        in words(app)
    )
    group(app, "Method").set_value([]).run()
    assert "No method is chosen. Choose at least one." in words(app)
    assert button(app, "Start").disabled


@pytest.mark.parametrize(
    ("address", "expander"),
    [
        ({"method": "least-squares"}, "methods"),
        ({"calibration": "no-such-text"}, "others"),
    ],
)
def test_an_expander_is_open_where_the_address_fills_in_its_fields(
    open_page, address, expander
):
    assert open_page("prune", **address).session_state[expander]


def test_an_expander_opens_where_a_field_in_it_is_refused(open_page):
    app = open_page("prune", goal=SWEEP)
    app.text_area(key="prompts").set_value("x" * 5000).run()
    assert app.session_state["others"] and "Prompts must be" in words(app)
    assert not app.session_state["methods"] and not app.session_state["more"]


LLAMA = NamedModel(family="llama", shape=shipped_shape("llama-7b"))


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (None, "Not on this machine yet"),
        (
            LLAMA,
            "Family: llama. 32 blocks of 11,008 channels, 6.7 billion weights, 27.0 GB in FP32.",
        ),
        (
            NamedModel(family="phi3", shape=None),
            "Family: phi3. Sizes, memory and time are known once",
        ),
    ],
)
def test_the_facts_of_a_model_are_shown_as_soon_as_it_is_named(
    named, said, open_page, backend
):
    backend.named = named
    assert said in words(open_page("prune", goal=SWEEP, model="some/model"))


_WIDE = replace(MIXTURE_SHAPE.structure.experts[1], n=128, width=768, n_chosen=8)
MIXTURE = NamedModel(
    family="qwen3_moe",
    shape=replace(
        MIXTURE_SHAPE,
        widths=(0, 0),
        n_parameters=30_500_000_000,
        per_expert=4_720_640,
        structure=ModelStructure(
            blocks="layers", mlps=(None, None), experts=(_WIDE, _WIDE)
        ),
    ),
)


@pytest.mark.parametrize("goal", [SEARCH, SWEEP])
def test_of_a_mixture_experts_are_removed_and_refitted_on_text_enough(
    goal, open_page, backend
):
    backend.named = MIXTURE
    app = open_page("prune", goal=goal)
    text = words(app)
    assert "2 blocks with 128 experts, 8 for each token, 30.5 billion weights" in text
    assert "29.4 billion of them active" in text
    assert "Method: experts (recommended)." in text
    assert "takes about 122,880 calibration tokens: 480 samples of up to 256." in text
    labels = [field.label for field in app.get("button_group")]
    assert "Method" not in labels, "without MLPs it has no channels"
    app.number_input(key="samples").set_value(100).run()
    assert "with 100 samples of up to 256 many of them will stay as they are" in words(
        app
    )
    request = submitted(app, backend)
    assert request.calibration.n_samples == 100
    assert (request.method if goal == SEARCH else request.methods[0]) == method_named(
        "experts"
    )


def test_the_recommended_method_follows_the_model_and_an_impossible_one_is_refused(
    open_page, backend
):
    app = open_page("prune", goal=SWEEP, model=LISTED)
    assert "Method: best (recommended)." in words(app)
    backend.named = MIXTURE
    app.run()
    assert "Method: experts (recommended)." in words(app)
    assert app.number_input(key="samples").value == 480
    backend.named = LLAMA
    app.run()
    assert "Method: best (recommended)." in words(app)
    assert "Methods that remove experts, or channels of them" not in [
        field.label for field in app.get("button_group")
    ]
    app = open_page("prune", goal=SWEEP, model=LISTED, experts="reap")
    assert "This model is no mixture of experts" in words(app)


@pytest.mark.parametrize(
    ("goal", "field", "named"),
    [
        (SEARCH, "with", "Method: expert-channels."),
        (SWEEP, "method", "Method: expert-channels."),
    ],
)
def test_best_of_an_address_means_channels_of_experts_where_a_model_has_no_others(
    goal, field, named, open_page, backend
):
    backend.named = MIXTURE
    app = open_page("prune", goal=goal, **{field: "best"})
    assert named in words(app)
    request = submitted(app, backend)
    methods = [request.method] if goal == SEARCH else list(request.methods)
    assert methods == [method_named("expert-channels")]


def test_beside_experts_the_form_says_that_methods_for_channels_leave_those_alone(
    open_page, backend
):
    hint = "narrow the MLPs beside this model's experts; the experts stay as they are."
    mlps = NamedModel(family="glm4_moe", shape=MIXTURE_SHAPE)
    for named, method, is_said in (
        (mlps, "best", True),
        (mlps, "experts", False),
        (MIXTURE, "best", False),
    ):
        backend.named = named
        app = open_page("prune", **{"goal": SEARCH, "with": method})
        assert (hint in words(app)) == is_said


def test_an_address_that_names_methods_of_one_field_names_all_of_them(
    open_page, backend
):
    backend.named = MIXTURE
    app = open_page("prune", goal=SWEEP, layers="layers")
    assert "Method: layers." in words(app)
    app.button_group(key="experts").set_value(["reap"]).run()
    assert "2 methods to compare: layers, reap." in words(app)


LISTED = "EleutherAI/gpt-j-6b"
"""A name that the select box of the test client knows."""


def test_a_model_that_is_not_here_is_looked_up_on_the_hub_on_demand(open_page, backend):
    app = open_page("prune", goal=SWEEP, model=LISTED)
    assert backend.looked_up == []
    backend.hub_says = ModelError(
        "There is no the model on the hub.", "Check the spelling."
    )
    button(app, "Look it up on the hub").click().run()
    for _ in range(2):
        assert (
            not app.toast
            and "There is no the model on the hub. Check the spelling." in words(app)
        )
        app.run()
    app.selectbox(key="model").set_value("facebook/opt-1.3b").run()
    assert "Check the spelling." not in words(app)
    app.selectbox(key="model").set_value(LISTED).run()
    backend.hub_says = None
    button(app, "Look it up on the hub").click().run()
    assert backend.looked_up[-1] == LISTED
    assert "Family: llama. 32 blocks" in words(app)
    assert "Look it up on the hub" not in [field.label for field in app.button]


def test_a_custom_method_races_with_the_presets_each_once(open_page, backend):
    app = open_page(
        "prune",
        goal=SWEEP,
        own="true",
        saliency="random",
        compensation="none",
        allocation="global",
    )
    assert "Name in charts: random + none + global" in words(app)
    methods = MethodSettings(
        saliency="random", compensation="none", allocation="global"
    )
    assert submitted(app, backend).methods == (method_named("best"), methods)
    again = submitted(
        open_page("prune", goal=SWEEP, own="true", method="least-squares"), backend
    )
    assert again.methods == (method_named("least-squares"),)


@pytest.mark.parametrize(
    ("choices", "shown", "hidden"),
    [
        (
            {"compensation": "sequential"},
            {"damping", "strength"},
            {"lot", "rounds", "curve_levels"},
        ),
        (
            {"compensation": "none", "saliency": "fisher"},
            {"rounds"},
            {"damping", "strength", "lot"},
        ),
        (
            {"allocation": "curves", "saliency": "random"},
            {"damping", "curve_levels", "lot"},
            {"strength"},
        ),
    ],
)
def test_a_custom_method_has_fields_for_the_parameters_of_its_choices(
    open_page, choices, shown, hidden
):
    keys = {
        field.key
        for field in open_page("prune", goal=SWEEP, own="true", **choices).number_input
    }
    assert shown <= keys and not hidden & keys


def test_masks_have_fields_of_their_own_that_say_what_they_do_not_save(
    open_page, backend
):
    app = open_page("prune", goal=SWEEP)
    channels = group(app, "Method")
    layers = group(app, "Methods that remove whole layers")
    masks = group(app, "Methods that set single weights to zero")
    assert {"least-squares", "flap"} <= set(channels.options) and {
        "layers",
        "sleb",
    } <= set(layers.options)
    experts = group(app, "Methods that remove experts, or channels of them")
    assert "reap" in experts.options
    offered = {*channels.options, *layers.options, *experts.options, *masks.options}
    assert len(offered) == len(METHODS)
    assert MASKS_SAVE_NOTHING in words(app)
    layers.set_value(["shortgpt"]).run()
    masks.set_value(["wanda-2:4"]).run()
    assert submitted(app, backend).methods == tuple(
        map(method_named, ("best", "shortgpt", "wanda-2:4"))
    )
    app = open_page("prune", goal=SWEEP, own="true", pattern="2:4", scope="decoder")
    assert MASKS_SAVE_NOTHING in words(
        app
    ) and "50 %, which its pattern decides." in words(app)


def test_the_estimate_says_when_the_machine_is_busy(open_page, backend):
    assert "busy" not in words(open_page("prune"))
    backend.busy = True
    assert "Machine busy now: it takes longer." in words(open_page("prune"))
