"""Models of several runs by tasks: paired with a baseline, judged together; cost, order, filter, a
page of its own.
"""

from dataclasses import replace

import pytest

from sparsedash.catalog.model_sizes import shipped_shape
from sparsedash.reporting.leaderboard import MAX_MODELS, leaderboard, leaderboard_entries
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
    asked = EvaluationSettings(
        tasks=tuple({each.task for each in dense}),
        **evaluation,
    )
    settings = replace(
        specimens.SETTINGS, model=model, sparsities_permille=(200,), evaluation=asked
    )
    run, records = specimens.run(settings)
    made = [
        replace(
            each,
            key=digest([model, each.key]),
            model=model,
            passages_key=passages,
        )
        for each in records
    ]
    made[1] = replace(made[1], outcomes=made[1].outcomes[:n])
    answers = {}
    for record, own in zip(made, (dense, sparse), strict=True):
        sets = [replace(each, key=f"{run.key}-{record.key}-{each.task}") for each in own]
        backend.put(*sets)
        answers |= {record.key: tuple(each.key for each in sets)} if sets else {}
    run = replace(
        run,
        dense=made[0].key,
        sparse=(made[1].key,),
        answers=answers,
    )
    backend.add_run((run, made))
    return run_results(backend, run, name=name)


def board(backend, *found, baseline=0, points=2.0):
    entries, _ = leaderboard_entries(found)
    return leaderboard(
        backend,
        entries,
        list(entries)[baseline],
        Tolerance(points=points),
    )


def text(made, row, column):
    """The lines of a cell. row: by its place, base by base."""
    return plain(made.cells[list(made.entries)[row]][column].text).split("\n")


def test_every_model_stands_beside_the_baseline_of_another_model_with_its_paired_change(backend):
    one = add(backend, dense=[DENSE], sparse=[HARMED])
    two = add(
        backend,
        "owner/two",
        [HARMED],
        [DENSE],
    )
    made = board(backend, one, two)
    assert [each.title for each in made.entries.values()] == [
        "one, dense",
        "one, least-squares 20\u00a0%",
        "two, dense",
        "two, least-squares 20\u00a0%",
    ]
    assert text(made, 0, "task-sums") == ["100.0 %", ""]
    score, change, interval = text(made, 2, "task-sums")
    assert (
        (score, change) == ("75.0 %", "✕ −25.0")
        and interval.startswith("−")
        and " to −" in interval
    )
    assert text(made, 3, "task-sums")[:2] == ["100.0 %", "✓ 0.0"]
    assert made.sentence.startswith("Of 3 models against one, dense: 2 beyond a limit, 1 ")
    assert made.rows(only_beyond=True, order="") == [list(made.entries)[i] for i in (0, 1, 2)]
    assert made.rows(only_beyond=False, order="task-sums") == [
        list(made.entries)[i] for i in (0, 3, 1, 2)
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
    other = replace(
        DENSE,
        questions=tuple(replace(each, prompt_hash="x") for each in DENSE.questions),
    )
    half = replace(DENSE, task="half")
    hard = verdicts(both=5, wrong=50, task="hard")[0]
    some = replace(half, questions=half.questions[:100])
    one = add(
        backend,
        dense=[DENSE, half, hard],
        sparse=[DENSE, half, hard],
    )
    made = board(
        backend,
        one,
        add(
            backend,
            "owner/two",
            [other, some],
            [replace(DENSE, task="alone")],
        ),
    )
    assert text(made, 2, "task-sums") == ["100.0 %", "other questions"]
    assert text(made, 2, "task-half")[-1] == "on 100 of 400"
    assert text(made, 1, "task-hard") == ["9.1 %", "0.0", "not judged"]
    assert text(made, 3, "task-sums") == ["–"] and text(made, 3, "task-alone") == [
        "100.0 %",
        "no baseline",
    ]
    assert "sums was asked differently: the prompt differs in 400 of 400 questions." in made.notes
    assert "hard is not judged: the baseline has fewer than 20 right answers." in made.notes


def test_passages_that_differ_and_a_single_one_are_said(backend):
    one = add(backend, n=1)
    made = board(
        backend,
        one,
        add(backend, "owner/two", passages="others"),
    )
    assert (
        text(made, 1, "perplexity")[2] == "no interval"
        and text(made, 1, "accuracy")[2] == "not judged"
    )
    assert text(made, 2, "accuracy")[1] == "other passages"
    assert not made.has_tasks and board(backend, replace(one, models=one.models[:1])).sentence == (
        "No model can be compared with one, dense."
    )


def test_within_on_tasks_alone_is_undecided_where_the_passages_were_others(backend):
    one = add(backend, dense=[DENSE], sparse=[DENSE])
    made = board(
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
    third = list(made.entries)[2]
    assert made.cells[third]["task-sums"].verdict == "within" and made.verdict(third) == "undecided"


def test_all_models_and_tasks_are_judged_together(backend):
    dense, other = verdicts(both=300, broke=12, fixed=10)
    results = [
        add(
            backend,
            f"owner/{i}",
            [dense],
            [other],
        )
        for i in range(3)
    ]
    alone = board(backend, results[0])
    together = board(backend, *results)
    levels = [
        list(made.cells.values())[1]["task-sums"].values["sums_level_percent"]
        for made in (alone, together)
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
    made = board(backend, add(backend, dense=[dense], sparse=[worse]))
    assert made.columns["task-text"] == "text, bits a byte"
    assert text(made, 1, "task-text")[1] == "✕ 1.22 ×"


def test_two_runs_of_a_model_are_one_row_unless_they_asked_the_same_task_in_two_ways(backend):
    one = add(backend, dense=[DENSE], sparse=[HARMED])
    same = add(
        backend,
        dense=[replace(DENSE, task="more")],
        sparse=[replace(HARMED, task="more")],
    )
    made = board(backend, one, same)
    assert len(made.entries) == 2 and {"task-sums", "task-more"} <= set(made.columns)
    shots = answered(*(question(i, prompt_hash="shots") for i in range(50)))
    made = board(
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
    assert [each.name for each in made.entries.values()][2:] == [
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
    asked = TimingSettings(
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
            key=asked.key(),
            phases=(decode,),
        )
    )
    made = board(backend, results)
    assert text(made, 0, "weights") == ["135 million"] and text(made, 0, "bytes") == [
        "269 MB",
        "16 bits",
    ]
    assert text(made, 1, "weights")[1].startswith("−") and text(made, 1, "bytes")[0] < "269 MB"
    assert [text(made, i, "ms") for i in (0, 1)] == [["10"], ["6.25"]], "medians of 32 tokens"
    assert "Timed on a mainframe, 2 threads, float32." in made.notes


def test_too_many_models_are_cut(backend):
    results = [add(backend, f"owner/{i}") for i in range(MAX_MODELS // 2 + 1)]
    entries, left_out = leaderboard_entries([*results, results[0]])
    assert (len(entries), left_out) == (MAX_MODELS, 2)


def test_the_report_is_one_page_that_asks_for_nothing(backend):
    made = board(
        backend,
        add(
            backend,
            "owner/<b>",
            [DENSE],
            [HARMED],
        ),
    )
    page = made.report(made.rows(False, "")).decode()
    assert "✕ −25.0" in page and "&lt;b&gt;" in page and "default-src" in page
    assert not [sign for sign in ("<b>,", "<script", "http://", "https://", "href") if sign in page]
