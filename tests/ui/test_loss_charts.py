"""The overview's chart of loss against size and speed, what it leaves out, and the button that
measures speed.
"""

import json
from dataclasses import replace

import pytest

from sparsedash.catalog.model_sizes import shipped_shape
from sparsedash.catalog.presets import method_named
from sparsedash.reporting.charts.chart_style import PALETTES
from sparsedash.schema.pair_records import SpeedRatio, TimedPhase, TimingSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.store_keys import model_shape_note
from tests.service.made import TIMING
from tests.ui import specimens
from tests.ui.conftest import button, links, query_of, words
from tests.ui.filled_backend import job

# The built-in model's: 30 blocks, 576 wide, gate, up and down without biases, a head that shares
# the embedding.
SHAPE = replace(
    shipped_shape("smollm2-135m"),
    vocabulary=10,
    other_parameters=(0,) * 30,
    stored_bytes=4,
)


def asked(run, at):
    return TimingSettings(dense=run.dense, sparse=run.sparse[at])


def timing(settings, ratio):
    def phase(name, batch):
        interval = SpeedRatio(value=ratio, low=ratio - 0.02, high=ratio + 0.02)
        times = {
            "dense_s": (ratio,) * 3,
            "sparse_s": (1.0,) * 3,
            "dense_first": (True, False, True),
        }
        return TimedPhase(
            phase=name,
            batch=batch,
            ratio=interval,
            ceiling=1.3,
            **times,
        )

    phases = (phase("prefill", 1), phase("decode", 1))
    return replace(
        TIMING,
        key=settings.key(),
        dense=settings.dense,
        sparse=settings.sparse,
        phases=phases,
    )


@pytest.fixture
def run(backend):
    """A finished run at 10, 20 and 30 %, of a model whose sizes are known."""
    run, records = specimens.run()
    backend.add_run((run, records))
    backend._store.remember(model_shape_note(records[0].model_identity), SHAPE.plain())
    return run


def chart(app):
    (drawn,) = app.get("plotly_chart")
    return json.loads(drawn.proto.spec)


def marks(figure):
    return [
        trace
        for trace in figure["data"]
        if trace.get("mode") == "markers" and trace["name"] != "dense"
    ]


def offered(app):
    return [
        widget.label
        for widget in app.button
        if widget.label.startswith("Measure speed")
    ]


def test_sparsity_is_the_usual_axis_and_another_one_is_in_the_address(open_page, run):
    app = open_page("overview", against="beauty")
    assert "is no axis here" in words(app)
    assert app.selectbox(key="chosen-against").value == "sparsity"
    app.selectbox(key="chosen-against").select("bytes").run()
    assert app.query_params["against"] == "bytes"
    (sparse,) = marks(chart(app))
    # At 10 % 160 of 1,536 channels of each of 30 blocks are gone, each of 3 * 576 weights.
    gone = [30 * n * 3 * 576 for n in (160, 320, 448)]
    assert sparse["x"] == pytest.approx([134_515_008 / (134_515_008 - n) for n in gone])
    assert "speed was not measured" not in words(app)


def test_the_sparsity_axis_can_be_the_share_of_any_budget(open_page, run):
    app = open_page("overview")
    app.selectbox(key="chosen-share").select("weights").run()
    (sparse,) = marks(chart(app))
    assert sparse["x"] == pytest.approx([75 * n / 1536 for n in (160, 320, 448)])
    assert chart(app)["layout"]["xaxis"]["title"]["text"] == "Blocks' weights removed"


def test_a_caption_says_what_the_signs_are_and_the_rest_is_behind_a_question_mark(
    open_page, run
):
    app = open_page("overview")
    assert "Here: ✓ within, ✕ beyond, ? undecided." in words(app)
    popovers = {drawn.proto.popover.label: drawn for drawn in app.get("popover")}
    help_ = popovers["How to read this chart: word perplexity"]
    assert "1.25 × means that" in words(
        help_
    ) and "Bars: confidence intervals" in words(help_)
    assert not [box for box in app.selectbox if box.label == "Highlight"], (
        "a single line needs none"
    )


def test_signs_and_bars_of_accuracy_are_explained_where_it_is_judged(open_page, run):
    app = open_page("overview", measure="accuracy")
    assert "Here: ✓ within, ✕ beyond, ? undecided." in words(app)
    popovers = {drawn.proto.popover.label: drawn for drawn in app.get("popover")}
    help_ = popovers["How to read this chart: accuracy"]
    assert "Bars: confidence intervals behind the verdict." in words(help_)


def test_one_of_many_lines_can_be_highlighted_and_the_address_keeps_it(
    open_page, backend
):
    methods = tuple(map(method_named, ("best", "flap", "magnitude")))
    run = backend.add_run(specimens.run(replace(specimens.SETTINGS, methods=methods)))
    app = open_page("overview", run=run.key)
    app.selectbox(key="chosen-highlight").select("flap").run()
    assert app.query_params["highlight"] == "flap"
    inks = {trace["marker"]["color"] for trace in marks(chart(app))}
    assert len(inks) == 2 and PALETTES["light"].faded in inks


def test_speed_that_was_not_measured_is_offered_with_number_format_and_threads(
    open_page, backend, run
):
    app = open_page("overview", against="reading")
    assert not app.get(
        "plotly_chart"
    ) and "3 sparse models not shown: the speed was not measured" in words(app)
    app.selectbox(key="chosen-numbers").select("bfloat16").run()
    app.selectbox(key="chosen-threads").select("1").run()
    assert (app.query_params["numbers"], app.query_params["threads"]) == (
        "bfloat16",
        "1",
    )
    button(app, "Measure speed of 3 models").click().run()
    assert backend.submitted == [
        replace(asked(run, place), dtype="bfloat16", n_threads=1) for place in range(3)
    ]
    assert "Waiting" in words(app) and not offered(app)
    backend.set_jobs()
    backend.put(timing(asked(run, 1), 1.15))
    assert "3 sparse models not shown" in words(
        open_page("overview", against="reading", numbers="bfloat16")
    )


def test_models_are_timed_in_llama_cpp_where_it_and_their_files_are(
    open_page, backend, run, monkeypatch
):
    monkeypatch.setattr(
        "sparsedash.ui.loss_charts.llama_cpp_problem", lambda *model: ""
    )
    app = open_page("overview", against="reading", numbers="bfloat16")
    app.selectbox(key="chosen-runtime").select("llama.cpp").run()
    assert app.query_params["runtime"] == "llama.cpp"
    assert app.selectbox(key="chosen-numbers").options == ["Of the files; dense in F16"]
    button(app, "Measure speed of 3 models").click().run()
    request = replace(asked(run, 1), runtime="llama.cpp")
    assert backend.submitted[1] == request
    versions = {"llama-cpp-py-sync": "1.0"}
    backend.set_jobs(job(request, "done"))
    backend.put(
        replace(
            timing(request, 1.15),
            runtime="llama.cpp",
            weights="F16",
            versions=versions,
        )
    )
    assert (
        query_of(links(open_page("runs", view="jobs"))["See the speed-up"])["runtime"]
        == "llama.cpp"
    )
    app = open_page("overview", against="reading", runtime="llama.cpp")
    assert marks(chart(app))[0]["x"] == [
        1.15
    ] and "llama.cpp (binding 1.0), F16 versus dense in F16" in words(app)
    assert "drifts on a shared machine" not in words(app)
    backend.put(
        replace(
            timing(request, 1.15),
            runtime="llama.cpp",
            weights="Q8_0",
            versions=versions,
        )
    )
    assert "drifts on a shared machine" in words(
        open_page("overview", against="reading", runtime="llama.cpp")
    )
    monkeypatch.setattr(
        "sparsedash.ui.loss_charts.llama_cpp_problem", lambda *model: "no file"
    )
    app = open_page("overview", against="reading", runtime="llama.cpp")
    assert app.selectbox(key="chosen-runtime").options == [
        "torch"
    ] and "Not in llama.cpp: no file." in words(app)


def test_only_models_that_were_timed_stand_on_an_axis_of_speed_with_their_conditions(
    open_page, backend, run
):
    measured = replace(
        timing(asked(run, 1), 1.15),
        dense_resident=540_000_000,
        sparse_resident=470_000_000,
    )
    backend.put(measured)
    app = open_page("overview", against="writing")
    (sparse,) = marks(chart(app))
    assert sparse["x"] == [1.15] and sparse["error_x"]["array"] == pytest.approx([0.02])
    text = words(app)
    assert (
        "2 sparse models not shown" in text
        and "weights in memory 540 MB 470 MB 1.15 × measured once" in text
    )
    assert (
        "prefill, 1 × 128 tokens" in text and "a mainframe, 2 threads, float32" in text
    )


def test_zeros_alone_are_explained_and_never_offered_to_be_timed(open_page, backend):
    method = method_named("wanda")
    settings = replace(
        specimens.SETTINGS,
        methods=(method,),
        sparsities_permille=(100,),
    )
    run, (dense, sparse, *_) = specimens.run()
    spec = SparseSpec(method, 100)
    pruned = replace(sparse.pruned, spec=spec, widths=specimens.DENSE_WIDTHS)
    masked = replace(sparse, pruned=pruned)
    backend.add_run(
        (
            replace(
                run,
                settings=settings,
                sparse=run.sparse[:1],
            ),
            [dense, masked],
        )
    )
    app = open_page("overview", against="reading")
    assert "give no speed-up" in words(app) and not offered(app)


def test_a_model_whose_sizes_are_not_known_is_counted_as_missing(open_page, backend):
    run, records = specimens.run(replace(specimens.SETTINGS, model="owner/other"))
    backend.add_run((run, [replace(record, model="owner/other") for record in records]))
    assert "3 sparse models not shown: the layer sizes" in words(
        open_page("overview", against="bytes")
    )


def test_a_measurement_is_shown_in_place_of_the_button_and_leads_to_its_axis(
    open_page, backend, run
):
    backend.set_jobs(
        job(
            asked(run, 0),
            stage="time",
            message="reading, 1 at once, round 3",
        )
    )
    app = open_page("overview", against="reading")
    assert "Timing both models in turn" in words(app) and not offered(app)
    backend.set_jobs(job(asked(run, 0), "done"))
    app = open_page("runs", view="jobs")
    assert "Speed of a sparse model: 10 % of SmolLM2 135M (built in)" in words(app)
    assert query_of(links(app)["See the speed-up"]) == {
        "run": run.key,
        "against": "reading",
    }
