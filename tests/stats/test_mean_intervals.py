"""Intervals of means and of speed-ups: against other implementations, and their coverage."""

from math import exp, inf, log, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sparsedash.schema.pair_records import SpeedRatio
from sparsedash.stats.mean_intervals import (
    anytime_mean_interval,
    is_narrow,
    mean_interval,
    moments,
    speed_ratio,
    student_quantile,
)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 29, 131, 5152])
@pytest.mark.parametrize("p", [0.6, 0.9, 0.975, 0.995, 0.9999, 0.025])
def test_the_quantiles_are_those_of_students_t(degrees, p):
    assert student_quantile(p, degrees) == pytest.approx(
        float(stats.t.ppf(p, degrees)), rel=1e-4
    )


def students(values, alpha=0.05):
    return stats.t.interval(
        1 - alpha,
        len(values) - 1,
        np.mean(values),
        stats.sem(values),
    )


def test_either_end_is_students_with_one_more_like_the_most_extreme_on_its_side():
    values = [-9.0, *[-0.5, 0.0, 0.5] * 4, 6.0]
    low, high = mean_interval(moments(values), 0.05)
    assert low == pytest.approx(students([*values, -9.0])[0], rel=1e-5)
    assert high == pytest.approx(students([*values, 6.0])[1], rel=1e-5)


@given(st.lists(st.integers(-50, 50), min_size=10, max_size=40))
def test_it_is_never_narrower_than_students(values):
    low, high = mean_interval(moments(values), 0.05)
    even_low, even_high = (
        students(values) if np.ptp(values) > 0 else (values[0], values[0])
    )
    assert low <= even_low + 1e-6 and high >= even_high - 1e-6


def test_an_interval_valid_at_any_look_is_wider_and_one_value_has_none():
    assert (
        mean_interval(moments([3.0]), 0.05)
        == anytime_mean_interval(moments([3.0]), 0.05)
        == (-inf, inf)
    )
    assert mean_interval(moments([3.0] * 10), 0.05) == (3.0, 3.0)
    sample = moments([0.1, -0.2, 0.4, 0.0, -0.1] * 40)
    narrow = mean_interval(sample, 0.05)
    wide = anytime_mean_interval(sample, 0.05)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    # The formula of Waudby-Smith et al., of these values and one more like the most extreme on
    # either side.
    assert wide == pytest.approx((-0.006411, 0.087197), abs=1e-6)


@pytest.mark.parametrize(("n", "allowed"), [(30, 0.042), (132, 0.034)])
def test_the_mean_of_skewed_values_is_missed_about_as_rarely_as_it_says_on_either_side(
    n, allowed
):
    rows = np.random.default_rng(7).gamma(4.0, size=(4000, n)) - 4.0
    bounds = [mean_interval(moments(row), 0.05) for row in rows.tolist()]
    # 2.5 % each, and what 4,000 draws and thirty skewed values leave of it.
    assert np.mean([high < 0 for _, high in bounds]) < allowed
    assert np.mean([low > 0 for low, _ in bounds]) < allowed


def test_the_ratio_is_that_of_the_rounds_not_of_the_times():
    # Rounds 2, 1 and 4 times as fast: 2 in the middle of their logarithms; the means are 5 and 2.5.
    ratio = speed_ratio([2.0, 4.0, 9.0], [1.0, 4.0, 2.25])
    assert ratio.value == pytest.approx(2.0)


def test_a_quarter_is_trimmed_on_either_side_and_the_interval_is_yuens():
    # Of eight two go on either side; of the logarithms 3, 4, 5, 6 are left, winsorised 3, 3, 3, 4,
    # 5, 6, 6, 6.
    ratio = speed_ratio([exp(x) for x in (1, 2, 3, 4, 5, 6, 7, 100)], [1.0] * 8)
    deviation = sqrt(sum((x - 4.5) ** 2 for x in (3, 3, 3, 4, 5, 6, 6, 6)) / 7)
    radius = 3.182446 * deviation * sqrt(7 / (4 * 3))
    assert log(ratio.value) == pytest.approx(4.5)
    assert (log(ratio.low), log(ratio.high)) == (
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
    ratio = speed_ratio([1.0, 4.0][:n], [1.0] * n)
    assert (ratio.low, ratio.value, ratio.high) == (
        1.0,
        pytest.approx([1.0, 2.0][n - 1]),
        pytest.approx([1.0, 4.0][n - 1]),
    )


@pytest.mark.parametrize(
    ("low", "high", "narrow"),
    [(0.96, 1.04, True), (0.94, 1.01, False), (0.99, 1.06, False), (0.95, 1.0, False)],
)
def test_narrow_means_that_both_ends_are_near(low, high, narrow):
    assert is_narrow(SpeedRatio(value=1.0, low=low, high=high), 0.05) is narrow
