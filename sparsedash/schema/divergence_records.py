"""The field's figures of how far two models' next-token predictions are apart on one text."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure and its standard error; None where that is not known."""

    value: float
    error: float | None = None


@dataclass(frozen=True, kw_only=True)
class DivergenceFigures:
    """kl: mean, nats. kl_quantiles, delta_quantiles: by q, None with fewer than 10 / (1 - q) tokens.
    delta, delta_rms: change of the right token's probability, as shares, mean and root mean square.
    same_top: share of tokens. ratio: perplexity as a multiple of the base model's. n_tokens,
    n_blocks: None where a printed result does not say.
    """

    kl: Estimate
    kl_quantiles: Mapping[float, float | None]
    kl_max: float
    delta: Estimate
    delta_rms: Estimate
    delta_quantiles: Mapping[float, float | None]
    same_top: Estimate
    ratio: Estimate
    perplexity: float
    base_perplexity: float
    n_tokens: int | None = None
    n_blocks: int | None = None
