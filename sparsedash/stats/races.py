"""Which of two models finds the targets likelier: paired differences with intervals and p-values,
for several pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

from sparsedash.schema.records import Record
from sparsedash.schema.tolerance_settings import ALPHA
from sparsedash.stats.anytime import bisect_boundary
from sparsedash.stats.mean_intervals import (
    Moments,
    anytime_mean_interval,
    mean_interval,
    moments,
)
from sparsedash.stats.significance import holm, shared_outcomes
from sparsedash.stats.tolerance import MIN_PASSAGES

_SMALLEST = -12.0
_LARGEST = log10(0.5)
"""Decimal logarithms between which a p-value is looked for; a larger one is called 1."""


@dataclass(frozen=True, kw_only=True)
class LikelihoodDifference:
    """Difference in the likelihood of the targets between two models, on the passages that both
    answered.

    value, low, high: the mean in nats with its interval at `level`; below zero where it finds them
    likelier. p_value: of no difference, two-sided. Both allow for all n_compared pairs that were
    compared.
    """

    value: float
    low: float
    high: float
    level: float
    p_value: float
    n_passages: int
    n_compared: int

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves out equality, on enough passages to say so."""
        return self.n_passages >= MIN_PASSAGES and (self.low > 0 or self.high < 0)


def likelihood_differences(
    pairs: Sequence[tuple[Record, Record]], n_compared: int = 0
) -> list[LikelihoodDifference]:
    """The second model of each pair against the first, in the order given, after Holm.

    n_compared: pairs that were compared, where that is more: the missing ones count as the least
    different.
    """
    falls = []
    anytime = []
    for first, second in pairs:
        outcomes = shared_outcomes(first, second)
        falls.append(
            moments([one.log_likelihood - two.log_likelihood for one, two in outcomes])
        )
        anytime.append(first.stopping is not None or second.stopping is not None)
    p_values = list(map(mean_p_value, falls, anytime))
    n_compared = max(n_compared, len(pairs))
    n_open = n_compared
    alphas = [ALPHA] * len(pairs)
    for i in sorted(range(len(pairs)), key=lambda i: p_values[i]):
        alphas[i] = ALPHA / n_open
        n_open -= p_values[i] <= alphas[i]
    differences = []
    for i, p_value in enumerate(holm(p_values, n_compared)):
        low, high = _interval(falls[i], alphas[i], anytime[i])
        difference = LikelihoodDifference(
            value=falls[i].mean,
            low=low,
            high=high,
            level=1 - alphas[i],
            p_value=p_value,
            n_passages=falls[i].n,
            n_compared=n_compared,
        )
        differences.append(difference)
    return differences


def _interval(moments: Moments, alpha: float, anytime: bool) -> tuple[float, float]:
    return (
        anytime_mean_interval(moments, alpha)
        if anytime
        else mean_interval(moments, alpha)
    )


def mean_p_value(moments: Moments, anytime: bool = False) -> float:
    """p of a mean of zero: the smallest alpha at which the interval leaves it out; 1 from a half
    on.
    """

    def holds_zero(exponent: float) -> bool:
        low, high = _interval(moments, 10**exponent, anytime)
        return low <= 0 <= high

    if not holds_zero(_SMALLEST):
        return float(10**_SMALLEST)
    boundary = bisect_boundary(holds_zero, _SMALLEST, _LARGEST)
    return 1.0 if boundary == _LARGEST else float(10**boundary)
