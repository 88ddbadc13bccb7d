"""The chart's second question on the overview: what is won, what is not known, and the button that measures speed."""

import json
from dataclasses import replace

import pytest

from sparsedash.catalog.model_shape import ModelShape
from sparsedash.catalog.presets import method_named
from sparsedash.schema.pair_records import SpeedRatio, TimedPhase, Timing, TimingSettings
from tests.ui import specimens
from tests.ui.conftest import button, links, words
from tests.ui.fake_backend import job

# The built-in model's: 30 blocks, 576 wide, gate, up and down without biases, a head that shares the embedding.
SHAPE = ModelShape(
    family="llama",
    hidden=576,
    vocabulary=10,
    widths=specimens.DENSE_WIDTHS,
    per_channel=3 * 576,
    bias_per_channel=0,
    n_matmul=134_479_872,
    n_head=49_152 * 576,
    n_parameters=134_515_008,
    attention=576,
    keys=192,
    stored_bytes=4,
)


def asked(run, at):
    return TimingSettings(dense=run.dense, sparse=run.sparse[at])


def timing(settings, ratio):
    def phase(name, batch):
        interval = SpeedRatio(value=ratio, low=ratio - 0.02, high=ratio + 0.02)
        times = {"dense_s": (ratio,) * 3, "sparse_s": (1.0,) * 3, "dense_first": (True, False, True)}
        return TimedPhase(phase=name, batch=batch, ratio=interval, ceiling=1.3, **times)

    return Timing(
        key=settings.key(),
        dense=settings.dense,
        sparse=settings.sparse,
        machine="A processor",
        dtype="float32",
        n_threads=2,
        n_prompt=512,
        n_decode=16,
        phases=(phase("prefill", 1), phase("decode", 1)),
        dense_bytes=538_060_032,
        sparse_bytes=470_000_000,
        precise=True,
        started_at=1.0,
        versions={},
    )


@pytest.fixture
def run(backend):
    """A finished run at 10, 20 and 30 %, of a model whose sizes are known."""
    made, records = specimens.run()
    backend.add_run((made, records))
    backend.shapes[records[0].model_identity] = SHAPE
    return made


def chart(app):
    (drawn,) = app.get("plotly_chart")
    return json.loads(drawn.proto.spec)


def marks(figure):
    return [trace for trace in figure["data"] if trace.get("mode") == "markers+text"]


def test_sparsity_is_the_usual_question_and_another_one_is_in_the_address(open_page, run):
    app = open_page("overview")
    assert app.selectbox(key="chosen-against").value == "sparsity"
    app.selectbox(key="chosen-against").select("bytes").run()
    assert app.query_params["against"] == "bytes"
    assert chart(app)["layout"]["xaxis"]["title"]["text"] == "Size reduction (×)"


def test_an_axis_that_is_none_is_answered_in_words(open_page, run):
    assert "there is no such axis here" in words(open_page("overview", against="beauty"))


def test_bytes_are_exact_and_known_for_every_model(open_page, run):
    (sparse,) = marks(chart(open_page("overview", against="bytes")))
    # At 10 % 160 of 1,536 channels of each of 30 blocks are gone, each of 3 * 576 weights.
    gone = [30 * n * 3 * 576 for n in (160, 320, 448)]
    assert sparse["x"] == pytest.approx([134_515_008 / (134_515_008 - n) for n in gone])
    assert "was not timed" not in words(open_page("overview", against="bytes"))


def test_multiply_adds_count_attention_and_the_head_that_stay(open_page, run):
    (sparse,) = marks(chart(open_page("overview", against="multiply-adds")))
    whole = 512 * (134_479_872 - 49_152 * 576) + 49_152 * 576 + 2 * 576 * 512 * 513 // 2 * 30
    assert sparse["x"][0] == pytest.approx(whole / (whole - 512 * 30 * 160 * 3 * 576))


def test_speed_that_was_not_measured_is_not_guessed_but_offered(open_page, backend, run):
    app = open_page("overview", against="reading")
    assert not app.get("plotly_chart")
    assert "3 sparse models were not timed, so they are not shown" in words(app)
    button(app, "Measure speed of 3 models").click().run()
    assert backend.submitted == [asked(run, at) for at in range(3)]


def test_numbers_and_threads_are_chosen_and_kept_in_the_address(open_page, backend, run):
    app = open_page("overview", against="reading")
    app.selectbox(key="chosen-numbers").select("bfloat16").run()
    app.selectbox(key="chosen-threads").select("1").run()
    assert (app.query_params["numbers"], app.query_params["threads"]) == ("bfloat16", "1")
    button(app, "Measure speed of 3 models").click().run()
    assert backend.submitted == [replace(asked(run, at), dtype="bfloat16", n_threads=1) for at in range(3)]
    backend.stored_timings[asked(run, 1).key()] = timing(asked(run, 1), 1.15)
    assert "3 sparse models were not timed" in words(open_page("overview", against="reading", numbers="bfloat16"))


def test_the_memory_that_weights_took_is_shown_where_it_was_measured(open_page, backend, run):
    settings = asked(run, 1)
    measured = replace(timing(settings, 1.15), dense_resident=540_000_000, sparse_resident=470_000_000)
    backend.stored_timings[settings.key()] = measured
    said = words(open_page("overview", against="writing"))
    assert "weights in memory 540 MB 470 MB 1.15 × measured once" in said


def test_only_models_that_were_timed_stand_on_an_axis_of_speed(open_page, backend, run):
    settings = asked(run, 1)
    backend.stored_timings[settings.key()] = timing(settings, 1.15)
    app = open_page("overview", against="writing")
    (sparse,) = marks(chart(app))
    assert sparse["x"] == [1.15]
    assert sparse["error_x"]["array"] == pytest.approx([0.02])
    assert "2 sparse models were not timed" in words(app)
    assert "prefill, 1 × 512 tokens" in words(app) and "A processor, 2 threads, float32" in words(app)


def test_zeros_alone_are_explained_and_never_offered_to_be_timed(open_page, backend):
    settings = replace(specimens.SETTINGS, methods=(method_named("wanda"),), sparsities_permille=(100,))
    made, records = specimens.run()
    masked = replace(records[1].pruned, method=method_named("wanda"), widths=specimens.DENSE_WIDTHS)
    backend.add_run(
        (replace(made, settings=settings, sparse=made.sparse[:1]), [records[0], replace(records[1], pruned=masked)])
    )
    app = open_page("overview", against="reading")
    assert "no speed-up is expected" in words(app)
    assert not [b for b in app.button if b.label.startswith("Measure speed")]


def test_a_model_whose_sizes_are_not_known_is_counted_as_missing(open_page, backend, run):
    backend.shapes.clear()
    assert "3 sparse models cannot be shown" in words(open_page("overview", against="bytes"))


def test_a_measurement_that_runs_is_shown_in_place_of_the_button(open_page, backend, run):
    settings = asked(run, 0)
    backend.stored_jobs = [job(settings, key=settings.key(), stage="time", message="reading, 1 at once, round 3")]
    app = open_page("overview", against="reading")
    assert "Timing both models in turn" in words(app)
    assert not [b for b in app.button if b.label.startswith("Measure speed")]


def test_a_finished_measurement_leads_from_the_jobs_to_its_axis(open_page, backend, run):
    settings = asked(run, 0)
    backend.stored_jobs = [job(settings, "done", key=settings.key())]
    app = open_page("jobs")
    assert "Speed of a sparse model" in words(app)
    assert "See what it wins" in links(app)
