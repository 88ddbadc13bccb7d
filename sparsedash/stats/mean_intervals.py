"""Intervals of means and ratios for few and skewed values: losses, speed-ups, layer errors on other
text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import cos, exp, inf, isfinite, log, pi, sin, sqrt
from statistics import NormalDist, fmean, median, stdev

from sparsedash.schema.pair_records import SpeedRatio
from sparsedash.schema.records import Pruned

_TUNED_FOR = 500
"""Values at which the anytime-valid interval is narrowest."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Number, mean, standard deviation and range of some losses."""

    n: int
    mean: float
    deviation: float
    lowest: float
    highest: float


def moments(values: Sequence[float]) -> Moments:
    """The moments of at least one loss."""
    n = len(values)
    mean = sum(values) / len(values)
    # Products, which end at infinity where powers raise.
    squares = sum((value - mean) * (value - mean) for value in values)
    deviation = sqrt(squares / max(1, n - 1)) if isfinite(squares) else inf
    return Moments(
        n=n,
        mean=mean,
        deviation=deviation,
        lowest=min(values),
        highest=max(values),
    )


def mean_interval(moments: Moments, alpha: float) -> tuple[float, float]:
    """Interval of the mean at level 1 - alpha, for few and skewed values; infinite for a single
    value.

    Student's, widened on either side to the interval with one more value like the most extreme of
    them there: of n + 1 passages one, on average, is worse than the worst of n. Why: see
    docs/adr/0016.
    """
    return _ends(
        moments,
        lambda sample: (
            student_quantile(1 - alpha / 2, sample.n - 1)
            * sample.deviation
            / sqrt(sample.n)
        ),
    )


def anytime_mean_interval(moments: Moments, alpha: float) -> tuple[float, float]:
    """As `mean_interval`, but valid at all looks together, in the limit of many passages.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Annals of Statistics 52 (2024),
    time-uniform central limit theory, with its Gaussian mixture tuned for _TUNED_FOR passages.
    """
    tuned = (-2 * log(alpha) + log(-2 * log(alpha)) + 1) / _TUNED_FOR

    def radius(sample: Moments) -> float:
        grown = sample.n * tuned + 1
        return sample.deviation * sqrt(
            2 * grown / (sample.n**2 * tuned) * log(sqrt(grown) / alpha)
        )

    (low, high) = _ends(moments, radius)
    fixed = mean_interval(moments, alpha)
    return min(low, fixed[0]), max(high, fixed[1])


def _ends(moments: Moments, radius: Callable[[Moments], float]) -> tuple[float, float]:
    """Interval around the mean, as wide as with one more value like the most extreme there."""
    if moments.n < 2 or moments.deviation == inf:
        return -inf, inf

    def with_one_more(value: float) -> Moments:
        n = moments.n + 1
        away = value - moments.mean
        squares = (moments.n - 1) * moments.deviation**2 + away * away * moments.n / n
        return replace(
            moments,
            n=n,
            mean=moments.mean + away / n,
            deviation=sqrt(squares / moments.n),
        )

    below = with_one_more(moments.lowest)
    above = with_one_more(moments.highest)
    return min(moments.mean - radius(moments), below.mean - radius(below)), max(
        moments.mean + radius(moments), above.mean + radius(above)
    )


@lru_cache(maxsize=4096)
def student_quantile(p: float, degrees: int) -> float:
    """The p-quantile of Student's t, to about six digits.

    Source: Hill, Communications of the ACM 13 (1970).
    """
    if p < 0.5:
        return -student_quantile(1 - p, degrees)
    tails = 2 * (1 - p)
    if degrees == 1:
        return cos(tails * pi / 2) / sin(tails * pi / 2)
    if degrees == 2:
        return sqrt(2 / (tails * (2 - tails)) - 2)
    a = 1 / (degrees - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * sqrt(a * pi / 2) * degrees
    y = (d * tails) ** (2 / degrees)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tails / 2)
        y = x * x
        if degrees < 5:
            c += 0.3 * (degrees - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = a * y * y
        y = exp(y) - 1 if y > 0.002 else 0.5 * y * y + y
    else:
        y = (
            (
                1
                / (
                    ((degrees + 6) / (degrees * y) - 0.089 * d - 0.822)
                    * (degrees + 2)
                    * 3
                )
                + 0.5 / (degrees + 4)
            )
            * y
            - 1
        ) * (degrees + 1) / (degrees + 2) + 1 / y
    return sqrt(degrees * y)


_TRIMMED = 0.25
_MIN_LEFT = 3
_SPEED_LEVEL = 0.95


def speed_ratio(before_s: Sequence[float], after_s: Sequence[float]) -> SpeedRatio:
    """Speed-up before / after, trimmed mean over rounds, with its 95 % interval; above 1: after is
    faster.

    before_s, after_s: seconds of the same rounds, at least one. A slow phase of the machine slows
    both of a round and leaves their ratio as it is; a stall of one of them is an outlier, and
    trimmed. A quarter of the logarithms is trimmed on either side; the interval is Student's with
    their winsorised deviation, or the range of fewer than three rounds. Source: Yuen, Biometrika 61
    (1974); why, and how often it holds: docs/adr/0021.
    """
    logs = sorted(log(b / a) for b, a in zip(before_s, after_s, strict=True))
    n = len(logs)
    cut = max(0, min(int(_TRIMMED * n), (n - _MIN_LEFT) // 2))
    trimmed = logs[cut : n - cut]
    mean = fmean(trimmed)
    if n < _MIN_LEFT:
        return SpeedRatio(value=exp(mean), low=exp(logs[0]), high=exp(logs[-1]))
    winsorised = [trimmed[0]] * cut + trimmed + [trimmed[-1]] * cut
    error = stdev(winsorised) * sqrt((n - 1) / (len(trimmed) * (len(trimmed) - 1)))
    radius = student_quantile((1 + _SPEED_LEVEL) / 2, len(trimmed) - 1) * error
    return SpeedRatio(
        value=exp(mean),
        low=exp(mean - radius),
        high=exp(mean + radius),
    )


def is_narrow(ratio: SpeedRatio, within: float) -> bool:
    """Whether both ends of the interval are nearer to the ratio than this share of it."""
    return max(ratio.high - ratio.value, ratio.value - ratio.low) < within * ratio.value


MISMATCH_ALARM = 1.3
"""From this ratio of `layer_mismatch` on, the calibration text is unlike the passages. Measured:
see docs/adr/0007.
"""


def median_error_ratio(errors: Sequence[float], usual: Sequence[float]) -> float | None:
    """Median ratio over the layers whose usual error is not zero, or None."""
    ratios = [
        error / base for error, base in zip(errors, usual, strict=False) if base > 0
    ]
    return median(ratios) if ratios else None


def layer_mismatch(made: Pruned) -> float | None:
    """Layer errors on passages of the evaluation, as a multiple of those on calibration text.

    On held-out calibration text, since an overfit is another matter; where none was held out, on
    the fitted text.
    """
    return median_error_ratio(
        made.passage_errors, made.held_out_errors or made.layer_errors
    )
