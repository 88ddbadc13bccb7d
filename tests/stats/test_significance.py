"""Paired tests and intervals: against other implementations, published examples and simulation."""

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from scipy.stats import binomtest
from statsmodels.stats import contingency_tables

from sparsedash.schema.records import Record, Stopping
from sparsedash.stats import significance
from sparsedash.stats.anytime import anytime_interval, anytime_p
from tests.factories import RECORD, outcome

counts = st.integers(0, 300)


@given(counts, counts, counts, counts)
def test_mcnemar_is_the_exact_one_of_statsmodels(both_right, broke, fixed, both_wrong):
    table = [[both_right, broke], [fixed, both_wrong]]
    expected = contingency_tables.mcnemar(table, exact=True).pvalue
    assert significance.mcnemar(broke, fixed) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_counts_more_than_a_float_can():
    assert (
        0 < significance.mcnemar(2600, 2400) < 0.01
        and significance.mcnemar(5000, 0) == 0.0
    )


@given(counts, counts)
def test_wilson_is_the_score_interval_of_scipy(right, wrong):
    total = right + wrong or 1
    expected = binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert significance.wilson_interval(right, total) == pytest.approx(
        (expected.low, expected.high), abs=1e-12
    )


@pytest.mark.parametrize(
    ("broke", "fixed", "n", "published"),
    [
        pytest.param(
            1,
            7,
            21,
            (-0.026, -0.517),
            id="Fagerland 2014, airway reactivity",
        ),
        pytest.param(12, 2, 50, (0.345, 0.061), id="Newcombe 1998, 36 12 2 0"),
    ],
)
def test_the_paired_interval_is_the_published_one(broke, fixed, n, published):
    """Published as first minus second; here the difference is second minus first."""
    low, high = significance.paired_interval(broke, fixed, n)
    assert (round(-low, 3), round(-high, 3)) == published


def score_rejects(broke: int, fixed: int, n: int, difference: float) -> bool:
    """The score test of one difference, with the likeliest shares under it found by search and not
    by formula.
    """

    def unlikeliness(share: float) -> float:
        shares = share, share + difference, 1 - 2 * share - difference
        return -sum(
            xlogy(k, max(p, 1e-300))
            for k, p in zip((broke, fixed, n - broke - fixed), shares, strict=True)
        )

    bounds = max(0.0, -difference), (1 - difference) / 2
    share = minimize_scalar(
        unlikeliness,
        bounds=bounds,
        options={"xatol": 1e-12},
    ).x
    variance = n * (2 * share + difference - difference**2)
    return (fixed - broke - n * difference) ** 2 > significance.Z_95**2 * variance


@given(st.integers(0, 40), st.integers(0, 40), st.integers(10, 300))
def test_the_paired_interval_ends_where_the_score_test_begins_to_reject(
    broke, fixed, same
):
    n = broke + fixed + same
    low, high = significance.paired_interval(broke, fixed, n)
    for end, outwards in ((low, -1e-4), (high, 1e-4)):
        if abs(end) < 0.99:
            assert score_rejects(broke, fixed, n, end + outwards)
            assert not score_rejects(broke, fixed, n, end - outwards)


@given(counts, counts, counts)
def test_the_paired_interval_holds_the_difference_and_turns_with_the_models(
    broke, fixed, same
):
    n = broke + fixed + same or 1
    low, high = significance.paired_interval(broke, fixed, n)
    assert -1 <= low <= (fixed - broke) / n <= high <= 1
    assert significance.paired_interval(fixed, broke, n) == pytest.approx(
        (-high, -low), abs=2e-6
    )


def test_a_comparison_counts_the_flips_and_signs_the_difference():
    dense = [True, True, True, False, False]
    sparse = [True, False, False, True, False]
    comparison = significance.compare_verdicts(dense, sparse)
    assert (
        comparison.both_right,
        comparison.broke,
        comparison.fixed,
        comparison.both_wrong,
    ) == (
        1,
        2,
        1,
        1,
    )
    assert comparison.difference == pytest.approx(-1 / 5)
    assert comparison.interval == significance.paired_interval(2, 1, 5)
    assert comparison.p_value == significance.mcnemar(2, 1)


def answers(right: dict[int, bool], stopping: Stopping | None = None) -> Record:
    """A record with these verdicts by passage."""
    outcomes = tuple(outcome(index, correct) for index, correct in right.items())
    return replace(RECORD, outcomes=outcomes, stopping=stopping)


STOPPED = Stopping(
    decision="difference",
    n_answered=2,
    n_passages=4,
    p_value=0.01,
    interval=(-0.2, -0.1),
    margin=0.02,
    n_comparisons=1,
)


def test_a_passage_that_one_record_did_not_answer_is_not_counted():
    dense = answers(dict.fromkeys(range(4), True))
    sparse = answers({1: False, 3: True}, STOPPED)
    assert [
        (one.index, two.index)
        for one, two in significance.shared_outcomes(dense, sparse)
    ] == [
        (1, 1),
        (3, 3),
    ]
    for result in (
        significance.compare_records(dense, sparse),
        significance.compare_records(sparse, dense),
    ):
        assert (result.both_right, result.broke + result.fixed, result.both_wrong) == (
            1,
            1,
            0,
        )
        assert result.n_passages == 2


def test_a_record_that_was_to_stop_early_is_compared_by_what_is_valid_at_any_look():
    dense = answers(dict.fromkeys(range(30), True))
    sparse = answers({i: i > 8 for i in range(30)})
    fixed = significance.compare_records(dense, sparse)
    assert (fixed.anytime, fixed.p_value) == (False, significance.mcnemar(9, 0))
    anytime = significance.compare_records(dense, replace(sparse, stopping=STOPPED))
    assert (anytime.anytime, anytime.p_value) == (True, anytime_p(9, 0))
    assert anytime.interval == anytime_interval(9, 0, 30)
    assert anytime.interval[0] < fixed.interval[0]
    assert anytime.interval[1] > fixed.interval[1]


def test_the_accuracy_of_a_record_that_was_to_stop_early_has_a_wider_interval():
    plain = answers({i: i > 8 for i in range(30)})
    assert significance.accuracy_interval(plain) == significance.wilson_interval(21, 30)
    low, high = significance.accuracy_interval(replace(plain, stopping=STOPPED))
    assert 0 <= low < significance.wilson_interval(21, 30)[0]
    assert significance.wilson_interval(21, 30)[1] < high <= 1


def test_holm_by_hand():
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert significance.holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert significance.holm([0.02]) == [0.02]
    assert significance.holm([]) == []
    assert (
        significance.holm([0.01, 0.03], n_compared=4)
        == significance.holm([0.01, 0.03, 1.0, 1.0])[:2]
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_rejects_what_bonferroni_rejects_in_every_family_that_holds_it(p_values):
    """Holm is the closed test: a p-value is adjusted to the largest Bonferroni p of the sets that
    it belongs to.
    """
    expected = [0.0] * len(p_values)
    for n in range(1, len(p_values) + 1):
        for family in combinations(range(len(p_values)), n):
            bonferroni = min(1.0, n * min(p_values[i] for i in family))
            for i in family:
                expected[i] = max(expected[i], bonferroni)
    assert significance.holm(p_values) == pytest.approx(expected)
