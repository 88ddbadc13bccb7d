"""Intervals of a mean: Student's where values are even, wider to the side where large ones may be missing."""

from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sparsedash.stats.mean_intervals import anytime_mean_interval, mean_interval, moments, student_quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 29, 131, 5152])
@pytest.mark.parametrize("p", [0.6, 0.9, 0.975, 0.995, 0.9999, 0.025])
def test_the_quantiles_are_those_of_students_t(degrees, p):
    assert student_quantile(p, degrees) == pytest.approx(float(stats.t.ppf(p, degrees)), rel=1e-4)


def test_the_moments_of_a_few_numbers():
    found = moments([1.0, 2.0, 6.0])
    assert (found.n, found.mean, found.lowest, found.highest) == (3, 3.0, 1.0, 6.0)
    assert found.deviation == pytest.approx(sqrt(7))


def students(values, alpha=0.05):
    return stats.t.interval(1 - alpha, len(values) - 1, np.mean(values), stats.sem(values))


def test_either_end_is_students_with_one_more_like_the_most_extreme_on_its_side():
    values = [-9.0, *[-0.5, 0.0, 0.5] * 4, 6.0]
    low, high = mean_interval(moments(values), 0.05)
    assert low == pytest.approx(students([*values, -9.0])[0], rel=1e-5)
    assert high == pytest.approx(students([*values, 6.0])[1], rel=1e-5)


def test_one_value_has_no_interval_and_equal_ones_are_sure():
    assert mean_interval(moments([3.0]), 0.05) == (-inf, inf)
    assert anytime_mean_interval(moments([3.0]), 0.05) == (-inf, inf)
    assert mean_interval(moments([3.0] * 10), 0.05) == (3.0, 3.0)


@given(st.lists(st.integers(-50, 50), min_size=10, max_size=40))
def test_it_is_never_narrower_than_students(values):
    low, high = mean_interval(moments(values), 0.05)
    even_low, even_high = students(values) if np.ptp(values) > 0 else (values[0], values[0])
    assert low <= even_low + 1e-6 and high >= even_high - 1e-6


def test_an_interval_valid_at_any_look_is_wider():
    found = moments([0.1, -0.2, 0.4, 0.0, -0.1] * 40)
    narrow, wide = mean_interval(found, 0.05), anytime_mean_interval(found, 0.05)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("name", ["normal", "t5", "gamma"])
@pytest.mark.parametrize("n", [30, 132, 400])
def test_the_mean_is_missed_about_as_rarely_as_it_says_on_either_side(name, n):
    rng = np.random.default_rng(7)
    draw = {
        "normal": lambda: rng.normal(size=(4000, n)),
        "t5": lambda: rng.standard_t(5, size=(4000, n)),
        "gamma": lambda: rng.gamma(4.0, size=(4000, n)) - 4.0,
    }[name]
    bounds = [mean_interval(moments(row), 0.05) for row in draw().tolist()]
    # 2.5 % each, and what 4,000 draws and thirty skewed values leave of it.
    allowed = 0.042 if (name, n) == ("gamma", 30) else 0.034
    assert np.mean([high < 0 for _, high in bounds]) < allowed
    assert np.mean([low > 0 for low, _ in bounds]) < allowed
