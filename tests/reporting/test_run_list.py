"""All runs: rows, order, filter, sentence, deletion, and several runs in one chart."""

from dataclasses import replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.reporting import run_list
from sparsedash.reporting.run_list import (
    MOST_LINES,
    newest_jobs,
    overlay,
    row_sparsity,
    row_state,
    run_deletion_question,
    run_deletion_report,
)
from sparsedash.reporting.run_results import run_results
from sparsedash.schema.pair_records import RunMark
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings
from sparsedash.service.deletion import Cleanup
from sparsedash.stats.tolerance import Tolerance
from tests.factories import RUN
from tests.ui import specimens
from tests.ui.fake_backend import FakeBackend, job

SETTINGS = specimens.SETTINGS
MAGNITUDE = method_named("magnitude")
WIKITEXT = CalibrationSettings(corpus="wikitext-2")
LIMITS = "1.1 × word perplexity and 2 points of accuracy"
GENEROUS, LAX, USUAL = Tolerance(ratio=1000.0, points=100.0), Tolerance(ratio=1000.0), Tolerance()
TITLE, SEARCH = "SmolLM2 135M (built in) at 10, 20, 30\u00a0%", "How much of SmolLM2 135M (built in) can go"
TITLES = {"r": "Mine", "s": "Another"}


@pytest.fixture
def backend():
    return FakeBackend()


def rows(backend, tolerance=USUAL):
    return run_list.all_rows(backend, tolerance)


def add(backend, at=1_764_000_000.0, **changes):
    """A finished run, started at that time; further changes are of its settings."""
    run, records = specimens.run(replace(SETTINGS, **changes))
    return backend.add_run((replace(run, started_at=at, finished_at=at + 300), records))


def test_a_row_says_the_verdict_and_the_loss_of_the_model_that_the_run_s_answer_names(backend):
    add(backend)
    (usual,), (generous,) = rows(backend), rows(backend, GENEROUS)
    assert run_list.row_verdict(usual) == ("? undecided", "at 10\u00a0%")
    assert run_list.row_verdict(generous) == ("✓ within", "at 30\u00a0%")
    factor, interval, points = run_list.row_loss(generous)
    low, high = interval.split(" to ")
    assert factor == "0.97 ×" and float(low) < 0.97 < float(high) and points.endswith(" points")


def test_of_several_methods_the_verdict_says_which_one_it_is_of(backend):
    add(backend, methods=(SETTINGS.methods[0], MAGNITUDE))
    (row,) = rows(backend, GENEROUS)
    assert run_list.row_verdict(row)[1].startswith("at 30\u00a0% with ")


def test_sparsities_are_named_one_by_one_while_they_are_few_and_a_search_counts_its_trials(backend):
    for sparsities in ((100, 200, 300), (500, 100, 200, 300), (125,)):
        add(backend, sparsities_permille=sparsities)
    found = {row_sparsity(row) for row in rows(backend)}
    assert found == {("10, 20, 30\u00a0%", ""), ("10 to 50\u00a0%", "4 steps"), ("12.5\u00a0%", "")}
    backend.stored_runs.clear()
    backend.add_search(specimens.search())
    (row,) = rows(backend)
    assert row.title == SEARCH and row_sparsity(row)[0] == "a search" and row_sparsity(row)[1].endswith("trials")


def test_a_run_under_way_is_a_row_with_what_there_is_or_before_it_has_a_result(backend):
    backend.add_run(specimens.run(finished=False, n_sparse=1))
    backend.stored_jobs = [job(SETTINGS)]
    (row,) = rows(backend)
    assert row.live and row_state(row) == ("▶ running", "1 of 3 models")
    assert run_list.row_verdict(row)[1] == "at 10\u00a0%" and run_list.row_start_and_duration(row, None)[1] == ""
    backend.stored_runs.clear()
    backend.stored_jobs = [job(SETTINGS, "queued"), job(specimens.search()[0].find, "queued", id=2)]
    assert {row.title: row_state(row) for row in rows(backend)} == dict.fromkeys((TITLE, SEARCH), ("◷ waiting", ""))


@pytest.mark.parametrize(
    ("ended", "said"),
    [("failed", "✕ failed"), ("crashed", "✕ interrupted"), ("cancelled", "⊘ stopped"), (None, "⊘ not finished")],
)
def test_a_run_that_ended_early_says_how(ended, said, backend):
    backend.add_run(specimens.run(finished=False, n_sparse=1))
    backend.stored_jobs = [job(SETTINGS, ended)] if ended else []
    (row,) = rows(backend)
    assert row_state(row) == (said, "1 of 3 models")


def test_jobs_that_left_nothing_and_jobs_of_other_versions_are_no_rows(backend):
    backend.stored_jobs = [job(SETTINGS, "failed"), replace(job(SETTINGS, "queued"), settings={"model": 3})]
    assert rows(backend) == []


def test_of_a_run_s_jobs_the_live_one_counts():
    older, newer = job(SETTINGS, id=1), job(SETTINGS, "failed", id=2)
    assert newest_jobs([newer, older])[SETTINGS.key()] is older
    assert newest_jobs([replace(newer, id=3), newer])[SETTINGS.key()].id == 3


def test_answers_that_are_still_to_be_read_are_said_so(backend, monkeypatch):
    add(backend)
    monkeypatch.setattr(type(backend.costs), "verdicts", lambda *_: {})
    (row,) = rows(backend)
    assert (row.known, run_list.row_verdict(row)) == (False, ("…", "being read"))
    assert run_list.row_loss(row) == ("", "", "")


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("newest", [1, 2, 3]),
        ("oldest", [3, 2, 1]),
        ("model", [2, 1, 3]),
        ("removed", [3, 2, 1]),
        # All are within: the most comes first.
        ("verdict", [3, 2, 1]),
        # With made-up answers the one with most removed has lost least.
        ("cost", [3, 1, 2]),
        # What ties stays as it was.
        ("longest", [1, 2, 3]),
        ("method", [1, 2, 3]),
        ("nonsense", [1, 2, 3]),
    ],
)
def test_rows_are_sorted_and_pinned_ones_come_first(order, expected, backend):
    runs = [
        add(backend, at=3e5, sparsities_permille=(100,), model="b/model"),
        add(backend, at=2e5, sparsities_permille=(100, 200), model="a/model"),
        add(backend, at=1e5, sparsities_permille=(100, 300), model="c/model"),
    ]
    place = {run.key: i for i, run in enumerate(runs, 1)}
    assert [place[row.key] for row in run_list.sort_rows(rows(backend, GENEROUS), order)] == expected
    backend.user_data.pin_runs([runs[expected[-1] - 1].key], pinned=True)
    assert place[run_list.sort_rows(rows(backend, GENEROUS), order)[0].key] == expected[-1]


def test_every_word_that_is_looked_for_must_be_there_whatever_its_case(backend):
    named = add(backend, model="a/model")
    add(backend, model="b/model", calibration=WIKITEXT)
    backend.user_data.name_run(named.key, "For the Talk")
    found = rows(backend)
    expected = {
        ("TALK a/model", ""): ["For the Talk"],
        ("wikitext", ""): ["b/model at 10, 20, 30\u00a0%"],
        ("talk wikitext", ""): [],
        ("", "a/model"): ["For the Talk"],
        (named.key[:20], ""): ["For the Talk"],
    }
    assert {asked: [row.title for row in run_list.rows_matching(found, *asked)] for asked in expected} == expected
    assert len(run_list.rows_matching(found, " ", "")) == 2
    assert run_list.model_titles([*found, *found]) == {"a/model": "a/model", "b/model": "b/model"}


def test_the_sentence_counts_the_runs_with_a_model_within(backend):
    most = f"model within the limits, {LIMITS}"
    backend.stored_jobs = [job(SETTINGS)]
    assert run_list.runs_sentence(rows(backend), USUAL) == "1 run under way, no result yet."
    backend.add_run(specimens.run(finished=False, n_sparse=0))
    backend.stored_jobs = []
    assert run_list.runs_sentence(rows(backend), USUAL) == "No run has a sparse model that was judged."
    backend.stored_runs.clear()
    add(backend)
    assert run_list.runs_sentence(rows(backend), USUAL) == f"The one run with a result has no {most}; it is undecided."
    add(backend, sparsities_permille=(100,))
    assert run_list.runs_sentence(rows(backend), USUAL) == f"None of 2 runs has a {most}; 2 are undecided."
    said = run_list.runs_sentence(rows(backend, GENEROUS), GENEROUS)
    assert said.startswith("2 of 2 runs have a model within the limits, 1000 ×")
    by_one = run_list.runs_sentence(rows(backend, LAX), LAX)
    assert by_one.endswith("1000 × word perplexity and 2 points of accuracy, 2 of them by word perplexity alone.")


def test_a_named_row_says_its_model_below_and_the_downloaded_table_has_every_cell(backend):
    run = add(backend)
    (row,) = rows(backend)
    below = run_list.row_texts(row)
    assert below.startswith("calibrated on ") and below.endswith("tested on all of Cloze passages · float32")
    named = replace(row, mark=RunMark(name="Mine"))
    assert named.title == "Mine" and run.key.startswith(row.address)
    assert run_list.row_texts(named).startswith("SmolLM2 135M (built in) · calibrated on ")
    table = run_list.runs_table([named], None)
    cells = dict(zip(table.head, *table.rows, strict=True))
    assert (cells["Run"], cells["Verdict"], cells["On the model"]) == ("Mine", "? undecided", "at 10\u00a0%")
    assert cells["Method"] == "least-squares" and cells["Removed"] == "10, 20, 30\u00a0%"
    assert cells["Took"] == "5\u00a0min"


def test_chosen_runs_that_the_list_does_not_show_are_counted(backend):
    add(backend)
    (row,) = rows(backend)
    assert run_list.hidden_selection_note([row.key], [row]) == ""
    assert run_list.hidden_selection_note([row.key], []) == "1 of them is not in this list"
    assert run_list.hidden_selection_note([row.key, "k"], []) == "2 of them are not in this list"


def removal(**changes):
    usual = {"runs": (RUN,), "refused": {}, "entries": frozenset(["record/a", "record/b"]), "n_shared": 0}
    return Cleanup(**{**usual, "n_named": 0, "items": (), "stays": (), "n_bytes": 0, **changes})


@pytest.mark.parametrize(
    ("changes", "question", "report"),
    [
        (
            {},
            ["Delete “Mine”, with the answers of 2 models? It cannot be undone."],
            "Mine was deleted, with the answers of 2 models.",
        ),
        (
            {"runs": (RUN, RUN), "entries": frozenset(["record/a"])},
            ["Delete 2 runs, with the answers of 1 model? It cannot be undone."],
            "2 runs were deleted, with the answers of 1 model.",
        ),
        (
            {"n_shared": 1, "refused": {"s": "it is under way"}},
            [
                "Delete “Mine”, with the answers of 2 models? It cannot be undone.",
                "The answers of 1 model stay: other runs use them.",
                "“Another” stays: it is under way.",
            ],
            "Mine was deleted, with the answers of 2 models. “Another” stays: it is under way.",
        ),
        (
            {"runs": (), "entries": frozenset(), "refused": {"s": "it is under way"}},
            ["“Another” stays: it is under way."],
            "Nothing was deleted. “Another” stays: it is under way.",
        ),
    ],
    ids=["one", "several", "shared", "refused"],
)
def test_deletion_says_before_and_after_what_goes_and_what_stays(changes, question, report):
    assert run_deletion_question(removal(**changes), TITLES) == question
    assert run_deletion_report(removal(**changes), TITLES) == report


def overlaid_run(backend, name="", dense="dense", n=None, **changes):
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
    return run_results(backend, run, name=name)


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        ([{}, {"calibration": WIKITEXT}], ["Written by the model itself, least-squares", "WikiText-2, least-squares"]),
        ([{}, {"model": "owner/model", "dense": "d"}], ["SmolLM2 135M, least-squares", "model, least-squares"]),
        (
            [{"name": "Mine"}, {"name": "Two", "methods": (SETTINGS.methods[0], MAGNITUDE)}],
            ["Mine", "Two, least-squares", "Two, magnitude"],
        ),
        (
            [{}, {"sparsities_permille": (100, 400)}],
            ["least-squares, 10, 20, 30\u00a0%", "least-squares, 10, 40\u00a0%"],
        ),
    ],
    ids=["calibration", "model", "names", "sparsities"],
)
def test_lines_are_called_by_what_tells_their_runs_apart(runs, labels, backend):
    found = overlay([overlaid_run(backend, **changes) for changes in runs])
    assert list(found.tradeoff(brief=False).lines) == labels


def test_long_names_are_letters_in_the_chart_and_are_told_below_it(backend):
    one, other = overlaid_run(backend, calibration=WIKITEXT), overlaid_run(backend, "Short")
    found = overlay([one, other])
    assert list(found.tradeoff().lines) == ["WikiText-2, least-squares", "Short"] and found.legend() == ""
    long = overlaid_run(backend, "A name of nearly sixty characters, <b>as long as it may be</b>")
    found = overlay([one, long])
    assert list(found.tradeoff().lines) == ["A", "B"]
    assert "<b>■ B</b>A name of nearly sixty" in found.legend()
    assert "&lt;b&gt;" in found.legend() and "<b>as" not in found.legend()


def test_runs_over_other_passages_and_without_sparse_models_are_left_out_in_words(backend):
    one, other = overlaid_run(backend), overlaid_run(backend, sparsities_permille=(100,))
    fewer = overlaid_run(backend, dense="fewer", n=60, evaluation=EvaluationSettings(n_passages=60))
    found = overlay([fewer, one, other])
    assert {line.run.run.key for line in found.lines} == {one.run.key, other.run.key}
    assert found.notes[0] == (
        f"“{TITLE}” is not drawn: it answers other passages (60 of Cloze passages (built in)) than the runs in the "
        "chart (120 of Cloze passages (built in)), and losses on different passages cannot be compared."
    )
    assert [line.run.run.key for line in overlay([fewer, one]).lines] == [fewer.run.key], "the first one counts"
    run, (dense, *_) = specimens.run(replace(SETTINGS, dtype="bfloat16"), finished=False, n_sparse=0)
    backend.add_run((run, [dense]))
    empty = run_results(backend, run)
    assert overlay([empty]) is None
    assert overlay([empty, one]).notes[0].endswith("has no sparse model yet.")


def test_the_share_of_right_words_is_drawn_only_where_the_runs_have_one_dense_model(backend):
    one, same = overlaid_run(backend), overlaid_run(backend, sparsities_permille=(100,))
    other = overlaid_run(backend, model="owner/model", dense="another")
    assert overlay([one, same]).measures == ("word perplexity", "accuracy", "flips", "share right")
    assert overlay([one, other]).measures == ("word perplexity", "accuracy", "flips")
    assert overlay([one, other]).tradeoff().dense.facts == [
        "SmolLM2 135M (built in): 36 of 120 right",
        "owner/model: 36 of 120 right",
    ]


def test_too_many_lines_become_the_best_method_of_each_run(backend):
    methods = tuple(method_named(name) for name in ("least-squares", "magnitude", "flap", "wanda-channels", "random"))
    found = overlay([overlaid_run(backend, dtype=dtype, methods=methods) for dtype in ("float32", "bfloat16")])
    assert len(found.lines) == 2
    assert f"more than {MOST_LINES} lines could not be told apart" in " ".join(found.notes)


def test_every_drawn_model_leads_to_its_answers_and_stands_in_the_table(backend):
    one, other = overlaid_run(backend), overlaid_run(backend, sparsities_permille=(100,))
    found = overlay([one, other])
    assert found.comparisons()["1-0"] == {"run": other.run.key, "right": "10 %"}
    assert len(found.comparisons()) == 4 == found.numbers().html.count('scope="row"')
    assert "not for those of all these runs" in found.notes[-1]
