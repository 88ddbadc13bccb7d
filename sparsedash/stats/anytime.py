"""Anytime-valid tests and intervals of accuracy, and planned looks: statistics of an evaluation
that may stop early.

Every passage gives x: 1 where it was fixed, -1 where it broke, 0 where both verdicts are the same.
A bet against the hypothesis that the mean of x is `mean` multiplies its stake by (1 + s x) / (1 + s
mean) at each passage, which is 1 on average if the hypothesis is true, for any s between -1 and 1.
The e-value is the stake after all passages, averaged uniformly over s. By Ville's inequality it
ever reaches 20 with a chance of at most 1 in 20, so that 1 / e is a p-value at any moment, and the
means whose e-value stays under 20 are a 95 % interval at all moments together. Against a mean of
zero it is the sign test of the flips, with a uniform prior on the share of them that is fixed.

Assumes that passages are a sample of those the statement is about, and that their order has nothing
to do with the
answers: the evaluator shuffles them. Sources: Ville, Étude critique de la notion de collectif
(1939); Robbins, Annals of Mathematical Statistics 41 (1970), mixtures; Waudby-Smith and Ramdas,
JRSS B 86 (2024), means by betting.

Planned looks are fixed before any answer is seen. Early ones spend little of the chance of error,
so that only clear cases end there, and the last one has nearly all: its interval is a few percent
wider than without looks, where an anytime-valid one would be a third wider. The shares add up to 1,
which holds however the looks depend on each other.
Sources: Haybittle, British Journal of Radiology 44 (1971); Peto and others, British Journal of
Cancer 34 (1976), with their early bound as a share of the whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import exp, lgamma, log

import numpy as np

from sparsedash.schema.records import Decision
from sparsedash.schema.tolerance_settings import ALPHA

MARGIN = 0.02
"""A difference whose whole interval is closer to zero than this, 2 points, is called close."""

_PRECISION = 1e-6
_TURNS = np.linspace(-np.pi / 2, np.pi / 2, 4097)[1:-1]
_S = np.sin(_TURNS)
"""Where the integrand is summed: dense at both ends, where it is steep."""
_UP = np.log1p(_S)
_DOWN = np.log1p(-_S)
_WEIGHTS = np.log(np.cos(_TURNS) * np.pi / 4096 / 2)

_EARLY_SHARE = 0.05
_MAX_EARLY = 5
_FIRST = 48
"""Passages of the earliest look: fewer leave little to save, and intervals of skewed losses little
to trust.
"""


def anytime_p(broke: int, fixed: int) -> float:
    """Chance, at most, that flips ever get this lopsided at any look if neither model is better."""
    flips = broke + fixed
    ways = lgamma(flips + 1) - lgamma(broke + 1) - lgamma(fixed + 1)
    return exp(min(0.0, log(flips + 1) + ways - flips * log(2)))


@lru_cache(maxsize=4096)
def anytime_interval(
    broke: int, fixed: int, n_passages: int, alpha: float = ALPHA
) -> tuple[float, float]:
    """Interval of the mean of x, here sparse minus dense accuracy, that holds it at all looks
    together.

    With right answers as fixed, and none as broken, it is the interval of an accuracy.
    """
    observed = (fixed - broke) / n_passages

    def holds(mean: float) -> bool:
        return (
            mean == observed
            if abs(mean) == 1
            else log_e_value(broke, fixed, n_passages, mean) < -log(alpha)
        )

    # A mixture of log-convex functions of the mean: the means held are one interval around the
    # observed one.
    return bisect_boundary(holds, observed, -1.0), bisect_boundary(holds, observed, 1.0)


def log_e_value(broke: int, fixed: int, n_passages: int, mean: float) -> float:
    """Logarithm of the e-value against this mean, which is more than -1 and less than 1.

    log of 1/2 * integral over s from -1 to 1 of (1+s)^fixed (1-s)^broke (1+s mean)^-n_passages.
    """
    heights = fixed * _UP + broke * _DOWN - n_passages * np.log1p(_S * mean) + _WEIGHTS
    top = float(heights.max())
    return top + log(float(np.exp(heights - top).sum()))


def decide_difference(
    broke: int, fixed: int, n_passages: int, n_comparisons: int
) -> Decision:
    """Whether these passages show a difference, or one that is close to none, or leave it open.

    n_comparisons: of the same run; either decision allows for all of them.
    """
    if n_comparisons * anytime_p(broke, fixed) < ALPHA:
        return "difference"
    # Whether the interval is within the margins, without a search for its ends.
    is_close = abs(fixed - broke) < MARGIN * n_passages and all(
        log_e_value(broke, fixed, n_passages, mean) >= -log(ALPHA / n_comparisons)
        for mean in (-MARGIN, MARGIN)
    )
    return "close" if is_close else "open"


def bisect_boundary(
    holds: Callable[[float], bool], inside: float, outside: float
) -> float:
    """The last number from inside to outside for which it holds, to 1e-6."""
    if holds(outside):
        return outside
    while abs(outside - inside) > _PRECISION:
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return inside


@dataclass(frozen=True)
class Look:
    """A look after so many passages, and the share of the chance of error that it may spend."""

    n_passages: int
    share: float


def planned_looks(n_passages: int) -> tuple[Look, ...]:
    """The looks at a trial: at half of its passages, half of that, and so on."""
    counts = [n_passages]
    while len(counts) <= _MAX_EARLY and counts[-1] // 2 >= _FIRST:
        counts.append(counts[-1] // 2)
    early = [Look(count, _EARLY_SHARE) for count in reversed(counts[1:])]
    return (*early, Look(n_passages, 1 - _EARLY_SHARE * len(early)))
