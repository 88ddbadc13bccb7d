"""How many times as fast one thing is as another, from rounds in which both were timed."""

import random
from collections.abc import Sequence
from statistics import median

from sparsedash.schema.pair_records import SpeedRatio

N_RESAMPLES = 2_000
FEW_ROUNDS = 9
"""With so few, resampling a median is too sure of itself: the interval reaches from the smallest ratio to the largest.
Of six rounds that holds the true median with a chance of 97 %, of five with one of 94 %.
"""


def speed_ratio(before_s: Sequence[float], after_s: Sequence[float], seed: int = 0) -> SpeedRatio:
    """The median of the rounds' ratios before / after, with its 95 % bootstrap interval; above 1: after is faster.

    before_s, after_s: seconds of the same rounds, at least one. A machine that is slower for a while is slower for both
    of a round, which leaves their ratio as it is. seed: the same rounds give the same interval.
    """
    ratios = sorted(b / a for b, a in zip(before_s, after_s, strict=True))
    if len(ratios) <= FEW_ROUNDS:
        return SpeedRatio(value=median(ratios), low=ratios[0], high=ratios[-1])
    drawn = random.Random(seed)
    medians = sorted(median(drawn.choices(ratios, k=len(ratios))) for _ in range(N_RESAMPLES))
    tail = round(0.025 * N_RESAMPLES)
    return SpeedRatio(value=median(ratios), low=medians[tail], high=medians[-1 - tail])


def is_narrow(ratio: SpeedRatio, within: float) -> bool:
    """Whether both ends of the interval are nearer to the ratio than this share of it."""
    return max(ratio.high - ratio.value, ratio.value - ratio.low) < within * ratio.value


def median_s(seconds: Sequence[float]) -> float:
    """The median of some times."""
    return median(seconds)
