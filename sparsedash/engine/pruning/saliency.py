"""Channel saliencies: magnitude, Wanda, WIFV, structured OBS, Fisher, random.

To add one: one function, one row, and what it needs in `MethodSettings`. Where channels are kept by
their scores the masks are nested: what 10 % removes, 30 % removes too. Dimensions: d hidden width,
m inner width, s sequences. Every score is (m,); larger means keep.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparsedash.engine.pruning.layer import Layer
from sparsedash.engine.pruning.linalg import complement, damped_factor, submatrix

OBS_DAMPING = 0.1
"""Of an elimination's inverse, whatever the method's damping: an order is shared by all of them."""
_LAST_DIGITS = {torch.float32: 1e-6, torch.float64: 1e-13}
OBS_ROUNDS = 256
"""Most rounds of an elimination: one channel at a time up to this width, a few at a time above
it.
"""
_CANDIDATES = 3
"""Candidates of a round, as a multiple of the channels that it removes."""
_TINY, _HUGE = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


def activation_aware(layer: Layer) -> Tensor:
    """Size of the out-projection's column times the size of its input over the calibration tokens.

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
    inverse = torch.cholesky_inverse(damped_factor(layer.moment(), damping)[0]).contiguous()
    # In the precision of the inverse: single, unless its digits do not suffice.
    weight = layer.out_weight.to(inverse, copy=True)
    weight[:, layer.statistics.mean_squares == 0] = 0
    at_once = math.ceil(layer.width / OBS_ROUNDS)
    channels, left = torch.arange(layer.width), torch.ones(layer.width, dtype=torch.bool)
    order: list[Tensor] = []
    while True:
        leaving = _next_to_leave(weight, inverse, left.nonzero().squeeze(1), at_once)
        order.append(channels[leaving])
        left[leaving] = False
        n_left = int(left.sum())
        if not n_left:
            return torch.cat(order)
        _downdate_(weight, inverse, leaving)
        if 2 * n_left <= len(left):
            # Half the width is a quarter of the work.
            rest = left.nonzero().squeeze(1)
            weight, inverse, channels = (
                weight[:, rest],
                submatrix(inverse, rest, rest),
                channels[rest],
            )
            left = torch.ones(n_left, dtype=torch.bool)


def _next_to_leave(weight: Tensor, inverse: Tensor, among: Tensor, n: int) -> Tensor:
    """The next n channels (n,) to remove, or all: one by one, each the cheapest after compensation
    of those before it.

    So of two channels that could replace each other only one is removed. Chosen among those that
    are cheapest now.
    """
    n = min(n, len(among))
    costs = (weight.square().sum(dim=0) / inverse.diagonal().clamp_min(_TINY))[among]
    near = among[costs.topk(min(_CANDIDATES * n, len(among)), largest=False).indices]
    if n == 1:
        return near[:1]
    # In numpy, which begins so small an operation several times as fast.
    products, left = (weight[:, near].T @ weight[:, near]).numpy(), inverse[near][:, near].numpy()
    chosen: list[int] = []
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(n):
            pivots = left.diagonal().clip(_TINY)
            costs = products.diagonal() / pivots
            costs[~np.isfinite(costs)] = _HUGE
            costs[chosen] = np.inf
            gone = int(costs.argmin())
            chosen.append(gone)
            taken = left[gone] / pivots[gone]
            cross = taken[:, None] * products[gone]
            products += products[gone, gone] * (taken[:, None] * taken) - cross - cross.T
            left -= left[gone][:, None] * taken
    return near[chosen]


def _downdate_(weight: Tensor, inverse: Tensor, leaving: Tensor) -> None:
    """Compensate the removal of these channels, in place: W -= W_J P_JJ^-1 P_J:, P -= P_:J P_JJ^-1
    P_J:.
    """
    # After many rounds the inverse may have lost its last digits: then it is damped, as little as
    # possible.
    digits = _LAST_DIGITS[inverse.dtype]
    factor = damped_factor(inverse[leaving][:, leaving], digits, rounding=0.0)[0].to(inverse)
    rows = torch.linalg.solve_triangular(factor, inverse[leaving], upper=False)
    columns = torch.linalg.solve_triangular(factor, weight[:, leaving].T, upper=False)
    weight.addmm_(columns.T, rows, alpha=-1)
    inverse.addmm_(rows.T, rows, alpha=-1)


def kept_channels(scores: Tensor, n_kept: int) -> Tensor:
    """Indices of the channels with the largest scores, ascending. scores: (m,). Ties fall to the
    lower index.
    """
    return torch.argsort(scores, descending=True, stable=True)[:n_kept].sort().values


def keep_rearranged(mask_gradients: Tensor | None, scores: Tensor, n_kept: int) -> Tensor:
    """The channels kept by the published greedy rearrangement, (k,) ascending; not nested.

    Starts by removing the lowest scores. Then each further channel, from low to high, joins the
    removed ones, and the one is kept instead whose absence shortens their summed gradients most:
    channels that cancel are removed together.
    Source: arXiv:2204.09656, section 4.3.
    """
    n_gone = len(scores) - n_kept
    if not 0 < n_gone < len(scores):
        return kept_channels(scores, n_kept)
    gradients, order = _given(mask_gradients).double(), torch.argsort(scores, stable=True)
    gone = order[:n_gone].clone()
    squares, products = gradients.square().sum(dim=0), gradients.T @ gradients
    with_total = gradients.T @ gradients[:, gone].sum(dim=1)
    for joins in order[n_gone:].tolist():
        # A row for a column, which is the same and lies together in memory.
        with_total += products[joins]
        candidates = torch.cat([gone, torch.tensor([joins])])
        # |total - g|^2 = |total|^2 - 2 g total + |g|^2; the first is the same for all.
        leaves = int((squares[candidates] - 2 * with_total[candidates]).argmin())
        with_total -= products[candidates[leaves]]
        if leaves < n_gone:
            gone[leaves] = joins
    return complement(gone, len(scores))


@dataclass(frozen=True)
class Saliency:
    """score: (m,) of a layer. choose: the kept channels from the layer's mask gradients and the
    scores.
    """

    score: Callable[[Layer], Tensor]
    choose: Callable[[Tensor | None, Tensor, int], Tensor] = lambda _, scores, n_kept: (
        kept_channels(scores, n_kept)
    )


SALIENCIES: dict[str, Saliency] = {
    "activation-aware": Saliency(activation_aware),
    "magnitude": Saliency(magnitude),
    "wifv": Saliency(wifv),
    "obs": Saliency(lambda layer: _rank(elimination_order(layer))),
    # Diagonal Fisher information of the channels' mask: squared gradients, summed over the
    # sequences; arXiv:2204.09656.
    "fisher": Saliency(
        lambda layer: _given(layer.mask_gradients).square().sum(dim=0), keep_rearranged
    ),
    # From the method's seed and the block's index: the baseline that a saliency must beat.
    "random": Saliency(
        lambda layer: torch.rand(layer.width, generator=torch.Generator().manual_seed(layer.seed))
    ),
}


def _rank(order: Tensor) -> Tensor:
    return torch.empty(len(order)).index_copy_(
        0, order, torch.arange(len(order), dtype=torch.float32)
    )


def _given(mask_gradients: Tensor | None) -> Tensor:
    assert mask_gradients is not None, "MethodSettings.by_gradient says so of this saliency"
    return mask_gradients
