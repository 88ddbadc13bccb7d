"""How many times as fast one thing is as another, from rounds in which both were timed."""

from collections.abc import Sequence
from math import exp, log, sqrt
from statistics import fmean, median, stdev

from sparsedash.schema.pair_records import SpeedRatio
from sparsedash.stats.means import student_quantile

_TRIMMED = 0.25
_LEAST_LEFT = 3
_LEVEL = 0.95


def speed_ratio(before_s: Sequence[float], after_s: Sequence[float]) -> SpeedRatio:
    """The ratio before / after by the middle half of the rounds, with its 95 % interval; above 1: after is faster.

    before_s, after_s: seconds of the same rounds, at least one. A machine that is slower for a while is slower for both
    of a round, which leaves their ratio as it is; where it stalls for one of them the round is far out on its side, and
    trimmed. A quarter of the logarithms is trimmed on either side; the interval is Student's with their winsorised
    deviation. Of fewer than three rounds it reaches from the smallest ratio to the largest. Source: Yuen, Biometrika 61
    (1974); why, and how often it holds: docs/adr/0021.
    """
    logs = sorted(log(b / a) for b, a in zip(before_s, after_s, strict=True))
    n = len(logs)
    cut = max(0, min(int(_TRIMMED * n), (n - _LEAST_LEFT) // 2))
    left = logs[cut : n - cut]
    mean = fmean(left)
    if n < _LEAST_LEFT:
        return SpeedRatio(value=exp(mean), low=exp(logs[0]), high=exp(logs[-1]))
    winsorised = [left[0]] * cut + left + [left[-1]] * cut
    error = stdev(winsorised) * sqrt((n - 1) / (len(left) * (len(left) - 1)))
    radius = student_quantile((1 + _LEVEL) / 2, len(left) - 1) * error
    return SpeedRatio(value=exp(mean), low=exp(mean - radius), high=exp(mean + radius))


def is_narrow(ratio: SpeedRatio, within: float) -> bool:
    """Whether both ends of the interval are nearer to the ratio than this share of it."""
    return max(ratio.high - ratio.value, ratio.value - ratio.low) < within * ratio.value


def median_s(seconds: Sequence[float]) -> float:
    """The median of some times."""
    return median(seconds)
