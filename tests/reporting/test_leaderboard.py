"""Models of several runs by tasks: paired with a baseline, judged together; cost, order, filter, a
page of its own.
"""

from dataclasses import replace

import pytest

from sparsedash.catalog.model_sizes import shipped_shape
from sparsedash.reporting.leaderboard import (
    MAX_MODELS,
    leaderboard,
    leaderboard_entries,
)
from sparsedash.reporting.run_results import run_results
from sparsedash.schema import store_keys
from sparsedash.schema.pair_records import SpeedRatio, TimedPhase, TimingSettings
from sparsedash.schema.plain_values import digest
from sparsedash.schema.settings import EvaluationSettings
from sparsedash.schema.tolerance_settings import Tolerance
from tests.factories import plain
from tests.question_sets import answered, question, rolled, verdicts
from tests.service.made import TIMING
from tests.ui import specimens

DENSE, HARMED = verdicts(both=300, broke=100)
"""The other model lost a quarter."""


def add(
    backend,
    model="owner/one",
    dense=(),
    sparse=(),
    name="",
    n=None,
    passages="passages",
    **evaluation,
):
    """The results of a run of dense and 20 % with these sets of answers; n: passages that the
    sparse model answered.
    """
    request = EvaluationSettings(
        tasks=tuple({answers.task for answers in dense}),
        **evaluation,
    )
    settings = replace(
        specimens.SETTINGS, model=model, sparsities_permille=(200,), evaluation=request
    )
    run, records = specimens.run(settings)
    run_records = [
        replace(
            record,
            key=digest([model, record.key]),
            model=model,
            passages_key=passages,
        )
        for record in records
    ]
    run_records[1] = replace(run_records[1], outcomes=run_records[1].outcomes[:n])
    answers = {}
    for record, answer_sets in zip(run_records, (dense, sparse), strict=True):
        sets = [
            replace(answer_set, key=f"{run.key}-{record.key}-{answer_set.task}")
            for answer_set in answer_sets
        ]
        backend.put(*sets)
        answers |= (
            {record.key: tuple(answer_set.key for answer_set in sets)} if sets else {}
        )
    run = replace(
        run,
        dense=run_records[0].key,
        sparse=(run_records[1].key,),
        answers=answers,
    )
    backend.add_run((run, run_records))
    return run_results(backend, run, name=name)


def board(backend, *found, baseline=0, points=2.0):
    entries, _ = leaderboard_entries(found)
    return leaderboard(
        backend,
        entries,
        list(entries)[baseline],
        Tolerance(points=points),
    )


def text(table, row, column):
    """The lines of a cell. row: by its place, base by base."""
    return plain(table.cells[list(table.entries)[row]][column].text).split("\n")


def test_every_model_stands_beside_the_baseline_of_another_model_with_its_paired_change(
    backend,
):
    one = add(backend, dense=[DENSE], sparse=[HARMED])
    two = add(
        backend,
        "owner/two",
        [HARMED],
        [DENSE],
    )
    table = board(backend, one, two)
    assert [answers.title for answers in table.entries.values()] == [
        "one, dense",
        "one, least-squares 20\u00a0%",
        "two, dense",
        "two, least-squares 20\u00a0%",
    ]
    assert text(table, 0, "task-sums") == ["100.0 %", ""]
    score, change, interval = text(table, 2, "task-sums")
    assert (
        (score, change) == ("75.0 %", "✕ −25.0")
        and interval.startswith("−")
        and " to −" in interval
    )
    assert text(table, 3, "task-sums")[:2] == ["100.0 %", "✓ 0.0"]
    assert table.sentence.startswith(
        "Of 3 models against one, dense: 2 beyond a limit, 1 "
    )
    assert table.rows(only_beyond=True, order="") == [
        list(table.entries)[i] for i in (0, 1, 2)
    ]
    assert table.rows(only_beyond=False, order="task-sums") == [
        list(table.entries)[i] for i in (0, 3, 1, 2)
    ]
    pinned = board(
        backend,
        one,
        two,
        baseline=1,
    )
    assert (
        text(pinned, 0, "task-sums")[1] == "✓ +25.0"
        and pinned.rows(False, "")[0] == list(pinned.entries)[1]
    )


def test_a_cell_says_why_nothing_is_compared(backend):
    sparse_set = replace(
        DENSE,
        questions=tuple(
            replace(answers, prompt_hash="x") for answers in DENSE.questions
        ),
    )
    half = replace(DENSE, task="half")
    hard = verdicts(both=5, wrong=50, task="hard")[0]
    some = replace(half, questions=half.questions[:100])
    one = add(
        backend,
        dense=[DENSE, half, hard],
        sparse=[DENSE, half, hard],
    )
    table = board(
        backend,
        one,
        add(
            backend,
            "owner/two",
            [sparse_set, some],
            [replace(DENSE, task="alone")],
        ),
    )
    assert text(table, 2, "task-sums") == ["100.0 %", "other questions"]
    assert text(table, 2, "task-half")[-1] == "on 100 of 400"
    assert text(table, 1, "task-hard") == ["9.1 %", "0.0", "not judged"]
    assert text(table, 3, "task-sums") == ["–"] and text(table, 3, "task-alone") == [
        "100.0 %",
        "no baseline",
    ]
    assert (
        "sums was asked differently: the prompt differs in 400 of 400 questions."
        in table.notes
    )
    assert (
        "hard is not judged: the baseline has fewer than 20 right answers."
        in table.notes
    )


def test_passages_that_differ_and_a_single_one_are_said(backend):
    one = add(backend, n=1)
    table = board(
        backend,
        one,
        add(backend, "owner/two", passages="others"),
    )
    assert (
        text(table, 1, "perplexity")[2] == "no interval"
        and text(table, 1, "accuracy")[2] == "not judged"
    )
    assert text(table, 2, "accuracy")[1] == "other passages"
    assert not table.has_tasks and board(
        backend, replace(one, models=one.models[:1])
    ).sentence == ("No model can be compared with one, dense.")


def test_within_on_tasks_alone_is_undecided_where_the_passages_were_others(backend):
    one = add(backend, dense=[DENSE], sparse=[DENSE])
    table = board(
        backend,
        one,
        add(
            backend,
            "owner/two",
            [DENSE],
            [DENSE],
            passages="others",
        ),
    )
    third = list(table.entries)[2]
    assert (
        table.cells[third]["task-sums"].verdict == "within"
        and table.verdict(third) == "undecided"
    )


def test_all_models_and_tasks_are_judged_together(backend):
    dense, sparse_set = verdicts(both=300, broke=12, fixed=10)
    results = [
        add(
            backend,
            f"owner/{i}",
            [dense],
            [sparse_set],
        )
        for i in range(3)
    ]
    alone = board(backend, results[0])
    together = board(backend, *results)
    levels = [
        list(table.cells.values())[1]["task-sums"].values["sums_level_percent"]
        for table in (alone, together)
    ]
    assert levels == pytest.approx([90.0, 98.0]), "one is undecided, then five"


def test_documents_are_in_bits_a_byte_and_change_as_a_multiple(backend):
    dense = answered(
        *(rolled(i, -40.0 - i % 3) for i in range(60)),
        task="text",
        measure="bits a byte",
    )
    worse = replace(
        dense,
        questions=tuple(
            replace(
                q,
                log_likelihood=q.log_likelihood - 2 + 0.1 * (-1) ** i,
            )
            for i, q in enumerate(dense.questions)
        ),
    )
    table = board(backend, add(backend, dense=[dense], sparse=[worse]))
    assert table.columns["task-text"] == "text, bits a byte"
    assert text(table, 1, "task-text")[1] == "✕ 1.22 ×"


def test_two_runs_of_a_model_are_one_row_unless_they_asked_the_same_task_in_two_ways(
    backend,
):
    one = add(backend, dense=[DENSE], sparse=[HARMED])
    same = add(
        backend,
        dense=[replace(DENSE, task="more")],
        sparse=[replace(HARMED, task="more")],
    )
    table = board(backend, one, same)
    assert len(table.entries) == 2 and {"task-sums", "task-more"} <= set(table.columns)
    shots = answered(*(question(i, prompt_hash="shots") for i in range(50)))
    table = board(
        backend,
        one,
        add(
            backend,
            dense=[shots],
            sparse=[shots],
            name="With shots",
            task_shots=5,
        ),
    )
    assert [answers.name for answers in table.entries.values()][2:] == [
        "dense, With shots",
        "least-squares 20\u00a0%, With shots",
    ]


def test_cost_is_beside_the_scores_where_it_is_known(backend):
    results = add(backend)
    assert (
        "ms" not in board(backend, results).columns
        and "bytes" not in board(backend, results).columns
    )
    identity = results.dense.model_identity
    shape = shipped_shape("smollm2-135m")
    backend._store.remember(
        store_keys.model_shape_note(identity),
        shape.plain(),
    )
    request = TimingSettings(
        dense=results.dense.key,
        sparse=results.sparse_records[0].key,
    )
    seconds = {
        "dense_s": (0.3, 0.32, 0.4),
        "sparse_s": (0.2, 0.16, 0.3),
        "dense_first": (True,) * 3,
    }
    ratio = SpeedRatio(value=1.5, low=1.3, high=2.0)
    decode = TimedPhase(
        phase="decode",
        batch=1,
        **seconds,
        ratio=ratio,
        ceiling=2.0,
    )
    backend.put(
        replace(
            TIMING,
            key=request.key(),
            phases=(decode,),
        )
    )
    table = board(backend, results)
    assert text(table, 0, "weights") == ["135 million"] and text(table, 0, "bytes") == [
        "269 MB",
        "16 bits",
    ]
    assert (
        text(table, 1, "weights")[1].startswith("−")
        and text(table, 1, "bytes")[0] < "269 MB"
    )
    assert [text(table, i, "ms") for i in (0, 1)] == [["10"], ["6.25"]], (
        "medians of 32 tokens"
    )
    assert "Timed on a mainframe, 2 threads, float32." in table.notes


def test_too_many_models_are_cut(backend):
    results = [add(backend, f"owner/{i}") for i in range(MAX_MODELS // 2 + 1)]
    entries, left_out = leaderboard_entries([*results, results[0]])
    assert (len(entries), left_out) == (MAX_MODELS, 2)


def test_the_report_is_one_page_that_asks_for_nothing(backend):
    table = board(
        backend,
        add(
            backend,
            "owner/<b>",
            [DENSE],
            [HARMED],
        ),
    )
    page = table.report(table.rows(False, "")).decode()
    assert "✕ −25.0" in page and "&lt;b&gt;" in page and "default-src" in page
    assert not [
        sign
        for sign in ("<b>,", "<script", "http://", "https://", "href")
        if sign in page
    ]
