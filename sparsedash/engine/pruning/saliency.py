"""Channel saliencies: magnitude, Wanda, WIFV, structured OBS, Fisher, random.

To add one: one function, one row, and what it needs in `MethodSettings`. Where channels are kept by
their scores the masks are nested: what 10 % removes, 30 % removes too. Dimensions: d hidden width,
m inner width, s sequences. Every score is (m,); larger means keep.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from sparsedash.engine.pruning.layer import Layer
from sparsedash.engine.pruning.linalg import complement, damped_factor, submatrix

OBS_DAMPING = 0.1
"""Of an elimination's inverse, whatever the method's damping: an order is shared by all of them."""
_LAST_DIGITS = {torch.float32: 1e-6, torch.float64: 1e-13}
OBS_ROUNDS = 256
"""Most rounds of an elimination: one channel at a time up to this width, a few above it."""
_CANDIDATES = 3
"""Candidates of a round, as a multiple of the channels that it removes."""
_TINY = torch.finfo(torch.float32).tiny
_HUGE = torch.finfo(torch.float32).max


def activation_aware(layer: Layer) -> Tensor:
    """Norm of the out-projection's column times the root mean square of its input.

    Source: Wanda, arXiv:2306.11695, taken over the whole column.
    """
    columns: Tensor = torch.linalg.vector_norm(layer.out_weight.float(), dim=0)
    return columns * layer.statistics.mean_squares.sqrt()


def magnitude(layer: Layer) -> Tensor:
    """Euclidean norm of all weights of the channel; uses no calibration text."""
    squares = layer.out_weight.float().square().sum(dim=0)
    for weight in layer.inner_weights:
        squares += weight.float().square().sum(dim=1)
    return squares.sqrt()


def wifv(layer: Layer) -> Tensor:
    """Variance of the channel times the square of its column: the error of a constant in its place.

    Source: WIFV of FLAP, arXiv:2312.11983.
    """
    return layer.statistics.variances * layer.out_weight.float().square().sum(dim=0)


def elimination_order(layer: Layer, damping: float = OBS_DAMPING) -> Tensor:
    """Channels in the order of their removal, (m,) int64: every sparsity is a prefix of it.

    The next to be removed has the least ||w_j||^2 / P_jj, where P is the inverse of the damped second moment among the
    remaining channels and w_j its column after they have compensated the removed ones. Channels that are never active
    go first, for nothing.
    Source: ZipLM, arXiv:2302.04089; SlimGPT, arXiv:2412.18110.
    """
    inverse = torch.cholesky_inverse(
        damped_factor(layer.moment(), damping)[0]
    ).contiguous()
    # In the precision of the inverse: single, unless its digits do not suffice.
    weight = layer.out_weight.to(inverse, copy=True)
    weight[:, layer.statistics.mean_squares == 0] = 0
    at_once = math.ceil(layer.width / OBS_ROUNDS)
    channels = torch.arange(layer.width)
    present = torch.ones(layer.width, dtype=torch.bool)
    order: list[Tensor] = []
    while True:
        removed = _next_removed(
            weight,
            inverse,
            present.nonzero().squeeze(1),
            at_once,
        )
        order.append(channels[removed])
        present[removed] = False
        n_present = int(present.sum())
        if not n_present:
            return torch.cat(order)
        _downdate_(weight, inverse, removed)
        if 2 * n_present <= len(present):
            # Half the width is a quarter of the work.
            places = present.nonzero().squeeze(1)
            weight = weight[:, places]
            inverse = submatrix(inverse, places, places)
            channels = channels[places]
            present = torch.ones(n_present, dtype=torch.bool)


def _next_removed(
    weight: Tensor,
    inverse: Tensor,
    present: Tensor,
    n: int,
) -> Tensor:
    """The next n channels (n,) to remove, one by one: each the cheapest after compensation.

    So of two channels that could replace each other only one is removed. Chosen among those that
    are cheapest now.
    """
    n = min(n, len(present))
    costs = (weight.square().sum(dim=0) / inverse.diagonal().clamp_min(_TINY))[present]
    n_candidates = min(_CANDIDATES * n, len(present))
    candidates = present[costs.topk(n_candidates, largest=False).indices]
    if n == 1:
        return candidates[:1]
    # In numpy, which starts so small an operation several times as fast.
    columns = weight[:, candidates]
    products = (columns.T @ columns).numpy()
    remaining = inverse[candidates][:, candidates].numpy()
    removed: list[int] = []
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(n):
            pivots = remaining.diagonal().clip(_TINY)
            costs = products.diagonal() / pivots
            costs[~np.isfinite(costs)] = _HUGE
            costs[removed] = np.inf
            place = int(costs.argmin())
            removed.append(place)
            row = remaining[place] / pivots[place]
            cross = row[:, None] * products[place]
            products += products[place, place] * (row[:, None] * row) - cross - cross.T
            remaining -= remaining[place][:, None] * row
    return candidates[removed]


def _downdate_(
    weight: Tensor,
    inverse: Tensor,
    removed: Tensor,
) -> None:
    """Compensate the removal of these channels, in place.

    W -= W_J P_JJ^-1 P_J:, P -= P_:J P_JJ^-1 P_J:.
    """
    # After many rounds the inverse may have lost its last digits: then it is damped, as little as
    # possible.
    digits = _LAST_DIGITS[inverse.dtype]
    factor = damped_factor(inverse[removed][:, removed], digits, rounding=0.0)[0].to(
        inverse
    )
    rows = torch.linalg.solve_triangular(factor, inverse[removed], upper=False)
    columns = torch.linalg.solve_triangular(
        factor,
        weight[:, removed].T,
        upper=False,
    )
    weight.addmm_(columns.T, rows, alpha=-1)
    inverse.addmm_(rows.T, rows, alpha=-1)


def keep_highest(
    mask_gradients: Tensor | None,
    scores: Tensor,
    n_kept: int,
) -> Tensor:
    """Indices of the channels with the largest scores, ascending; ties fall to the lower index."""
    return torch.argsort(scores, descending=True, stable=True)[:n_kept].sort().values


def keep_rearranged(
    mask_gradients: Tensor | None,
    scores: Tensor,
    n_kept: int,
) -> Tensor:
    """The channels kept by the published greedy rearrangement, (k,) ascending; not nested.

    Starts by removing the lowest scores. Then each further channel, from low to high, joins the
    removed ones, and the one is kept instead whose absence shortens their summed gradients most:
    channels that cancel are removed together.
    Source: arXiv:2204.09656, section 4.3.
    """
    n_gone = len(scores) - n_kept
    if not 0 < n_gone < len(scores):
        return keep_highest(mask_gradients, scores, n_kept)
    assert mask_gradients is not None, (
        "MethodSettings.by_gradient says so of this saliency"
    )
    gradients = mask_gradients.double()
    order = torch.argsort(scores, stable=True)
    gone = order[:n_gone].clone()
    squares = gradients.square().sum(dim=0)
    products = gradients.T @ gradients
    with_total = gradients.T @ gradients[:, gone].sum(dim=1)
    for channel in order[n_gone:].tolist():
        # A row for a column, which is the same and lies together in memory.
        with_total += products[channel]
        candidates = torch.cat([gone, torch.tensor([channel])])
        # |total - g|^2 = |total|^2 - 2 g total + |g|^2; the first is the same for all.
        returning = int((squares[candidates] - 2 * with_total[candidates]).argmin())
        with_total -= products[candidates[returning]]
        if returning < n_gone:
            gone[returning] = channel
    return complement(gone, len(scores))


def fisher(layer: Layer) -> Tensor:
    """Diagonal Fisher information of the channels' mask: squared gradients, summed over sequences.

    Source: arXiv:2204.09656.
    """
    assert layer.mask_gradients is not None, (
        "MethodSettings.by_gradient says so of this saliency"
    )
    return layer.mask_gradients.square().sum(dim=0)


def elimination_rank(layer: Layer) -> Tensor:
    """Place of each channel in the elimination order."""
    order = elimination_order(layer)
    places = torch.arange(len(order), dtype=torch.float32)
    return torch.empty(len(order)).index_copy_(0, order, places)


def drawn(layer: Layer) -> Tensor:
    """Random scores, from the layer's seed: the baseline that a saliency must beat."""
    return torch.rand(layer.width, generator=torch.Generator().manual_seed(layer.seed))


@dataclass(frozen=True)
class Saliency:
    """score: (m,) of a layer. choose: kept channels from the mask gradients and the scores."""

    score: Callable[[Layer], Tensor]
    choose: Callable[[Tensor | None, Tensor, int], Tensor] = keep_highest


SALIENCIES: dict[str, Saliency] = {
    "activation-aware": Saliency(activation_aware),
    "magnitude": Saliency(magnitude),
    "wifv": Saliency(wifv),
    "obs": Saliency(elimination_rank),
    "fisher": Saliency(fisher, keep_rearranged),
    "random": Saliency(drawn),
}


def drawn_seed(words: str) -> int:
    """A seed of 32 bits. A sum would give neighbouring seeds the same ones, shifted."""
    return Random(words).getrandbits(32)
