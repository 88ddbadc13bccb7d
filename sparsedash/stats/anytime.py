"""Anytime-valid tests and intervals of accuracy, and planned looks: statistics of an evaluation that may stop early.

Every passage gives x: 1 where it was fixed, -1 where it broke, 0 where both verdicts are the same. Somebody who holds
that the mean of x is `mean` is bet against: each passage multiplies the stake by (1 + s x) / (1 + s mean), which is 1
on average if `mean` is the truth, whatever s between -1 and 1 was put and whatever went before. The e-value is the
stake after all passages, averaged over every s alike. By Ville's inequality it ever reaches 20 with a chance of 1 in 20
at most, so that 1 / e is a p-value at any moment, and the means whose e-value stays under 20 are a 95 % interval at all
moments together. Against a mean of zero it is the sign test of the flips, with a uniform prior on the share of them
that is fixed.

Assumes that passages are a sample of those the statement is about, and that their order has nothing to do with the
answers: the evaluator shuffles them. Sources: Ville, Étude critique de la notion de collectif (1939); Robbins, Annals
of Mathematical Statistics 41 (1970), mixtures; Waudby-Smith and Ramdas, JRSS B 86 (2024), means by betting.

Planned looks are fixed before anything is seen. Early ones spend little of the chance of error, so that only what is
beyond doubt ends there, and the last one has nearly all: its interval is a few percent wider than without looks, where
an anytime-valid one would be a third wider. The shares add up to 1, which holds however the looks depend on each other.
Source: Haybittle, British Journal of Radiology 44 (1971); Peto and others, British Journal of Cancer 34 (1976), with
their early bound as a share of the whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import exp, inf, lgamma, log

from sparsedash.schema.records import Decision

ALPHA = 0.05
MARGIN = 0.02
"""A difference whose whole interval is closer to zero than this, 2 points, is called close."""

_N_STEPS = 128
_NEGLIGIBLE = 40.0
"""Where the integrand is e^40 times smaller than at its peak, the rest of it is left out."""
_PRECISION = 1e-6


def anytime_p(broke: int, mended: int) -> float:
    """Chance, at most, that flips ever get this lopsided at any look if neither model is better."""
    flips = broke + mended
    ways = lgamma(flips + 1) - lgamma(broke + 1) - lgamma(mended + 1)
    return exp(min(0.0, log(flips + 1) + ways - flips * log(2)))


@lru_cache(maxsize=4096)
def anytime_interval(broke: int, mended: int, n_passages: int, alpha: float = ALPHA) -> tuple[float, float]:
    """Interval of the mean of x, here sparse minus dense accuracy, that holds it at all looks together.

    With right answers as mended, and none as broke, it is one of an accuracy. Raises ValueError when there are no
    passages.
    """
    if n_passages <= 0:
        raise ValueError("an interval needs at least one passage")
    found = (mended - broke) / n_passages

    def held(mean: float) -> bool:
        if abs(mean) == 1:
            return mean == found
        return log_e_value(broke, mended, n_passages, mean) < -log(alpha)

    # The e-value is a mixture of log-convex functions of the mean: what it holds is one interval around the observed
    # mean.
    return bisect_boundary(held, found, -1.0), bisect_boundary(held, found, 1.0)


def log_e_value(broke: int, mended: int, n_passages: int, mean: float) -> float:
    """Logarithm of the e-value against this mean, which is more than -1 and less than 1.

    log of 1/2 * integral over s from -1 to 1 of (1+s)^mended (1-s)^broke (1+s mean)^-n_passages, by Simpson's rule.
    """

    def height(s: float) -> float:
        parts = _times_log(mended, 1 + s) + _times_log(broke, 1 - s)
        return parts - _times_log(n_passages, 1 + s * mean)

    peak = _peak(broke, mended, n_passages, mean)
    top = height(peak)
    left, right = (_edge(height, peak, end) for end in (-1.0, 1.0))
    step = (right - left) / _N_STEPS
    heights = [exp(height(left + i * step) - top) for i in range(_N_STEPS + 1)]
    simpson = heights[0] + heights[-1] + 4 * sum(heights[1::2]) + 2 * sum(heights[2:-1:2])
    return top + log(simpson * step / 6)


def decide_difference(broke: int, mended: int, n_passages: int, n_comparisons: int) -> Decision:
    """Whether a difference is shown after these passages, or that it is close to none, or neither yet.

    n_comparisons: how many are made in the same run. A difference must be shown so clearly that Holm's adjustment over
    them cannot take it back.
    """
    if n_comparisons * anytime_p(broke, mended) < ALPHA:
        return "difference"
    # As where the interval is within the margins, without looking for its ends.
    if abs(mended - broke) < MARGIN * n_passages and all(
        log_e_value(broke, mended, n_passages, mean) >= -log(ALPHA) for mean in (-MARGIN, MARGIN)
    ):
        return "close"
    return "open"


def bisect_boundary(holds: Callable[[float], bool], inside: float, outside: float) -> float:
    """The last number from inside to outside, to 1e-6, for which it holds; it holds up to some number only."""
    if holds(outside):
        return outside
    while abs(outside - inside) > _PRECISION:
        middle = (inside + outside) / 2
        if holds(middle):
            inside = middle
        else:
            outside = middle
    return inside


def _times_log(count: int, value: float) -> float:
    if count == 0:
        return 0.0
    return count * log(value) if value > 0 else -inf


def _peak(broke: int, mended: int, n_passages: int, mean: float) -> float:
    """About the s where the integrand is largest: it rises before and falls after."""

    def rises(s: float) -> bool:
        if broke and s == 1:
            return False
        slope = -n_passages * mean / (1 + s * mean)
        slope += mended / (1 + s) if mended else 0.0
        slope -= broke / (1 - s) if broke else 0.0
        return slope >= 0

    return bisect_boundary(rises, -1.0, 1.0)


def _edge(height: Callable[[float], float], peak: float, end: float) -> float:
    """A place between peak and end beyond which the integrand, which only falls, is negligible; at most twice as far as
    need be.
    """
    least = height(peak) - _NEGLIGIBLE
    reach = end - peak
    while abs(reach) > _PRECISION and height(peak + reach / 2) < least:
        reach /= 2
    return peak + reach


_EARLY_SHARE = 0.05
_MOST_EARLY = 5
_FIRST = 48
"""Passages of the earliest look: fewer leave little to save, and intervals of skewed losses little to trust."""


@dataclass(frozen=True)
class Look:
    """After how many passages, and the share of the chance of error that it may spend."""

    n_passages: int
    share: float


def planned_looks(n_passages: int) -> tuple[Look, ...]:
    """The looks at a trial that answers so many passages at most: at half of them, half of that, and so on."""
    counts = [n_passages]
    while len(counts) <= _MOST_EARLY and counts[-1] // 2 >= _FIRST:
        counts.append(counts[-1] // 2)
    early = [Look(count, _EARLY_SHARE) for count in reversed(counts[1:])]
    return (*early, Look(n_passages, 1 - _EARLY_SHARE * len(early)))
