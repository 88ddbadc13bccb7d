"""The smallest loss that so many passages show: what a quick look can see, and what it cannot.

A loss is shown where the 95 % interval of the paired difference leaves zero out, four times of five. How much passages
differ is not known before a run; the spreads here are those of the run that ships as an example, at 10 % of the
channels, where three methods lie within a tenth of each other. Larger losses spread more, and need no help to be seen.
"""

from dataclasses import dataclass
from math import exp, sqrt
from statistics import NormalDist

SPREAD_NATS, SPREAD_FLIPS = 0.85, 0.18
"""Standard deviations over passages: of the fall of the target's log-likelihood, and of a verdict's change."""

_Z = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)


@dataclass(frozen=True, kw_only=True)
class SmallestLoss:
    """ratio: of word perplexity to the dense model's. points: of accuracy, in percentage points."""

    ratio: float
    points: float


def smallest_loss(n_passages: int) -> SmallestLoss:
    """What so many passages show, about. n_passages: at least one."""
    shown = _Z / sqrt(n_passages)
    return SmallestLoss(ratio=exp(shown * SPREAD_NATS), points=100 * shown * SPREAD_FLIPS)
