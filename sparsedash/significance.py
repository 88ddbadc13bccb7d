"""How sure we are that sparse differs from dense: both answered the same passages, so everything measured here is paired.

Interval of the paired difference: Newcombe's hybrid score (method 10, Statistics in Medicine 17, 1998), built on Wilson's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, comb, sqrt
from typing import Literal

Z_95 = 1.959963984540054
Z_POWER_80 = 0.8416212335729143
SHOWN_BELOW = 0.05
"""A test calls a difference shown when its p-value is under this; the intervals are its complement, 95 %."""

Judgement = Literal["shown", "borderline", "not-shown"]
"""What interval and test say together; borderline where one of them shows a difference and the other does not."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Dense against sparse on the same passages.

    broke: right before, wrong now. mended: wrong before, right now.
    difference: sparse minus dense accuracy, -1 to 1. interval: 95 %, around the difference.
    p_value: exact McNemar, two-sided; chance of flips this lopsided if neither model were better.
    """

    both_right: int
    broke: int
    mended: int
    both_wrong: int
    difference: float
    interval: tuple[float, float]
    p_value: float


def paired(dense: Sequence[bool], sparse: Sequence[bool]) -> Paired:
    """The comparison of two sets of verdicts on the same passages, in the same order.

    Raises ValueError when the lengths differ or there are none.
    """
    if len(dense) != len(sparse) or not dense:
        raise ValueError("dense and sparse need the same passages, at least one")
    both_right = sum(d and s for d, s in zip(dense, sparse, strict=True))
    broke = sum(d and not s for d, s in zip(dense, sparse, strict=True))
    mended = sum(s and not d for d, s in zip(dense, sparse, strict=True))
    both_wrong = len(dense) - both_right - broke - mended
    return Paired(
        both_right=both_right,
        broke=broke,
        mended=mended,
        both_wrong=both_wrong,
        difference=(mended - broke) / len(dense),
        interval=paired_interval(both_right, broke, mended, both_wrong),
        p_value=mcnemar(broke, mended),
    )


def judge(comparison: Paired, p_value: float | None = None) -> Judgement:
    """What the comparison shows. p_value: an adjusted one, in place of the comparison's own."""
    p = comparison.p_value if p_value is None else p_value
    low, high = comparison.interval
    says = {p < SHOWN_BELOW, not low <= 0 <= high}
    return "borderline" if len(says) == 2 else "shown" if True in says else "not-shown"


def passages_needed(comparison: Paired) -> int | None:
    """Passages that show a difference of this size four times of five, if flips stay as frequent as they are here.

    None when as many broke as were mended: no number of passages shows a difference that is not there.
    Source: Connor, Biometrics 43 (1987), the size of a McNemar test at 5 %, two-sided, with a power of 80 %.
    """
    if comparison.broke == comparison.mended:
        return None
    total = comparison.both_right + comparison.broke + comparison.mended + comparison.both_wrong
    flips = (comparison.broke + comparison.mended) / total
    difference = abs(comparison.mended - comparison.broke) / total
    spread = Z_95 * sqrt(flips) + Z_POWER_80 * sqrt(flips - difference**2)
    return ceil((spread / difference) ** 2)


def mcnemar(broke: int, mended: int) -> float:
    """Two-sided exact McNemar p: binomial test of the discordant pairs against one half."""
    n = broke + mended
    if n == 0:
        return 1.0
    tail = sum(comb(n, k) for k in range(min(broke, mended) + 1))
    return min(1.0, float(2 * tail / (1 << n)))


def wilson(right: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a share, within 0 to 1. Raises ValueError when total is 0."""
    if total <= 0:
        raise ValueError("an interval needs at least one passage")
    share = right / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_interval(
    both_right: int, broke: int, mended: int, both_wrong: int, z: float = Z_95
) -> tuple[float, float]:
    """Interval of sparse minus dense accuracy for paired verdicts (Newcombe 1998, method 10)."""
    n = both_right + broke + mended + both_wrong
    sparse, dense = (both_right + mended) / n, (both_right + broke) / n
    sparse_low, sparse_high = wilson(both_right + mended, n, z)
    dense_low, dense_high = wilson(both_right + broke, n, z)
    phi = _correlation(both_right, broke, mended, both_wrong)
    below = (sparse - sparse_low) ** 2 + (dense_high - dense) ** 2
    below -= 2 * phi * (sparse - sparse_low) * (dense_high - dense)
    above = (sparse_high - sparse) ** 2 + (dense - dense_low) ** 2
    above -= 2 * phi * (sparse_high - sparse) * (dense - dense_low)
    difference = sparse - dense
    return difference - sqrt(max(0.0, below)), difference + sqrt(max(0.0, above))


def unpaired_interval(
    dense: tuple[int, int], sparse: tuple[int, int], z: float = Z_95
) -> tuple[float, float]:
    """Interval of sparse minus dense accuracy when only totals are known, not which passages flipped.

    dense, sparse: right and total. Wider than the paired interval of the same passages, since two models that share their
    weights mostly agree. Source: Newcombe 1998, the same hybrid score without a correlation.
    """
    dense_share, sparse_share = dense[0] / dense[1], sparse[0] / sparse[1]
    dense_low, dense_high = wilson(*dense, z)
    sparse_low, sparse_high = wilson(*sparse, z)
    difference = sparse_share - dense_share
    return (
        difference - sqrt((sparse_share - sparse_low) ** 2 + (dense_high - dense_share) ** 2),
        difference + sqrt((sparse_high - sparse_share) ** 2 + (dense_share - dense_low) ** 2),
    )


def _correlation(a: int, b: int, c: int, d: int) -> float:
    """Newcombe's continuity-corrected phi of the two-by-two table."""
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if margins == 0:
        return 0.0
    product = float(a * d - b * c)
    n = a + b + c + d
    if product > 0:
        product = max(0.0, product - n / 2)
    return product / sqrt(margins)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: they keep the family's error rate over a sweep."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for position, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - position) * p_values[i]))
        adjusted[i] = highest
    return adjusted
