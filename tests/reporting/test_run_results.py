"""A run's records, their comparisons and verdicts."""

from dataclasses import replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.reporting.run_answer import missing_records
from sparsedash.reporting.run_results import run_results, verdict_of
from sparsedash.reporting.tradeoff_points import live_model, live_point
from sparsedash.schema.find_settings import FindSettings
from tests.factories import STOPPED
from tests.reporting.held_results import Held, results_of
from tests.reporting.test_run_answer import BEYOND, DENSE, UNDECIDED, WITHIN, sweep_of
from tests.ui import specimens
from tests.ui.filled_backend import job

METHODS = (method_named("magnitude"), method_named("random"))


def broken(n: int, permille: int = 100, method=None):
    """The dense answers with n right ones gone wrong."""
    return specimens.record(
        [False] * n + DENSE[n:],
        permille,
        method,
    )


def test_a_comparison_has_its_verdict_among_all_of_the_run_and_by_itself_elsewhere():
    results = sweep_of(WITHIN, BEYOND)
    first, second = results.sparse_records
    assert (
        verdict_of(results, results.dense, second) is results.sparse_models[1].verdict
    )
    assert verdict_of(results, first, second).perplexity.level == pytest.approx(0.975)


def test_p_values_are_adjusted_for_the_number_of_comparisons():
    results = sweep_of(broken(6), broken(6, 200))
    assert results.sparse_models[0].comparison.p_value == pytest.approx(0.03125)
    assert [row.p_value for row in results.sparse_models] == pytest.approx(
        [0.09375, 0.09375]
    ), "three were asked for"


def test_of_a_search_without_an_answer_the_smallest_model_is_named_and_not_where_it_began():
    results = sweep_of(UNDECIDED, BEYOND)
    undecided, beyond = results.sparse_records
    searched = replace(results, run=replace(results.run, find=FindSettings()))
    assert (results.headline, searched.headline) == (beyond, undecided)


def test_a_run_without_its_dense_record_has_no_results():
    run, _ = specimens.run()
    assert run_results(Held({}), run) is None is run_results(Held({}), None)


def test_a_second_look_measures_nothing_again_but_finds_what_was_missing():
    run, (*early, last) = specimens.run()
    backend = Held({record.key: record for record in early})
    first = run_results(backend, run)
    backend.records[last.key] = last
    second = run_results(backend, run)
    assert [model.record.key for model in second.models] == [run.dense, *run.sparse]
    assert len(first.sparse_records) == 2 and first.dense is second.dense
    assert all(
        one.comparison is later.comparison
        for one, later in zip(first.sparse_models, second.sparse_models, strict=False)
    )


def test_a_lost_record_is_named_and_still_counts_as_a_comparison():
    run, records = specimens.run()
    whole = results_of(run, records)
    results = results_of(run, records[:-1])
    assert results.missing == {"30 %": "is no longer stored"} and whole.missing == {}
    assert missing_records(run, results.missing) == (
        "The record of 30 % is no longer stored. Missing models still count as comparisons in the verdicts."
    )
    for before, after in zip(whole.sparse_models, results.sparse_models, strict=False):
        assert after.verdict.perplexity.level >= before.verdict.perplexity.level
        assert after.p_value >= before.p_value


def test_a_record_of_other_passages_is_left_out():
    results = sweep_of(replace(broken(1), passages_key="others"))
    assert results.sparse_records == () and list(results.missing.values()) == [
        "answers other passages than the dense model"
    ]


def test_a_record_that_answered_fewer_passages_is_compared_on_those():
    whole = broken(6)
    stopping = replace(
        STOPPED,
        decision="open",
        n_answered=80,
        p_value=0.1,
        interval=(-0.2, 0.1),
    )
    compared = (
        sweep_of(
            replace(
                whole,
                outcomes=whole.outcomes[:80],
                stopping=stopping,
            )
        )
        .sparse_models[0]
        .comparison
    )
    assert (compared.broke, compared.both_right, compared.both_wrong) == (6, 54, 20)


@pytest.mark.parametrize(
    ("n_sparse", "asked", "expected"),
    [
        (0, {"done": 80, "n_right": 30, "point": 2}, ("magnitude", 300)),
        (0, {"done": 80, "n_right": 30, "point": 4}, ("random", 200)),
        (0, {"done": 80, "n_right": 30}, None),
        (1, {"done": 80, "n_right": 30, "point": 0}, None),
        (1, {"done": 0, "n_right": 0, "point": 1}, None),
        (1, {"done": 80, "point": 1}, None),
        (6, {"done": 80, "n_right": 30, "point": 5}, None),
    ],
    ids=[
        "third",
        "other-method",
        "dense",
        "record-there",
        "no-answer",
        "other-stage",
        "finished",
    ],
)
def test_the_live_point_is_of_the_model_that_the_job_evaluates(
    n_sparse, asked, expected
):
    settings = replace(specimens.SETTINGS, methods=METHODS)
    results = results_of(
        *specimens.run(
            settings,
            finished=n_sparse == 6,
            n_sparse=n_sparse,
        )
    )
    live = live_model(results, job(specimens.SETTINGS, **asked))
    assert live == (
        expected and (expected[0], live_point(expected[1], right=30, done=80))
    )
