"""What people publish beside a quantised file: how far two models' next-token predictions are apart
on one text, in llama.cpp's words and units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp

import numpy as np
import numpy.typing as npt

from sparsedash.schema.divergence_records import DivergenceFigures, Estimate
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.tolerance_settings import ALPHA, Tolerance
from sparsedash.stats.mean_intervals import mean_interval, moments
from sparsedash.stats.tolerance import Loss, judge_in_steps, loss_of

Floats = npt.NDArray[np.floating]
Whole = npt.NDArray[np.integer]

KL_QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
DELTA_QUANTILES = (0.01, 0.05, 0.95, 0.99)
MIN_LOG = -16.0
"""Of the base: less likely tokens do not count in a divergence."""
_MAX_POWER = 700.0
"""Of e, that is a number of double precision."""
MAX_CUT = 0.001
"""Share of the right tokens that a base file may cut off, 16 nats below the first choice, in a model that is
called within.
"""
_TAIL_TOKENS = 10
"""A quantile is given where so many tokens lie beyond it."""


@dataclass(frozen=True, kw_only=True)
class TokenDivergences:
    """By token, (n,): kl: KL(base || other) in nats. base_nll, nll: negative log-likelihood of the
    right token by either model. same_top: whether both have the same first choice.
    """

    kl: Floats
    base_nll: Floats
    nll: Floats
    same_top: npt.NDArray[np.bool_]


def token_divergences(base: Floats, other: Floats, targets: Whole) -> TokenDivergences:
    """base, other: log-probabilities, (n, v). targets: the right tokens, (n,).

    As llama.cpp: only tokens to which the base gives more than exp(-16) count in the divergence,
    which can thus be a little below 0.
    """
    rows = np.arange(len(targets))
    terms = np.where(base > MIN_LOG, np.exp(base) * (base - other), 0.0)
    return TokenDivergences(
        kl=terms.sum(axis=1, dtype=np.float64),
        base_nll=-base[rows, targets].astype(np.float64),
        nll=-other[rows, targets].astype(np.float64),
        same_top=base.argmax(axis=1) == other.argmax(axis=1),
    )


def joined_tokens(parts: Sequence[TokenDivergences]) -> TokenDivergences:
    """The tokens of several parts, in their order."""
    return TokenDivergences(
        kl=np.concatenate([part.kl for part in parts]),
        base_nll=np.concatenate([part.base_nll for part in parts]),
        nll=np.concatenate([part.nll for part in parts]),
        same_top=np.concatenate([part.same_top for part in parts]),
    )


def _exp(nats: float) -> float:
    """e to this power; the largest number there is where a model is lost altogether."""
    return exp(min(nats, _MAX_POWER))


def divergence_figures(blocks: Sequence[TokenDivergences]) -> DivergenceFigures:
    """The figures of at least one token. blocks: of text, from which the standard errors come, since
    neighbouring tokens are alike.
    """
    tokens = joined_tokens(blocks)
    kl = tokens.kl
    nll = tokens.nll
    base_nll = tokens.base_nll
    delta = np.exp(-nll) - np.exp(-base_nll)
    sizes = np.array([len(block.kl) for block in blocks])
    log_ratio = _mean(nll - base_nll, sizes)
    ratio = _exp(log_ratio.value)
    square = _mean(delta**2, sizes)
    rms = square.value**0.5
    rms_error = square.error
    if square.error is not None:
        rms_error = 0.5 * square.error / rms if rms else 0.0
    return DivergenceFigures(
        kl=_mean(kl, sizes),
        kl_quantiles={q: _quantile(kl, q) for q in KL_QUANTILES},
        kl_max=float(kl.max()),
        delta=_mean(delta, sizes),
        delta_rms=Estimate(value=rms, error=rms_error),
        delta_quantiles={q: _quantile(delta, q) for q in DELTA_QUANTILES},
        same_top=_mean(tokens.same_top.astype(float), sizes),
        ratio=Estimate(
            value=ratio,
            error=None if log_ratio.error is None else ratio * log_ratio.error,
        ),
        perplexity=_exp(float(nll.mean())),
        base_perplexity=_exp(float(base_nll.mean())),
        n_tokens=len(kl),
        n_blocks=len(blocks),
    )


def judge_perplexity(
    blocks_by_name: Mapping[str, Sequence[TokenDivergences]],
    tolerance: Tolerance,
    n_cut_by_name: Mapping[str, int],
) -> dict[str, Loss]:
    """The verdicts on the rise of perplexity, over the blocks' means, by Holm together.

    n_cut_by_name: right tokens whose likelihood by the model is an upper bound; above MAX_CUT
    nothing is within.
    """
    losses_by_name = {}
    for name, blocks in blocks_by_name.items():
        losses_by_name[name] = moments(
            [float((block.nll - block.base_nll).mean()) for block in blocks]
        )
    most = tolerance.most("word perplexity")

    def judge(name: str, width: float) -> Loss:
        losses = losses_by_name[name]
        interval = mean_interval(losses, width)
        return loss_of("word perplexity", losses, interval, width, most)

    losses = judge_in_steps(list(losses_by_name), 2 * ALPHA, judge)
    for name, loss in losses.items():
        n_tokens = sum(len(block.kl) for block in blocks_by_name[name])
        if loss.verdict == "within" and n_cut_by_name.get(name, 0) > MAX_CUT * n_tokens:
            losses[name] = replace(loss, verdict="undecided")
    return losses


def printed_figures(
    printed: Mapping[str, tuple[float, float | None]],
) -> DivergenceFigures:
    """The figures of what llama-perplexity printed, by its names; probabilities there are percent.
    Raises CorpusError where one is missing.
    """

    def estimate(name: str, unit: float = 1.0) -> Estimate:
        if name not in printed:
            raise CorpusError(f"The output of llama-perplexity has no line {name}.")
        value, error = printed[name]
        return Estimate(
            value=value * unit, error=None if error is None else error * unit
        )

    quantiles: dict[float, float | None] = {0.5: estimate("Median KLD").value}
    for q in KL_QUANTILES[1:]:
        quantiles[q] = estimate(f"{100 * q:.1f}% KLD").value
    return DivergenceFigures(
        kl=estimate("Mean KLD"),
        kl_quantiles=quantiles,
        kl_max=estimate("Maximum KLD").value,
        delta=estimate("Mean Δp", 0.01),
        delta_rms=estimate("RMS Δp", 0.01),
        delta_quantiles={
            q: estimate(f"{100 * q:.1f}% Δp", 0.01).value for q in DELTA_QUANTILES
        },
        same_top=estimate("Same top p", 0.01),
        ratio=estimate("Mean PPL(Q)/PPL(base)"),
        perplexity=estimate("Mean PPL(Q)").value,
        base_perplexity=estimate("Mean PPL(base)").value,
    )


def _mean(values: Floats, sizes: Whole) -> Estimate:
    """The mean over all tokens; its error is that of a ratio of sums over blocks (Cochran)."""
    mean = float(values.mean())
    n_blocks = len(sizes)
    if n_blocks < 2:
        return Estimate(value=mean)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    sums = np.add.reduceat(values, starts) - mean * sizes
    error = float(np.sqrt((sums**2).sum() * n_blocks / (n_blocks - 1))) / len(values)
    return Estimate(value=mean, error=error)


def _quantile(values: Floats, q: float) -> float | None:
    """As llama.cpp: linear between the two nearest."""
    # Rounded: 1 - 0.9 is not a tenth.
    if len(values) < round(_TAIL_TOKENS / min(q, 1 - q)):
        return None
    return float(np.quantile(values, q))
