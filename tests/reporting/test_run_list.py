"""All runs: rows, order, filter, sentence, and several runs in one chart."""

from dataclasses import replace

import pytest

from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.reporting import run_list
from sparsedash.reporting.run_list import MAX_LINES, newest_jobs, overlay
from sparsedash.reporting.run_results import RunResults
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.schema.user_records import RunMark
from tests.reporting.held_results import results_of
from tests.ui import specimens
from tests.ui.filled_backend import job

SETTINGS = specimens.SETTINGS
MAGNITUDE = method_named("magnitude")
WIKITEXT = CalibrationSettings(corpus="wikitext-2")
LIMITS = "perplexity 1.10 ×, accuracy −2 points"
GENEROUS = Tolerance(ratio=1000.0, points=100.0)
LAX = Tolerance(ratio=1000.0)
USUAL = Tolerance()
NAME = "least-squares 10, 20, 30\u00a0% on Cloze passages"
TITLE = f"SmolLM2 135M, {NAME}"
SEARCH = "SmolLM2 135M, least-squares, a search on Cloze passages"


def rows(backend, tolerance=USUAL):
    return run_list.all_rows(backend, tolerance)


def add(backend, at=1_764_000_000.0, **changes):
    """A finished run, started at that time; further changes are of its settings."""
    run, records = specimens.run(replace(SETTINGS, **changes))
    return backend.add_run((replace(run, started_at=at, finished_at=at + 300), records))


def said(row):
    """The lines of each cell, by its column."""
    return row.cells(None)


def test_a_row_says_the_verdict_and_the_loss_of_the_model_that_the_run_s_answer_names(
    backend,
):
    add(backend)
    (usual,) = rows(backend)
    (generous,) = rows(backend, GENEROUS)
    assert said(usual)["Verdict"] == ("? undecided", "at 10\u00a0%", "", "")
    assert said(generous)["Verdict"] == ("✓ within", "at 30\u00a0%", "", "")
    factor, interval, points = said(generous)["Cost"]
    low, high = interval.split(" to ")
    assert (
        factor == "0.97 ×"
        and float(low) < 0.97 < float(high)
        and points.endswith(" points")
    )
    assert said(usual)["Started"][1] == "5\u00a0min"
    add(
        backend,
        at=1_764_000_001.0,
        methods=(SETTINGS.methods[0], MAGNITUDE),
    )
    assert said(rows(backend, GENEROUS)[0])["Verdict"][1].startswith(
        "at 30\u00a0% with "
    )


def test_sparsities_are_named_one_by_one_while_they_are_few_and_a_search_counts_its_trials(
    backend,
):
    for sparsities in ((100, 200, 300), (500, 100, 200, 300), (125,)):
        add(backend, sparsities_permille=sparsities)
    results = {said(row)["Removed"] for row in rows(backend)}
    assert results == {
        ("10, 20, 30\u00a0%", ""),
        ("10 to 50\u00a0%", "4 steps"),
        ("12.5\u00a0%", ""),
    }
    backend.add_run(specimens.search())
    row = next(row for row in rows(backend) if row.search)
    kind, trials = said(row)["Removed"]
    assert (row.title, kind) == (SEARCH, "a search") and trials.endswith("trials")


def test_an_unfinished_run_says_its_state_and_what_there_is(backend):
    backend.add_run(specimens.run(finished=False, n_sparse=1))
    states = {
        "running": "▶ running",
        "failed": "✕ failed",
        "crashed": "✕ interrupted",
        "cancelled": "⊘ cancelled",
    }
    for state, expected in {**states, None: "⊘ not finished"}.items():
        backend.set_jobs(*([job(SETTINGS, state)] if state else []))
        (row,) = rows(backend)
        assert row.live == (state == "running") and said(row)["Started"][1] == ""
        assert said(row)["Verdict"][1:] == ("at 10\u00a0%", expected, "1 of 3 models")
        assert row.values(None)["state"] == (state or "not finished")


def test_a_job_is_a_row_before_it_has_a_result_unless_it_ended_or_is_of_another_version(
    backend,
):
    backend.set_jobs(
        job(SETTINGS),
        job(specimens.search()[0].find, id=2),
    )
    states = {row.title: said(row)["Verdict"][2] for row in rows(backend)}
    assert states == dict.fromkeys((TITLE, SEARCH), "▶ running")
    backend.set_jobs(
        job(SETTINGS, "failed"),
        replace(
            job(SETTINGS),
            id=2,
            key="k",
            settings={"model": 3},
        ),
    )
    assert rows(backend) == []
    older = job(SETTINGS, id=1)
    newer = job(SETTINGS, "failed", id=2)
    assert newest_jobs([newer, older])[SETTINGS.key()] is older, (
        "of a run's jobs the live one counts"
    )
    assert newest_jobs([replace(newer, id=3), newer])[SETTINGS.key()].id == 3


def test_answers_that_are_still_to_be_read_are_said_so(backend):
    add(backend)
    backend.verdict_cache.verdicts = lambda *_: {}
    (row,) = rows(backend)
    assert (
        not row.known
        and said(row)["Verdict"][:2] == ("…", "being read")
        and said(row)["Cost"] == ("", "", "")
    )


def test_rows_are_sorted_and_pinned_ones_come_first(backend):
    # With verdict all are within and the most comes first; with made-up answers the one with most
    # removed has lost least; what ties stays as it was.
    expected = {
        "newest": "123",
        "oldest": "321",
        "model": "213",
        "removed": "321",
        "verdict": "321",
        "cost": "312",
    }
    expected |= dict.fromkeys(("longest", "method", "nonsense"), "123")
    runs = [
        add(
            backend,
            at=3e5,
            sparsities_permille=(100,),
            model="b/model",
        ),
        add(
            backend,
            at=2e5,
            sparsities_permille=(100, 200),
            model="a/model",
        ),
        add(
            backend,
            at=1e5,
            sparsities_permille=(100, 300),
            model="c/model",
        ),
    ]
    place = {run.key: i for i, run in enumerate(runs, 1)}
    results = rows(backend, GENEROUS)
    for order, places in expected.items():
        ordered = run_list.sort_rows(results, order)
        assert "".join(str(place[row.key]) for row in ordered) == places
    backend.user_data.pin_runs([runs[1].key], pinned=True)
    assert place[run_list.sort_rows(rows(backend, GENEROUS), "oldest")[0].key] == 2


def test_every_word_that_is_looked_for_must_be_there_whatever_its_case(backend):
    named = add(backend, model="a/model")
    add(
        backend,
        model="b/model",
        calibration=WIKITEXT,
    )
    backend.user_data.name_run(named.key, "For the Talk")
    results = rows(backend)
    expected = {
        ("TALK a/model", ""): ["For the Talk"],
        ("wikitext", ""): [f"b/model, {NAME}"],
        ("talk wikitext", ""): [],
        ("", "a/model"): ["For the Talk"],
        (named.key[:20], ""): ["For the Talk"],
    }
    for query, titles in expected.items():
        assert [row.title for row in run_list.rows_matching(results, *query)] == titles
    assert len(run_list.rows_matching(results, " ", "")) == 2


def test_the_sentence_counts_the_runs_with_a_model_within(backend):
    running = job(SETTINGS)
    backend.set_jobs(running)
    assert run_list.runs_sentence(rows(backend)) == "1 run under way, no result yet."
    backend.set_jobs(replace(running, state="queued"))
    assert rows(backend) == [], "what waits stands in the list of jobs"
    backend.add_run(specimens.run(finished=False, n_sparse=0))
    backend.set_jobs()
    assert run_list.runs_sentence(rows(backend)) == "No run has a verdict."
    add(backend)
    none_of_one = "1 run has no model within your limits; 1 undecided."
    assert run_list.runs_sentence(rows(backend)) == none_of_one
    assert (
        run_list.runs_sentence(rows(backend, LAX))
        == "1 run has a model within your limits."
    )
    add(backend, sparsities_permille=(100,))
    both = run_list.runs_sentence(rows(backend, LAX))
    assert both == "2 of 2 runs have a model within your limits."


def test_a_named_row_says_its_model_below_and_the_downloaded_table_has_every_cell(
    backend,
):
    run = add(backend)
    (row,) = rows(backend)
    assert row.texts.startswith("calibrated on ")
    assert row.texts.endswith(" · float32")
    named = replace(row, mark=RunMark(name="Mine"))
    assert named.title == "Mine" and run.key.startswith(row.address)
    assert named.texts.startswith(f"{TITLE} · calibrated on ")
    (results,) = run_list.runs_table([named], None).data
    assert (results["run"], results["verdict"], results["judged_sparsity_percent"]) == (
        "Mine",
        "undecided",
        10.0,
    )
    assert (results["methods"], results["took_s"]) == ("least-squares", 300.0)
    assert (
        results["change_points_low"]
        < results["change_points"]
        < results["change_points_high"]
    )


def overlaid_run(name="", dense="dense", n=None, **changes):
    """The results of a run of its own; with the dense record of this key, and n of its passages."""
    settings = replace(SETTINGS, **changes)
    run, records = specimens.run(settings)
    keys = [dense, *(f"{run.key}-{i}" for i in range(len(records) - 1))]
    renamed = [
        replace(
            record,
            key=key,
            model=settings.model,
            outcomes=record.outcomes[:n],
        )
        for key, record in zip(keys, records, strict=True)
    ]
    return results_of(
        replace(run, dense=dense, sparse=tuple(keys[1:])),
        renamed,
        name=name,
    )


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        (
            [{}, {"calibration": WIKITEXT}],
            ["The model's own text, least-squares", "WikiText-2, least-squares"],
        ),
        (
            [{}, {"model": "owner/model", "dense": "d"}],
            ["SmolLM2 135M, least-squares", "model, least-squares"],
        ),
        (
            [
                {"name": "Mine"},
                {"name": "Two", "methods": (SETTINGS.methods[0], MAGNITUDE)},
            ],
            ["Mine", "Two, least-squares", "Two, magnitude"],
        ),
        (
            [{}, {"sparsities_permille": (100, 400)}],
            ["10, 20, 30\u00a0%, least-squares", "10, 40\u00a0%, least-squares"],
        ),
    ],
    ids=["calibration", "model", "names", "sparsities"],
)
def test_lines_are_called_by_what_tells_their_runs_apart(runs, labels):
    results = overlay([overlaid_run(**changes) for changes in runs])
    rows = results.numbers("word perplexity").rows
    assert list(dict.fromkeys(row[0].rpartition(", ")[0] for row in rows)) == labels


def test_long_names_are_letters_in_the_chart_and_are_told_below_it():
    one = overlaid_run(calibration=WIKITEXT)
    second = overlaid_run("Short")
    results = overlay([one, second])
    assert (
        list(results.tradeoff.lines) == ["WikiText-2, least-squares", "Short"]
        and results.legend == ""
    )
    long = overlaid_run(
        "A name of nearly sixty characters, <b>as long as it may be</b>"
    )
    results = overlay([one, long])
    assert list(results.tradeoff.lines) == ["A", "B"]
    assert '<b class="sd-line-1">■ B</b>A name of nearly sixty' in results.legend
    assert "&lt;b&gt;" in results.legend and "<b>as" not in results.legend


def test_runs_over_other_passages_and_without_sparse_models_are_left_out_in_words():
    one = overlaid_run()
    second = overlaid_run(sparsities_permille=(100,))
    fewer = overlaid_run(
        dense="fewer",
        n=60,
        evaluation=EvaluationSettings(n_passages=60),
    )
    results = overlay([fewer, one, second])
    assert {model["run"] for model in results.models.values()} == {
        one.run.key,
        second.run.key,
    }
    assert results.notes[0].startswith(f"“{TITLE}” is not drawn: its passages differ")
    assert [model["run"] for model in overlay([fewer, one]).models.values()][:1] == [
        fewer.run.key
    ], "the first one counts"
    run, (dense, *_) = specimens.run(
        replace(SETTINGS, dtype="bfloat16"), finished=False, n_sparse=0
    )
    empty = results_of(run, [dense])
    assert overlay([empty, one]).notes[0].endswith("has no sparse model yet.")


def test_the_share_of_right_words_is_drawn_only_where_the_runs_have_one_dense_model():
    one = overlaid_run()
    same = overlaid_run(sparsities_permille=(100,))
    second = overlaid_run(model="owner/model", dense="another")
    assert overlay([one, same]).measures == [
        "word perplexity",
        "accuracy",
        "flips",
        "share right",
    ]
    assert overlay([one, second]).measures == ["word perplexity", "accuracy", "flips"]
    assert overlay([one, second]).tradeoff.dense.facts == [
        "SmolLM2 135M (built in): 36 of 120 right",
        "owner/model: 36 of 120 right",
    ]


def test_too_many_lines_become_the_best_method_of_each_run():
    methods = tuple(
        method_named(name)
        for name in ("least-squares", "magnitude", "flap", "wanda-channels", "random")
    )
    results = overlay(
        [
            overlaid_run(dtype=dtype, methods=methods)
            for dtype in ("float32", "bfloat16")
        ]
    )
    assert len(results.tradeoff.lines) == 2
    assert f"more than {MAX_LINES} lines cannot be told apart" in " ".join(
        results.notes
    )


def test_of_many_methods_that_removed_nothing_the_first_ones_are_drawn(monkeypatch):
    monkeypatch.setattr(RunResults, "best", [])
    results = overlay(
        [overlaid_run(methods=tuple(METHODS[i].settings for i in range(9)))]
    )
    assert len(results.tradeoff.lines) == MAX_LINES


def test_every_drawn_model_leads_to_its_answers_and_stands_in_the_table():
    one = overlaid_run()
    second = overlaid_run(sparsities_permille=(100,))
    results = overlay([one, second])
    assert results.models[second.sparse_records[0].key] == {
        "run": second.run.key,
        "right": "10 %",
    }
    assert (
        len(results.models)
        == 4
        == results.numbers("accuracy").html.count('scope="row"')
    )
    assert "not across runs" in results.notes[-1]


def test_the_table_under_a_chart_has_the_columns_of_its_measure_and_its_file_those_of_all():
    results = overlay([overlaid_run(), overlaid_run("Two", sparsities_permille=(100,))])
    tables = {measure: results.numbers(measure) for measure in results.measures}
    assert {measure: list(table.head) for measure, table in tables.items()} == {
        "word perplexity": ["Model", "Times dense", "Verdict"],
        "accuracy": ["Model", "Change, points", "p", "Verdict"],
        "flips": ["Model", "p", "Broke", "Fixed"],
        "share right": ["Model", "Accuracy"],
    }
    files = [table.data for table in tables.values()]
    assert files == [files[0]] * len(files)
    assert {"perplexity_ratio", "change_points", "broke", "accuracy_percent"} <= files[
        0
    ][0].keys()
