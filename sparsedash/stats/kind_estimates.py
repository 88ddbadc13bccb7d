"""Estimates of a sparse model's losses by kind of text, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparsedash.schema.records import KindLoss
from sparsedash.schema.tolerance_settings import ALPHA
from sparsedash.stats.mean_intervals import mean_interval, moments


@dataclass(frozen=True, kw_only=True)
class KindEstimate:
    """KL from dense on one kind of text, nats a token, with its 95 % interval."""

    kind: str
    value: float
    low: float
    high: float


def kind_estimates(losses: Sequence[KindLoss]) -> list[KindEstimate]:
    """The kinds that were measured on more than one piece, most forgotten first."""
    estimates = []
    for loss in losses:
        if len(loss.blocks) < 2:
            continue
        observed = moments(loss.blocks)
        low, high = mean_interval(observed, ALPHA)
        estimates.append(
            KindEstimate(
                kind=loss.kind,
                value=observed.mean,
                low=max(0.0, low),
                high=high,
            )
        )
    return sorted(estimates, key=lambda estimate: -estimate.value)
