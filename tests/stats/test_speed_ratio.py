"""The ratio of two models' times, by hand and by what it promises."""

import random
from math import exp, log, sqrt

import pytest

from sparsedash.schema.pair_records import SpeedRatio
from sparsedash.stats.mean_intervals import is_narrow, speed_ratio


def test_the_ratio_is_that_of_the_rounds_not_of_the_times():
    # Rounds 2, 1 and 4 times as fast: 2 in the middle of their logarithms; the means are 5 and 2.5.
    found = speed_ratio([2.0, 4.0, 9.0], [1.0, 4.0, 2.25])
    assert found.value == pytest.approx(2.0)


def test_a_quarter_is_trimmed_on_either_side_and_the_interval_is_yuens():
    # Of eight two go on either side; of the logarithms 3, 4, 5, 6 are left, winsorised 3, 3, 3, 4, 5, 6, 6, 6.
    found = speed_ratio([exp(x) for x in (1, 2, 3, 4, 5, 6, 7, 100)], [1.0] * 8)
    deviation = sqrt(sum((x - 4.5) ** 2 for x in (3, 3, 3, 4, 5, 6, 6, 6)) / 7)
    radius = 3.182446 * deviation * sqrt(7 / (4 * 3))
    assert log(found.value) == pytest.approx(4.5)
    assert (log(found.low), log(found.high)) == (
        pytest.approx(4.5 - radius, abs=1e-4),
        pytest.approx(4.5 + radius, abs=1e-4),
    )


def test_a_round_in_which_the_machine_was_slow_leaves_the_ratio_as_it_is():
    quiet = speed_ratio([1.2] * 12, [1.0] * 12)
    loud = speed_ratio([1.2, 12.0] * 6, [1.0, 10.0] * 6)
    assert quiet.value == loud.value == pytest.approx(1.2)
    assert (loud.low, loud.high) == (pytest.approx(1.2), pytest.approx(1.2))


@pytest.mark.parametrize("n", [1, 2])
def test_very_few_rounds_have_an_interval_from_the_smallest_ratio_to_the_largest(n):
    found = speed_ratio([1.0, 4.0][:n], [1.0] * n)
    assert (found.low, found.value, found.high) == (
        1.0,
        pytest.approx([1.0, 2.0][n - 1]),
        pytest.approx([1.0, 4.0][n - 1]),
    )


def test_three_rounds_are_not_trimmed():
    assert speed_ratio([1.0, 1.0, 8.0], [1.0] * 3).value == pytest.approx(2.0)


def stalled(drawn, n):
    """Seconds of rounds, of which one in ten is stalled for one of the two."""
    return [drawn.lognormvariate(0, 0.05) * (1 + 3 * (drawn.random() < 0.05)) for _ in range(n)]


@pytest.mark.parametrize("n", [7, 9, 15, 30])
def test_stalls_leave_the_interval_narrow_and_true(n):
    drawn = random.Random(n)
    n_held, widths, n_runs = 0, [], 400
    for _ in range(n_runs):
        found = speed_ratio(stalled(drawn, n), stalled(drawn, n))
        n_held += found.low <= 1 <= found.high
        widths.append(found.high / found.low - 1)
    assert n_held / n_runs >= 0.94
    assert sorted(widths)[n_runs // 2] < 0.3


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
