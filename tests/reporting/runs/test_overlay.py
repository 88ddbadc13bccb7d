"""Runs laid over each other: which are drawn, what their lines are called, and what is said of the others."""

from dataclasses import replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.reporting.run_list import MOST_LINES, overlay
from sparsedash.reporting.run_results import run_results
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings
from tests.ui import specimens
from tests.ui.fake_backend import FakeBackend

SETTINGS = specimens.SETTINGS
MAGNITUDE = method_named("magnitude")


@pytest.fixture
def backend():
    return FakeBackend()


def add(backend, name="", dense="dense", n=None, **changes):
    """The results of a run of its own; with the dense record of this key, and n of its passages."""
    settings = replace(SETTINGS, **changes)
    run, records = specimens.run(settings)
    number = len(backend.stored_runs)
    keys = [dense, *(f"{number}-{i}" for i in range(len(records) - 1))]
    renamed = [
        replace(record, key=key, model=settings.model, outcomes=record.outcomes[:n])
        for key, record in zip(keys, records, strict=True)
    ]
    run = replace(run, dense=dense, sparse=tuple(keys[1:]))
    backend.add_run((run, renamed))
    if name:
        backend.user_data.name_run(run.key, name)
    return run_results(backend, run, name=name)


def lines(found):
    return list(found.tradeoff(brief=False).lines)


def test_lines_are_called_by_what_tells_their_runs_apart(backend):
    one = add(backend)
    other = add(backend, calibration=CalibrationSettings(corpus="wikitext-2"))
    third = add(backend, model="owner/model", dense="another")
    assert lines(overlay([one, other])) == ["Written by the model itself, least-squares", "WikiText-2, least-squares"]
    assert lines(overlay([one, third])) == ["SmolLM2 135M, least-squares", "model, least-squares"]


def test_a_named_run_gives_its_line_its_name(backend):
    one = add(backend, "Mine")
    both = add(backend, "Two methods", methods=(SETTINGS.methods[0], MAGNITUDE))
    assert lines(overlay([one, both])) == ["Mine", "Two methods, least-squares", "Two methods, magnitude"]


def test_runs_that_differ_in_nothing_else_differ_in_how_much_goes(backend):
    one, other = add(backend), add(backend, sparsities_permille=(100, 400))
    assert lines(overlay([one, other])) == ["least-squares, 10, 20, 30\u00a0%", "least-squares, 10, 40\u00a0%"]


def test_long_names_are_letters_in_the_chart_and_are_told_below_it(backend):
    one = add(backend, calibration=CalibrationSettings(corpus="wikitext-2"))
    other = add(backend, "Short")
    found = overlay([one, other])
    assert list(found.tradeoff().lines) == ["WikiText-2, least-squares", "Short"]
    assert found.legend() == ""
    long = add(backend, "A name of nearly sixty characters, <b>as long as it may be</b>")
    found = overlay([one, long])
    assert list(found.tradeoff().lines) == ["A", "B"]
    assert "<b>■ B</b>A name of nearly sixty" in found.legend()
    assert "&lt;b&gt;" in found.legend() and "<b>as" not in found.legend()


def test_runs_over_other_passages_are_left_out_in_words(backend):
    one, other = add(backend), add(backend, sparsities_permille=(100,))
    fewer = add(backend, dense="fewer", n=60, evaluation=EvaluationSettings(n_passages=60))
    found = overlay([fewer, one, other])
    assert {strand.run.run.key for strand in found.strands} == {one.run.key, other.run.key}
    assert found.notes[0] == (
        "“SmolLM2 135M (built in) at 10, 20, 30\u00a0%” is not drawn: it answers other passages (60 of Cloze passages "
        "(built in)) than the runs in the chart (120 of Cloze passages (built in)), and what is lost on different "
        "passages cannot be compared."
    )
    assert [strand.run.run.key for strand in overlay([fewer, one]).strands] == [fewer.run.key], "the first one counts"


def test_the_share_of_right_words_is_drawn_only_where_the_runs_have_one_dense_model(backend):
    one, same = add(backend), add(backend, sparsities_permille=(100,))
    other = add(backend, model="owner/model", dense="another")
    assert overlay([one, same]).measures == ("word perplexity", "accuracy", "flips", "share right")
    assert overlay([one, other]).measures == ("word perplexity", "accuracy", "flips")
    assert overlay([one, other]).tradeoff().dense.facts == [
        "SmolLM2 135M (built in): 36 of 120 right",
        "owner/model: 36 of 120 right",
    ]


def test_too_many_lines_become_the_best_method_of_each_run(backend):
    methods = tuple(method_named(name) for name in ("least-squares", "magnitude", "flap", "wanda-channels", "random"))
    found = overlay([add(backend, dtype=dtype, methods=methods) for dtype in ("float32", "bfloat16")])
    assert len(found.strands) == 2
    assert f"more than {MOST_LINES} lines could not be told apart" in " ".join(found.notes)


def test_a_run_without_sparse_models_is_named_and_nothing_is_drawn_without_any(backend):
    run, (dense, *_) = specimens.run(replace(SETTINGS, dtype="bfloat16"), finished=False, n_sparse=0)
    backend.add_run((run, [dense]))
    empty, whole = run_results(backend, run), add(backend)
    assert overlay([empty]) is None
    assert overlay([empty, whole]).notes[0].endswith("has no sparse model yet.")


def test_every_drawn_model_leads_to_its_answers_and_stands_in_the_table(backend):
    one, other = add(backend), add(backend, sparsities_permille=(100,))
    found = overlay([one, other])
    assert found.comparisons()["1-0"] == {"run": other.run.key, "right": "10 %"}
    assert len(found.comparisons()) == 4
    assert found.numbers().html.count('scope="row"') == 4
    assert "not for those of all these runs" in found.notes[-1]
