"""Paired differences of two models' log-likelihoods."""

from dataclasses import replace
from math import inf

import pytest

from sparsedash.stats.races import likelihood_differences
from tests.factories import STOPPED, answered


def shifted(key, nats, spread=0.0, n=100, **more):
    record = answered(key, n)
    falls = [nats + spread * (1 if i % 2 else -1) for i in range(n)]
    outcomes = [
        replace(o, log_likelihood=-1 - fall)
        for o, fall in zip(record.outcomes, falls, strict=True)
    ]
    return replace(record, outcomes=tuple(outcomes), **more)


FIRST = shifted("first", 0.1)


def test_the_second_model_loses_by_the_mean_of_the_paired_falls():
    (difference,) = likelihood_differences(
        [(FIRST, shifted("second", 0.3, spread=0.1))]
    )
    assert (
        difference.value == pytest.approx(0.2)
        and 0.17 < difference.low < 0.19
        and difference.level == 0.95
    )
    assert (
        difference.is_shown
        and difference.p_value < 1e-9
        and difference.n_passages == 100
    )
    (turned,) = likelihood_differences([(shifted("second", 0.3, spread=0.1), FIRST)])
    assert (turned.low, turned.high) == pytest.approx(
        (-difference.high, -difference.low)
    )


def test_identical_answers_are_no_difference():
    (difference,) = likelihood_differences([(FIRST, FIRST)])
    assert (difference.value, difference.low, difference.high, difference.p_value) == (
        0,
        0,
        0,
        1,
    ) and not difference.is_shown


def test_one_passage_shows_nothing():
    (difference,) = likelihood_differences(
        [(shifted("a", 0, n=1), shifted("b", 5, n=1))]
    )
    assert (difference.low, difference.high, difference.p_value) == (-inf, inf, 1)


def test_a_handful_of_passages_shows_no_difference_however_narrow_the_interval():
    (difference,) = likelihood_differences(
        [(shifted("a", 0, n=10), shifted("b", 5, n=10))]
    )
    assert difference.low > 0 and not difference.is_shown


@pytest.mark.parametrize("stopping", [None, STOPPED])
def test_interval_and_p_agree_after_holm_and_the_rest_is_compared_at_the_level_that_is_left(
    stopping,
):
    pairs = [
        (FIRST, shifted(f"{lost}", 0.1 + lost, spread=1.0, stopping=stopping))
        for lost in (0.0, 0.25, 0.35, 2.0)
    ]
    none, some, more, most = differences = likelihood_differences(pairs, n_compared=6)
    assert [difference.is_shown for difference in differences] == [
        difference.p_value <= 0.05 for difference in differences
    ]
    assert (
        most.level == 1 - 0.05 / 6
        and none.level == some.level
        and most.is_shown
        and not none.is_shown
    )
    assert none.level == pytest.approx(
        1 - 0.05 / (6 - sum(difference.is_shown for difference in differences))
    )
    assert more.p_value > likelihood_differences(pairs[2:3])[0].p_value
