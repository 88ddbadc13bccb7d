"""The verdict: within, beyond or undecided, by what is allowed."""

from dataclasses import replace
from math import log
from random import Random
from statistics import fmean

import pytest

from sparsedash.catalog import choices
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.records import Record, Run
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats import tolerance
from sparsedash.stats.mean_intervals import Moments, moments
from sparsedash.stats.significance import shared_outcomes
from sparsedash.stats.tolerance import Losses, judge_all, record_losses
from tests.factories import PRUNED, STOPPED, answered

ALLOWED = Tolerance()
"""1.10 times, 0.0953 nats; 2 points."""


def lost(
    nats: float, *, n=1000, deviation=0.3, broke=0, fixed=0, n_right=400, anytime=False
) -> Losses:
    sample = Moments(
        n=n,
        mean=nats,
        deviation=deviation,
        lowest=nats,
        highest=nats,
    )
    return Losses(
        nats=sample,
        broke=broke,
        fixed=fixed,
        n_right=n_right,
        anytime=anytime,
    )


def verdict(*args, tolerance=ALLOWED, **kwargs):
    (judged,) = judge_all([lost(*args, **kwargs)], tolerance)
    return judged


def decided_by(found):
    return [loss.task or loss.measure for loss in found.deciding]


def test_a_loss_is_within_where_its_whole_interval_is_and_beyond_where_none_of_it_is():
    assert verdict(0.02).verdict == verdict(-0.5).verdict == "within"
    assert decided_by(verdict(0.02)) == ["word perplexity", "accuracy"]
    assert verdict(0.30).verdict == "beyond"
    assert decided_by(verdict(0.30)) == ["word perplexity"]
    assert verdict(0.09).verdict == "undecided"


def test_accuracy_alone_puts_a_model_beyond_but_does_not_keep_it_from_being_within():
    judged = verdict(0.0, broke=80, fixed=10)
    assert (judged.verdict, decided_by(judged)) == ("beyond", ["accuracy"])
    assert judged.accuracy.value == pytest.approx(0.07)
    judged = verdict(0.02, broke=30, fixed=20)
    assert judged.accuracy.verdict == "undecided"
    assert (judged.verdict, decided_by(judged)) == ("within", ["word perplexity"])


def test_a_model_is_within_only_on_all_its_tasks_and_beyond_on_any():
    one = replace(verdict(0.02).perplexity, measure="accuracy", task="piqa")
    tasks = {
        name: replace(one, verdict=name) for name in ("within", "undecided", "beyond")
    }
    for passages, names, result in (
        (0.02, ["within"], "within"),
        (0.02, ["within", "undecided"], "undecided"),
        (0.02, ["within", "undecided", "beyond"], "beyond"),
        (0.09, ["within"], "undecided"),
        (0.30, ["within"], "beyond"),
    ):
        judged = replace(verdict(passages), tasks=tuple(tasks[name] for name in names))
        assert judged.verdict == result
        assert {loss.verdict for loss in judged.deciding} == {result}


def test_under_thirty_passages_nothing_is_within_however_equal_but_may_be_beyond_unless_there_is_one():
    for n in (1, 29):
        judged = verdict(0.0, n=n, deviation=0.0, n_right=n)
        assert (judged.verdict, judged.too_few) == ("undecided", True)
    assert verdict(16.0, n=10, deviation=4.0, n_right=3).verdict == "beyond"
    assert verdict(16.0, n=1, deviation=0.0, n_right=1).verdict == "undecided"


def test_with_under_twenty_right_there_is_too_little_accuracy_to_lose():
    assert verdict(0.0, n_right=19).accuracy is None
    assert verdict(0.0, n_right=20).accuracy is not None


def test_a_sweep_widens_its_intervals_by_what_is_undecided():
    alone = verdict(0.09)
    many = judge_all([lost(0.09), lost(0.09), lost(3.0), lost(3.0)], ALLOWED)
    # Of eight losses the two of perplexity that are far beyond, and every accuracy, are decided at
    # the first step.
    assert alone.perplexity.level == pytest.approx(1 - 0.05)
    assert many[0].perplexity.level == pytest.approx(1 - 0.05 / 2)
    assert many[2].perplexity.level == pytest.approx(1 - 0.05 / 8)
    assert many[2].verdict == "beyond"


def test_a_model_that_was_looked_at_on_the_way_needs_more_to_be_judged():
    at_the_end = verdict(0.07)
    looked = verdict(0.07, anytime=True)
    assert at_the_end.verdict == "within"
    assert (
        looked.perplexity.low
        < at_the_end.perplexity.low
        < at_the_end.perplexity.high
        < looked.perplexity.high
    )
    assert looked.verdict == "undecided"


@pytest.mark.parametrize("n", [10, 40])
def test_a_model_that_lost_nothing_at_all_is_judged_on_the_way_as_at_the_end(n):
    result = [
        verdict(0.0, n=n, deviation=0.0, n_right=0, anytime=anytime).verdict
        for anytime in (False, True)
    ]
    assert result == ["undecided" if n < 30 else "within"] * 2


def test_the_passages_needed_would_decide_it():
    judged = verdict(0.08, n=100)
    assert judged.verdict == "undecided"
    needed = judged.passages_needed
    assert needed is not None and needed > 100
    assert verdict(0.08, n=2 * needed).verdict == "within"
    assert verdict(log(1.10), n=100).perplexity.needed is None
    looked = verdict(0.08, n=100, anytime=True).passages_needed
    assert looked is not None and looked > 1.9 * needed
    assert verdict(0.08, n=2 * looked, anytime=True).verdict == "within"
    assert (
        judge_all([lost(0.0, broke=9, fixed=9)], Tolerance(ratio=1.1, points=1e-200))[
            0
        ].accuracy.needed
        is None
    )


@pytest.mark.parametrize(
    ("ratio", "points"),
    [(1.0, 2.0), (0.9, 2.0), (float("nan"), 2.0), (1.1, 0.0), (1.1, 101.0)],
)
def test_a_tolerance_that_allows_nothing_or_everything_is_refused(ratio, points):
    with pytest.raises(SettingsError, match="Allowed"):
        Tolerance(ratio=ratio, points=points)


def test_a_model_with_its_own_share_of_the_error_is_judged_by_itself_and_changes_no_other():
    usual = lost(0.02)
    planned = replace(usual, alpha=0.01)
    together = judge_all([usual, planned, usual], ALLOWED)
    (alone,) = judge_all([planned], ALLOWED)
    assert (alone.perplexity.level, alone.accuracy.level) == (0.995, 0.995)
    assert together[1] == alone
    assert [together[0], together[2]] == judge_all([usual, usual], ALLOWED)


def test_a_record_keeps_the_share_that_its_search_has_set_aside():
    dense = answered("dense", 3)
    sparse = replace(dense, pruned=PRUNED, stopping=STOPPED)
    assert record_losses(dense, sparse).anytime
    losses = record_losses(
        dense, replace(sparse, stopping=replace(STOPPED, alpha=0.002))
    )
    assert (losses.alpha, losses.anytime) == (0.002, False)


def test_a_model_that_is_missing_still_counts_as_a_comparison():
    there = lost(0.09)
    both = judge_all([there, there], ALLOWED)
    (alone,) = judge_all([there], ALLOWED, n_compared=2)
    assert both[0].perplexity.level == pytest.approx(1 - 0.05 / 2), (
        "both are within by accuracy"
    )
    assert alone.perplexity.level == pytest.approx(1 - 0.05 / 3), (
        "of the lost one nobody knows"
    )
    assert judge_all([there], ALLOWED, n_compared=1) == judge_all([there], ALLOWED)


def mild_losses():
    """The example's passages at 10 % by the methods that refit: what each lost, in nats, model by
    model.
    """
    run = choices.example_result(Run, choices.EXAMPLE)
    dense, *records = (
        choices.example_result(Record, key) for key in (run.dense, *run.sparse)
    )
    losses = []
    for sparse in records:
        if (
            sparse.sparsity_permille == 100
            and sparse.pruned.method.compensation != "none"
        ):
            pairs = shared_outcomes(dense, sparse)
            losses.append(
                [one.log_likelihood - two.log_likelihood for one, two in pairs]
            )
    return losses


def test_the_spread_and_the_reach_of_a_small_loss_are_those_of_the_run_that_ships():
    # More passages reach further.
    samples = [moments(losses[:132]) for losses in mild_losses()]
    assert len(samples) == 3
    assert fmean(sample.deviation for sample in samples) == pytest.approx(
        tolerance.SPREAD_NATS, rel=0.05
    )
    reach = fmean(
        (sample.mean - sample.lowest) / sample.deviation for sample in samples
    )
    assert reach == pytest.approx(tolerance._REACH, rel=0.1)


@pytest.mark.parametrize(("n_passages", "n_models"), [(132, 1), (132, 2), (402, 2)])
def test_the_smallest_loss_beyond_is_called_so_four_times_of_five(n_passages, n_models):
    ratio = tolerance.detectable_ratio(n_passages, 1.1, 0.05 / 2 / n_models)
    draw = Random(0)
    (fallen, *_) = mild_losses()
    called = 0
    scale = tolerance.SPREAD_NATS / moments(fallen).deviation
    centred = [(nats - fmean(fallen)) * scale + log(ratio) for nats in fallen]
    for _ in range(400):
        drawn = Losses(
            nats=moments(draw.choices(centred, k=n_passages)),
            broke=0,
            fixed=0,
            n_right=40,
            anytime=False,
        )
        called += (
            judge_all([drawn], ALLOWED, n_models)[0].perplexity.verdict == "beyond"
        )
    assert 0.74 < called / 400 < 0.86


def test_a_loss_at_the_limit_is_settled_by_no_passages_and_none_at_all_by_as_many_as_the_table_of_power_says():
    assert tolerance.passages_to_judge(log(1.1), 1.1, 0.05) is None
    assert 400 < tolerance.passages_to_judge(0.0, 1.1, 0.05 / 2) < 1000
