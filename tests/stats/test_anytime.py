"""Differences looked at while they grow: error rates at every look, by algebra and by simulation;
planned looks.
"""

from fractions import Fraction
from functools import cache
from math import comb, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from sparsedash.schema.tolerance_settings import ALPHA
from sparsedash.stats.anytime import (
    MARGIN,
    anytime_interval,
    anytime_p,
    decide_difference,
    log_e_value,
    planned_looks,
)

counts = st.integers(0, 120)


def sign_e_value(broke: int, fixed: int) -> Fraction:
    """Against a mean of zero, exactly: 2^n times the integral of p^fixed (1-p)^broke."""
    flips = broke + fixed
    return Fraction(2**flips, (flips + 1) * comb(flips, fixed))


@given(counts, counts)
def test_the_p_value_is_one_over_the_e_value_of_the_sign_test(broke, fixed):
    expected = min(1.0, float(1 / sign_e_value(broke, fixed)))
    assert anytime_p(broke, fixed) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(0, 60),
    st.floats(-0.3, 0.3),
)
def test_the_e_value_is_the_stake_averaged_over_every_bet(broke, fixed, same, mean):
    n = broke + fixed + same
    integral, _ = quad(
        lambda s: (1 + s) ** fixed * (1 - s) ** broke * (1 + s * mean) ** -n / 2,
        -1,
        1,
        limit=500,
    )
    assert log_e_value(broke, fixed, n, mean) == pytest.approx(log(integral), abs=2e-3)


@settings(deadline=None, max_examples=20)
@given(counts, counts, st.integers(0, 800))
def test_the_interval_holds_what_is_observed_and_leaves_zero_out_with_the_test(
    broke, fixed, same
):
    n = broke + fixed + same
    if n == 0:
        return
    low, high = anytime_interval(broke, fixed, n)
    assert -1 <= low <= (fixed - broke) / n <= high <= 1
    mirrored = anytime_interval(fixed, broke, n)
    assert mirrored == pytest.approx((-high, -low), abs=1e-5)
    p = anytime_p(broke, fixed)
    if abs(p - ALPHA) > 1e-3:
        assert (p < ALPHA) == (not low <= 0 <= high)


def test_decisions_by_hand():
    assert (
        decide_difference(24, 3, 256, 1)
        == decide_difference(24, 3, 256, 10)
        == "difference"
    )
    assert anytime_p(17, 3) == pytest.approx(21 * comb(20, 3) / 2**20)
    assert (
        decide_difference(17, 3, 256, 1)
        == decide_difference(17, 3, 256, 2)
        == "difference"
    )
    assert decide_difference(17, 3, 256, 3) == "open"
    assert decide_difference(3, 4, 256, 1) == "open"
    assert (
        decide_difference(60, 62, 3000, 1)
        == decide_difference(60, 62, 2200, 1)
        == "close"
    )
    assert decide_difference(60, 62, 2200, 10) == "open"
    assert (
        decide_difference(60, 90, 3000, 1)
        == decide_difference(90, 60, 3000, 1000)
        == "open"
    )


def flips_at_looks(rng, shares, n_runs: int, looks: list[int]) -> np.ndarray:
    """Running counts (n_runs, looks, 2) of broken and fixed passages."""
    sizes = np.diff([0, *looks])
    parts = [
        rng.multinomial(size, [*shares, 1 - sum(shares)], n_runs)[:, :2]
        for size in sizes
    ]
    return np.cumsum(np.stack(parts, axis=1), axis=1)


def share_ended(found: np.ndarray, decision: str, looks: list[int]) -> float:
    """Share of the runs whose first decision is this one."""
    decide_once = cache(decide_difference)
    ended = 0
    for run in found.tolist():
        decisions = (
            decide_once(broke, fixed, n, 1)
            for n, (broke, fixed) in zip(looks, run, strict=True)
        )
        ended += next((d for d in decisions if d != "open"), "open") == decision
    return ended / len(found)


@pytest.mark.parametrize("flips", [0.05, 0.3])
def test_looked_at_after_every_step_an_equal_model_is_called_different_one_time_of_20_at_most(
    flips,
):
    """Looks at the p-value alone, to the last passage, however early the evaluator might have
    stopped.
    """
    rng = np.random.default_rng(5)
    looks = list(range(16, 2000 + 1, 16))
    flips_seen = flips_at_looks(rng, (flips / 2, flips / 2), 1000, looks)
    pairs = np.unique(flips_seen.reshape(-1, 2), axis=0).tolist()
    p_values = {(b, m): anytime_p(b, m) for b, m in pairs}

    def is_alarmed(run):
        return any(p_values[b, m] < ALPHA for b, m in run)

    alarmed = sum(map(is_alarmed, flips_seen.tolist()))
    # 50 of 1,000 at most in expectation; three standard deviations of chance above it.
    assert alarmed <= 50 + 3 * (1000 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("difference", [MARGIN, -MARGIN])
def test_a_difference_at_the_margin_is_called_close_one_time_of_20_at_most(difference):
    looks = [256, 512, 1024, 1536, 2048, 3072, 4096]
    shares = ((0.06 - difference) / 2, (0.06 + difference) / 2)
    flips = flips_at_looks(np.random.default_rng(6), shares, 300, looks)
    assert share_ended(flips, "close", looks) <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5


@pytest.mark.parametrize("n", [1, 10, 95, 96, 132, 400, 5153, 1_000_000])
def test_the_shares_add_up_to_one_and_the_last_look_has_most(n):
    looks = planned_looks(n)
    assert sum(look.share for look in looks) == pytest.approx(1)
    assert looks[-1].n_passages == n and looks[-1].share >= 0.75
    assert [look.n_passages for look in looks] == sorted(
        {look.n_passages for look in looks}
    )


def test_looks_are_at_halves_and_never_at_too_few_passages():
    assert [look.n_passages for look in planned_looks(400)] == [50, 100, 200, 400]
    assert [look.n_passages for look in planned_looks(95)] == [95]
    assert len(planned_looks(5153)) == 6
