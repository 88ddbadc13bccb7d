"""The ratio of two models' times, by hand and by what it promises."""

import random

import pytest

from sparsedash.schema.pair_records import SpeedRatio
from sparsedash.stats.speed_ratio import is_narrow, speed_ratio


def test_the_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_the_medians():
    # Rounds 2, 1 and 3 times as fast; the medians are 4 and 2.
    found = speed_ratio([2.0, 4.0, 9.0], [1.0, 4.0, 3.0])
    assert (found.value, found.low, found.high) == (2.0, 1.0, 3.0)


def test_a_round_in_which_the_machine_was_slow_leaves_the_ratio_as_it_is():
    quiet = speed_ratio([1.2] * 12, [1.0] * 12)
    loud = speed_ratio([1.2, 12.0] * 6, [1.0, 10.0] * 6)
    assert quiet.value == loud.value == pytest.approx(1.2)
    assert (loud.low, loud.high) == (pytest.approx(1.2), pytest.approx(1.2))


def test_few_rounds_have_an_interval_from_the_smallest_ratio_to_the_largest():
    # Of six, all lie on one side of the true median with a chance of 2 / 64; none may be cut off.
    found = speed_ratio([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [1.0] * 6)
    assert (found.low, found.value, found.high) == (1.0, pytest.approx(1.25), 1.5)


@pytest.mark.parametrize(("n", "first"), [(9, 2), (15, 4), (25, 8)])
def test_the_interval_is_never_narrower_than_the_order_of_the_ratios_guarantees(n, first):
    # The ranks of the exact 95 % interval of a median, as tables have them.
    found = speed_ratio([float(value) for value in range(1, n + 1)], [1.0] * n)
    assert found.low <= first and found.high >= n + 1 - first
    assert found.value == (n + 1) / 2


def test_the_same_rounds_and_seed_give_the_same_interval():
    drawn = random.Random(5)
    before, after = ([drawn.lognormvariate(0, 0.2) for _ in range(20)] for _ in range(2))
    assert speed_ratio(before, after, 3) == speed_ratio(before, after, 3)


def test_the_interval_of_equal_speeds_holds_one_in_about_19_of_20_runs():
    drawn = random.Random(1)
    n_held, n_runs = 0, 200
    for _ in range(n_runs):
        before, after = ([drawn.lognormvariate(0, 0.1) for _ in range(15)] for _ in range(2))
        found = speed_ratio(before, after)
        n_held += found.low <= 1 <= found.high
    assert n_held / n_runs >= 0.93


@pytest.mark.parametrize(
    ("low", "high", "narrow"), [(0.96, 1.04, True), (0.94, 1.01, False), (0.99, 1.06, False), (0.95, 1.0, False)]
)
def test_narrow_means_that_both_ends_are_near(low, high, narrow):
    assert is_narrow(SpeedRatio(value=1.0, low=low, high=high), 0.05) is narrow
