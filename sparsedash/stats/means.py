"""Intervals of a mean that hold for few and skewed values, at a fixed number of them or at any look."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import copysign, cos, exp, inf, isfinite, log, pi, sin, sqrt
from statistics import NormalDist

_TUNED_FOR = 500
"""Values at which the interval that is valid at any look is narrowest."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What an interval of a mean loss is made of: number, mean, standard deviation and skewness of the losses."""

    n: int
    mean: float
    deviation: float
    skewness: float


def moments(values: Sequence[float]) -> Moments:
    """The moments of some losses. Raises ValueError when there are none."""
    n = len(values)
    if n == 0:
        raise ValueError("a mean needs at least one passage")
    mean = sum(values) / n
    # Products, which end at infinity where powers raise.
    squares = sum((value - mean) * (value - mean) for value in values)
    cubes = sum((value - mean) * (value - mean) * (value - mean) for value in values)
    skewness = sqrt(n) * cubes / (squares * sqrt(squares)) if squares > 0 else 0.0
    if not (isfinite(squares) and isfinite(skewness)):
        return Moments(n=n, mean=mean, deviation=inf, skewness=0.0)
    return Moments(n=n, mean=mean, deviation=sqrt(squares / max(1, n - 1)), skewness=skewness)


def mean_interval(of: Moments, alpha: float) -> tuple[float, float]:
    """Interval of the mean at level 1 - alpha, for few and skewed values; all numbers where there is one value only.

    Student's, widened on either side to Hall's transformation, which knows of the skewness: a few large losses that
    were not met yet lie on the side to which those that were met lean. Source: Hall, JRSS B 54 (1992).
    """
    if of.n < 2 or of.deviation == inf:
        return -inf, inf
    error = of.deviation / sqrt(of.n)
    t = student_quantile(1 - alpha / 2, of.n - 1)
    low, high = of.mean - t * error, of.mean + t * error
    lean = of.skewness / sqrt(of.n)
    if abs(lean) < 1e-9:
        return low, high
    below, above = (3 / lean * (_cube_root(1 + lean * (q - lean / 6)) - 1) for q in (-t, t))
    return min(low, of.mean - above * error), max(high, of.mean - below * error)


def anytime_mean_interval(of: Moments, alpha: float) -> tuple[float, float]:
    """As `mean_interval`, but valid at all looks together, in the limit of many passages.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Annals of Statistics 52 (2024), time-uniform central limit
    theory, with its Gaussian mixture tuned for _TUNED_FOR passages.
    """
    if of.n < 2 or of.deviation == inf:
        return -inf, inf
    tuned = (-2 * log(alpha) + log(-2 * log(alpha)) + 1) / _TUNED_FOR
    grown = of.n * tuned + 1
    radius = of.deviation * sqrt(2 * grown / (of.n**2 * tuned) * log(sqrt(grown) / alpha))
    low, high = mean_interval(of, alpha)
    return min(low, of.mean - radius), max(high, of.mean + radius)


@cache
def student_quantile(p: float, degrees: int) -> float:
    """The p-quantile of Student's t, to about six digits. Source: Hill, Communications of the ACM 13 (1970)."""
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
            (1 / (((degrees + 6) / (degrees * y) - 0.089 * d - 0.822) * (degrees + 2) * 3) + 0.5 / (degrees + 4)) * y
            - 1
        ) * (degrees + 1) / (degrees + 2) + 1 / y
    return sqrt(degrees * y)


def _cube_root(value: float) -> float:
    return copysign(abs(value) ** (1 / 3), value)
