"""The doubt beside every number: against other implementations, published examples and simulation."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from sparsedash.significance import (
    Z_95,
    Z_POWER_80,
    Paired,
    holm,
    judge,
    mcnemar,
    paired,
    paired_interval,
    passages_needed,
    wilson,
)

counts = st.integers(0, 300)


def test_z_is_the_normal_quantile_of_95_percent():
    assert pytest.approx(norm.ppf(0.975), abs=1e-15) == Z_95
    assert pytest.approx(norm.ppf(0.8), abs=1e-15) == Z_POWER_80


@given(counts, counts)
def test_mcnemar_is_the_binomial_test_of_the_flips(broke, mended):
    expected = binomtest(broke, broke + mended).pvalue if broke + mended else 1.0
    assert mcnemar(broke, mended) == pytest.approx(expected, rel=1e-9)


@given(counts, counts)
def test_mcnemar_does_not_ask_which_way_the_flips_went(broke, mended):
    assert mcnemar(broke, mended) == mcnemar(mended, broke)
    assert 0 < mcnemar(broke, mended) <= 1


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 0) == 1.0
    assert mcnemar(5, 0) == 2 / 32
    assert mcnemar(7, 1) == 2 * (1 + 8) / 256


def test_mcnemar_of_more_flips_than_a_float_can_count_is_still_a_probability():
    assert 0 < mcnemar(2600, 2400) < 0.01
    assert mcnemar(5000, 0) == 0.0


@given(counts, counts)
def test_wilson_is_the_score_interval_of_scipy(right, wrong):
    total = right + wrong or 1
    expected = binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson(right, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(counts, counts)
def test_wilson_stays_between_0_and_1_and_holds_the_share(right, wrong):
    total = right + wrong or 1
    low, high = wilson(right, total)
    assert 0 <= low <= high <= 1
    assert low - 1e-12 <= right / total <= high + 1e-12


def test_an_interval_of_no_passages_is_refused():
    with pytest.raises(ValueError, match="at least one passage"):
        wilson(0, 0)


@pytest.mark.parametrize(
    ("table", "digits", "published"),
    [
        pytest.param((36, 12, 2, 0), 4, (0.0569, 0.3404), id="Newcombe 1998, 36 12 2 0"),
        pytest.param((20, 12, 2, 16), 4, (0.0562, 0.3292), id="Newcombe 1998, 20 12 2 16"),
        pytest.param((14, 5, 0, 22), 3, (0.011, 0.226), id="Altman 2000, table 6.2"),
        pytest.param((1, 1, 7, 12), 3, (-0.507, -0.026), id="Fagerland 2014, airway reactivity"),
    ],
)
def test_the_paired_interval_is_the_published_one(table, digits, published):
    """Published as first minus second; here the difference is second minus first."""
    low, high = paired_interval(*table)
    assert (round(-high, digits), round(-low, digits)) == published


def newcombe_10(a: int, b: int, c: int, d: int) -> tuple[float, float]:
    """The interval of (a+b)/n - (a+c)/n, written from the paper's own notation and scipy's Wilson."""
    n = a + b + c + d
    p1, p2 = (a + b) / n, (a + c) / n
    first = binomtest(a + b, n).proportion_ci(0.95, method="wilson")
    second = binomtest(a + c, n).proportion_ci(0.95, method="wilson")
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    excess = a * d - b * c
    if excess > n / 2:
        excess -= n / 2
    elif excess >= 0:
        excess = 0
    phi = excess / sqrt(margins) if margins else 0.0
    down, up = (p1 - first.low, second.high - p2), (first.high - p1, p2 - second.low)
    delta = sqrt(max(0.0, down[0] ** 2 - 2 * phi * down[0] * down[1] + down[1] ** 2))
    epsilon = sqrt(max(0.0, up[0] ** 2 - 2 * phi * up[0] * up[1] + up[1] ** 2))
    return p1 - p2 - delta, p1 - p2 + epsilon


@given(st.tuples(counts, counts, counts, counts).filter(any))
def test_the_paired_interval_is_method_10_for_every_table(table):
    both_right, broke, mended, both_wrong = table
    expected = newcombe_10(both_right, mended, broke, both_wrong)
    assert paired_interval(*table) == pytest.approx(expected, abs=1e-7)


@given(st.tuples(counts, counts, counts, counts).filter(any))
def test_the_paired_interval_holds_the_difference_and_turns_with_the_models(table):
    both_right, broke, mended, both_wrong = table
    low, high = paired_interval(*table)
    difference = (mended - broke) / sum(table)
    assert -1 - 1e-9 <= low <= difference + 1e-9
    assert difference - 1e-9 <= high <= 1 + 1e-9
    mirrored = paired_interval(both_right, mended, broke, both_wrong)
    assert mirrored == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize(
    ("both_right", "broke", "mended"),
    [(0.25, 0.08, 0.05), (0.25, 0.15, 0.03), (0.5, 0.1, 0.1), (0.1, 0.2, 0.02)],
)
def test_the_95_percent_interval_holds_the_truth_95_times_of_100(both_right, broke, mended):
    shares = (both_right, broke, mended, 1 - both_right - broke - mended)
    tables = np.random.default_rng(7).multinomial(200, shares, size=20_000)
    unique, times = np.unique(tables, axis=0, return_counts=True)
    held = 0
    for table, n in zip(unique.tolist(), times.tolist(), strict=True):
        low, high = paired_interval(*table)
        held += n * (low <= mended - broke <= high)
    assert 0.94 <= held / len(tables) <= 0.96


def test_a_comparison_counts_the_flips_and_signs_the_difference():
    dense = [True, True, True, False, False]
    sparse = [True, False, False, True, False]
    found = paired(dense, sparse)
    assert (found.both_right, found.broke, found.mended, found.both_wrong) == (1, 2, 1, 1)
    assert found.difference == pytest.approx(-1 / 5)
    assert found.interval == paired_interval(1, 2, 1, 1)
    assert found.p_value == mcnemar(2, 1)


def test_a_model_compared_with_itself_shows_no_difference():
    found = paired([True, False] * 100, [True, False] * 100)
    assert (found.difference, found.p_value) == (0.0, 1.0)
    assert found.interval == pytest.approx((0.0, 0.0), abs=0.02)
    assert found.interval[0] <= 0 <= found.interval[1]


@pytest.mark.parametrize(("dense", "sparse"), [([], []), ([True], [True, False])])
def test_verdicts_on_other_passages_are_not_compared(dense, sparse):
    with pytest.raises(ValueError, match="same passages"):
        paired(dense, sparse)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    ranked = sorted(zip(p_values, adjusted, strict=True))
    assert [a for _, a in ranked] == sorted(adjusted)


def flips(broke: int, mended: int, both_right: int = 30, both_wrong: int = 80) -> Paired:
    """A comparison with this table."""
    dense = [True] * (both_right + broke) + [False] * (mended + both_wrong)
    sparse = [True] * both_right + [False] * broke + [True] * mended + [False] * both_wrong
    return paired(dense, sparse)


def test_interval_and_test_that_agree_decide():
    assert judge(flips(20, 2)) == "shown"
    assert judge(flips(4, 3)) == "not-shown"
    assert judge(flips(0, 0)) == "not-shown"


def test_interval_and_test_that_disagree_are_borderline():
    found = flips(9, 2, both_right=27, both_wrong=82)
    assert found.interval[1] < 0 < 0.05 < found.p_value
    assert judge(found) == "borderline"
    assert judge(found, p_value=0.01) == "shown"


def test_an_adjusted_p_value_can_take_a_difference_back():
    assert judge(flips(20, 2), p_value=0.2) == "borderline"


def test_passages_needed_by_hand():
    found = flips(9, 2, both_right=27, both_wrong=82)
    spread = 1.959964 * sqrt(11 / 120) + 0.841621 * sqrt(11 / 120 - (7 / 120) ** 2)
    assert passages_needed(found) == -int(-((spread / (7 / 120)) ** 2) // 1) == 210
    assert passages_needed(flips(2, 9, both_right=27, both_wrong=82)) == 210


def test_no_number_of_passages_shows_a_difference_that_is_not_there():
    assert passages_needed(flips(4, 4)) is None
    assert passages_needed(flips(0, 0)) is None


@given(counts, counts, counts, counts)
def test_what_is_not_shown_needs_more_passages_than_there_are(right, broke, mended, wrong):
    if broke != mended and mcnemar(broke, mended) >= 0.05:
        found = flips(broke, mended, right, wrong)
        assert passages_needed(found) > right + broke + mended + wrong


@pytest.mark.parametrize(
    ("broke", "mended"), [(0.09, 0.05), (0.15, 0.10), (0.04, 0.01), (0.30, 0.24)]
)
def test_with_the_passages_needed_the_test_shows_the_difference_four_times_of_five(broke, mended):
    found = flips(
        round(1000 * broke), round(1000 * mended), 300, 700 - round(1000 * (broke + mended))
    )
    n = passages_needed(found)
    shares = (0.3, broke, mended, 0.7 - broke - mended)
    tables = np.random.default_rng(11).multinomial(n, shares, size=4_000)
    unique, times = np.unique(tables[:, 1:3], axis=0, return_counts=True)
    shown = sum(
        t for (b, m), t in zip(unique.tolist(), times.tolist(), strict=True) if mcnemar(b, m) < 0.05
    )
    # The exact test is a little stricter than the approximation that the formula rests on.
    assert 0.74 <= shown / len(tables) <= 0.83
