"""How many times as fast one thing is as another, from rounds in which both were timed."""

import random
from collections.abc import Sequence
from math import comb
from statistics import median

from sparsedash.schema.pair_records import SpeedRatio

N_RESAMPLES = 2_000
_TAIL = 0.025


def speed_ratio(before_s: Sequence[float], after_s: Sequence[float], seed: int = 0) -> SpeedRatio:
    """The median of the rounds' ratios before / after, with its 95 % interval; above 1: after is faster.

    before_s, after_s: seconds of the same rounds, at least one. A machine that is slower for a while is slower for both
    of a round, which leaves their ratio as it is. The interval is the bootstrap's, by this seed; a resampled median of
    few rounds is too sure of itself, so that it is never narrower than what the order of the ratios guarantees.
    """
    ratios = sorted(b / a for b, a in zip(before_s, after_s, strict=True))
    drawn = random.Random(seed)
    medians = sorted(median(drawn.choices(ratios, k=len(ratios))) for _ in range(N_RESAMPLES))
    tail, cut = round(_TAIL * N_RESAMPLES), _cut_off(len(ratios))
    low, high = min(medians[tail], ratios[cut]), max(medians[-1 - tail], ratios[-1 - cut])
    return SpeedRatio(value=median(ratios), low=low, high=high)


def _cut_off(n: int) -> int:
    """How many of n values may be cut off at either end so that the rest holds the true median with 95 %.

    So many or fewer of n lie below the median by chance with at most 2.5 %; with fewer than six none may be cut off.
    """
    below, k = 0.0, 0
    while (below := below + comb(n, k) / 2**n) <= _TAIL:
        k += 1
    return max(0, k - 1)


def is_narrow(ratio: SpeedRatio, within: float) -> bool:
    """Whether both ends of the interval are nearer to the ratio than this share of it."""
    return max(ratio.high - ratio.value, ratio.value - ratio.low) < within * ratio.value


def median_s(seconds: Sequence[float]) -> float:
    """The median of some times."""
    return median(seconds)
