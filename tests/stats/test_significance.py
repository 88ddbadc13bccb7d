"""The doubt beside every number: against other implementations, published examples and simulation."""

from dataclasses import replace
from itertools import combinations
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from scipy.stats import binomtest, norm
from statsmodels.stats import contingency_tables, multitest, proportion

from sparsedash.schema.records import Record, Stopping
from sparsedash.stats.anytime import anytime_interval, anytime_p
from sparsedash.stats.significance import (
    Z_95,
    Z_POWER_80,
    PairedComparison,
    accuracy_interval,
    compare_records,
    compare_verdicts,
    holm,
    judge_difference,
    mcnemar,
    paired_interval,
    passages_needed,
    shared_outcomes,
    wilson_interval,
)
from tests.factories import RECORD, outcome

counts = st.integers(0, 300)


def test_z_is_the_normal_quantile_of_95_percent():
    assert pytest.approx(norm.ppf(0.975), abs=1e-15) == Z_95
    assert pytest.approx(norm.ppf(0.8), abs=1e-15) == Z_POWER_80


@given(counts, counts)
def test_mcnemar_is_the_binomial_test_of_the_flips(broke, mended):
    expected = binomtest(broke, broke + mended).pvalue if broke + mended else 1.0
    assert mcnemar(broke, mended) == pytest.approx(expected, rel=1e-9)


@given(counts, counts, counts, counts)
def test_mcnemar_is_the_exact_one_of_statsmodels(both_right, broke, mended, both_wrong):
    table = [[both_right, broke], [mended, both_wrong]]
    expected = contingency_tables.mcnemar(table, exact=True).pvalue
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
    assert wilson_interval(right, total) == pytest.approx((expected.low, expected.high), abs=1e-12)
    expected = proportion.proportion_confint(right, total, method="wilson")
    assert wilson_interval(right, total) == pytest.approx(expected, abs=1e-12)


@given(counts, counts)
def test_wilson_stays_between_0_and_1_and_holds_the_share(right, wrong):
    total = right + wrong or 1
    low, high = wilson_interval(right, total)
    assert 0 <= low <= high <= 1
    assert low - 1e-12 <= right / total <= high + 1e-12


def test_an_interval_of_no_passages_is_refused():
    with pytest.raises(ValueError, match="at least one passage"):
        wilson_interval(0, 0)


@pytest.mark.parametrize(
    ("broke", "mended", "n", "published"),
    [
        pytest.param(1, 7, 21, (-0.026, -0.517), id="Fagerland 2014, airway reactivity"),
        pytest.param(12, 2, 50, (0.345, 0.061), id="Newcombe 1998, 36 12 2 0"),
    ],
)
def test_the_paired_interval_is_the_published_one(broke, mended, n, published):
    """Published as first minus second; here the difference is second minus first."""
    low, high = paired_interval(broke, mended, n)
    assert (round(-low, 3), round(-high, 3)) == published


def score_rejects(broke: int, mended: int, n: int, difference: float) -> bool:
    """The score test of one difference, with the likeliest shares under it found by search and not by formula."""

    def unlikeliness(share: float) -> float:
        shares = share, share + difference, 1 - 2 * share - difference
        return -sum(xlogy(k, max(p, 1e-300)) for k, p in zip((broke, mended, n - broke - mended), shares, strict=True))

    bounds = max(0.0, -difference), (1 - difference) / 2
    share = minimize_scalar(unlikeliness, bounds=bounds, options={"xatol": 1e-12}).x
    variance = n * (2 * share + difference - difference**2)
    return (mended - broke - n * difference) ** 2 > Z_95**2 * variance


@given(st.integers(0, 40), st.integers(0, 40), st.integers(10, 300))
def test_the_paired_interval_ends_where_the_score_test_begins_to_reject(broke, mended, same):
    n = broke + mended + same
    low, high = paired_interval(broke, mended, n)
    for end, outwards in ((low, -1e-4), (high, 1e-4)):
        if abs(end) < 0.99:
            assert score_rejects(broke, mended, n, end + outwards)
            assert not score_rejects(broke, mended, n, end - outwards)


@given(counts, counts, st.integers(1, 5000))
def test_zero_is_in_the_paired_interval_where_mcnemars_statistic_is_small(broke, mended, same):
    low, high = paired_interval(broke, mended, broke + mended + same)
    statistic = (mended - broke) ** 2 / max(1, broke + mended)
    if abs(statistic - Z_95**2) > 1e-3:
        assert (low <= 0 <= high) == (statistic < Z_95**2)


@given(counts, counts, counts)
def test_the_paired_interval_holds_the_difference_and_turns_with_the_models(broke, mended, same):
    n = broke + mended + same or 1
    low, high = paired_interval(broke, mended, n)
    assert -1 <= low <= (mended - broke) / n <= high <= 1
    assert paired_interval(mended, broke, n) == pytest.approx((-high, -low), abs=2e-6)


def test_a_comparison_counts_the_flips_and_signs_the_difference():
    dense = [True, True, True, False, False]
    sparse = [True, False, False, True, False]
    found = compare_verdicts(dense, sparse)
    assert (found.both_right, found.broke, found.mended, found.both_wrong) == (1, 2, 1, 1)
    assert found.difference == pytest.approx(-1 / 5)
    assert found.interval == paired_interval(2, 1, 5)
    assert found.p_value == mcnemar(2, 1)


def test_a_model_compared_with_itself_shows_no_difference():
    found = compare_verdicts([True, False] * 100, [True, False] * 100)
    assert (found.difference, found.p_value) == (0.0, 1.0)
    assert found.interval == pytest.approx((0.0, 0.0), abs=0.02)
    assert found.interval[0] <= 0 <= found.interval[1]


@pytest.mark.parametrize(("dense", "sparse"), [([], []), ([True], [True, False])])
def test_verdicts_on_other_passages_are_not_compared(dense, sparse):
    with pytest.raises(ValueError, match="same passages"):
        compare_verdicts(dense, sparse)


def answers(right: dict[int, bool], stopping: Stopping | None = None) -> Record:
    """A record with these verdicts by passage."""
    outcomes = tuple(outcome(index, correct) for index, correct in right.items())
    return replace(RECORD, outcomes=outcomes, stopping=stopping)


STOPPED = Stopping(
    decision="difference", n_answered=2, n_passages=4, p_value=0.01, interval=(-0.2, -0.1), margin=0.02, n_comparisons=1
)


def test_a_passage_that_one_record_did_not_answer_is_not_counted():
    dense = answers(dict.fromkeys(range(4), True))
    sparse = answers({1: False, 3: True}, STOPPED)
    assert [(one.index, two.index) for one, two in shared_outcomes(dense, sparse)] == [(1, 1), (3, 3)]
    for found in (compare_records(dense, sparse), compare_records(sparse, dense)):
        assert (found.both_right, found.broke + found.mended, found.both_wrong) == (1, 1, 0)
        assert found.n_passages == 2


def test_a_record_that_was_to_stop_early_is_compared_by_what_is_valid_at_any_look():
    dense, sparse = answers(dict.fromkeys(range(30), True)), answers({i: i > 8 for i in range(30)})
    fixed = compare_records(dense, sparse)
    assert (fixed.anytime, fixed.p_value) == (False, mcnemar(9, 0))
    anytime = compare_records(dense, replace(sparse, stopping=STOPPED))
    assert (anytime.anytime, anytime.p_value) == (True, anytime_p(9, 0))
    assert anytime.interval == anytime_interval(9, 0, 30)
    assert anytime.interval[0] < fixed.interval[0]
    assert anytime.interval[1] > fixed.interval[1]


def test_the_accuracy_of_a_record_that_was_to_stop_early_has_a_wider_interval():
    plain = answers({i: i > 8 for i in range(30)})
    assert accuracy_interval(plain) == wilson_interval(21, 30)
    low, high = accuracy_interval(replace(plain, stopping=STOPPED))
    assert 0 <= low < wilson_interval(21, 30)[0]
    assert wilson_interval(21, 30)[1] < high <= 1


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
    assert holm([0.01, 0.03], n_compared=4) == holm([0.01, 0.03, 1.0, 1.0])[:2]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_rejects_what_bonferroni_rejects_in_every_family_that_holds_it(p_values):
    """Holm is the closed test: a p-value is adjusted to the largest Bonferroni p of the sets that it belongs to."""
    sets = [s for n in range(1, len(p_values) + 1) for s in combinations(range(len(p_values)), n)]
    bonferroni = {s: min(1.0, len(s) * min(p_values[i] for i in s)) for s in sets}
    expected = [max(p for s, p in bonferroni.items() if i in s) for i in range(len(p_values))]
    assert holm(p_values) == pytest.approx(expected)


def test_holm_over_exact_and_anytime_p_values_keeps_the_error_rate_of_all():
    """Five null comparisons on the same passages, three of them stopped at the worst of four looks."""
    rng, alarmed = np.random.default_rng(3), 0
    for _ in range(1000):
        signs = np.sign(rng.integers(-1, 2, (5, 800)) * (rng.random((5, 800)) < 0.15))
        p_values = [mcnemar(int((row < 0).sum()), int((row > 0).sum())) for row in signs[:2]]
        for row in signs[2:]:
            looks = [row[:n] for n in (200, 400, 600, 800)]
            p_values.append(min(anytime_p(int((x < 0).sum()), int((x > 0).sum())) for x in looks))
        alarmed += min(holm(p_values)) < 0.05
    assert alarmed <= 50 + 3 * (1000 * 0.05 * 0.95) ** 0.5


# Few examples: statsmodels collects all garbage of the process in each call.
@settings(max_examples=10)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_holm_is_that_of_statsmodels(p_values):
    _, expected, *_ = multitest.multipletests(p_values, method="holm")
    assert holm(p_values) == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    ranked = sorted(zip(p_values, adjusted, strict=True))
    assert [a for _, a in ranked] == sorted(adjusted)


def flips(broke: int, mended: int, both_right: int = 30, both_wrong: int = 80) -> PairedComparison:
    """A comparison with this table."""
    dense = [True] * (both_right + broke) + [False] * (mended + both_wrong)
    sparse = [True] * both_right + [False] * broke + [True] * mended + [False] * both_wrong
    return compare_verdicts(dense, sparse)


def test_interval_and_test_that_agree_decide():
    assert judge_difference(flips(20, 2)) == "shown"
    assert judge_difference(flips(4, 3)) == "not-shown"
    assert judge_difference(flips(0, 0)) == "not-shown"


def test_interval_and_test_that_disagree_are_borderline():
    found = flips(9, 2, both_right=27, both_wrong=82)
    assert found.interval[1] < 0 < 0.05 < found.p_value
    assert judge_difference(found) == "borderline"
    assert judge_difference(found, p_value=0.01) == "shown"


def test_an_adjusted_p_value_can_take_a_difference_back():
    assert judge_difference(flips(20, 2), p_value=0.2) == "borderline"


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


@pytest.mark.parametrize(("broke", "mended"), [(0.09, 0.05), (0.15, 0.10), (0.04, 0.01), (0.30, 0.24)])
def test_with_the_passages_needed_the_test_shows_the_difference_four_times_of_five(broke, mended):
    found = flips(round(1000 * broke), round(1000 * mended), 300, 700 - round(1000 * (broke + mended)))
    n = passages_needed(found)
    shares = (0.3, broke, mended, 0.7 - broke - mended)
    tables = np.random.default_rng(11).multinomial(n, shares, size=4_000)
    unique, times = np.unique(tables[:, 1:3], axis=0, return_counts=True)
    shown = sum(t for (b, m), t in zip(unique.tolist(), times.tolist(), strict=True) if mcnemar(b, m) < 0.05)
    # The exact test is a little stricter than the approximation that the formula rests on.
    assert 0.74 <= shown / len(tables) <= 0.83
