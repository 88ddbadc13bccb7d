"""Channel saliencies: magnitude, Wanda, WIFV, structured OBS, Fisher, random. To add one: one function and one row.

Dimensions: d hidden width, m inner width, s sequences. Every score is (m,); larger means keep.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedash.engine.pruning.layer import Layer
from sparsedash.engine.pruning.linalg import complement, damped_cholesky
from sparsedash.engine.pruning.weight_pruning import kept_channels

OBS_DAMPING = 0.1
_LAST_DIGITS = {torch.float32: 1e-6, torch.float64: 1e-13}
OBS_ROUNDS = 256
"""Channels leave in at most this many rounds: one at a time up to this width, a few at a time above it."""
_LOOKED_AT = 3
"""How many times as many channels as leave in a round are looked at for it."""
_TINY, _HUGE = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


def elimination_order(layer: Layer, damping: float = OBS_DAMPING) -> Tensor:
    """Channels in the order they leave, (m,) int64: every sparsity is a prefix of it.

    The next to leave has the least ||w_j||^2 / P_jj, where P is the inverse of the damped second moment among those
    that are left and w_j its column after those have taken over what is gone.
    Source: ZipLM, arXiv:2302.04089; SlimGPT, arXiv:2412.18110.
    """
    inverse = torch.cholesky_inverse(damped_cholesky(layer.moment(), damping))
    # In the precision that the inverse took: single, but for contradictions that its digits cannot tell apart.
    weight = layer.out_weight.to(inverse, copy=True)
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
            weight, inverse, channels = weight[:, left], inverse[left][:, left], channels[left]
            left = torch.ones(n_left, dtype=torch.bool)


def _next_to_leave(weight: Tensor, inverse: Tensor, among: Tensor, n: int) -> Tensor:
    """The n channels (n,) that leave next, or all: one after another, each the cheapest once those before it are
    mended.

    So that of two that could stand in for each other only one goes. Chosen among those that are cheapest now.
    """
    n = min(n, len(among))
    costs = (weight.square().sum(dim=0) / inverse.diagonal().clamp_min(_TINY))[among]
    near = among[costs.topk(min(_LOOKED_AT * n, len(among)), largest=False).indices]
    if n == 1:
        return near[:1]
    products, left = weight[:, near].T @ weight[:, near], inverse[near][:, near]
    chosen: list[int] = []
    for _ in range(n):
        pivots = left.diagonal().clamp_min(_TINY)
        costs = (products.diagonal() / pivots).nan_to_num(nan=_HUGE, posinf=_HUGE)
        costs[chosen] = torch.inf
        gone = int(costs.argmin())
        chosen.append(gone)
        taken = left[gone] / pivots[gone]
        cross = torch.outer(taken, products[gone])
        products += products[gone, gone] * torch.outer(taken, taken) - cross - cross.T
        left -= torch.outer(left[gone], taken)
    return near[chosen]


def _downdate_(weight: Tensor, inverse: Tensor, leaving: Tensor) -> None:
    """Let the others take over what these channels did, in place: W -= W_J P_JJ^-1 P_J:, P -= P_:J P_JJ^-1 P_J:."""
    # After many rounds what is left of the inverse may have lost its last digits: damped then, by as little as will do.
    digits = _LAST_DIGITS[inverse.dtype]
    factor = damped_cholesky(inverse[leaving][:, leaving], digits, rounding=0.0).to(inverse)
    rows = torch.linalg.solve_triangular(factor, inverse[leaving], upper=False)
    columns = torch.linalg.solve_triangular(factor, weight[:, leaving].T, upper=False)
    weight.addmm_(columns.T, rows, alpha=-1)
    inverse.addmm_(rows.T, rows, alpha=-1)


def activation_aware(layer: Layer) -> Tensor:
    """Size of the out-projection's column times the size of its input over the calibration tokens.

    Source: Wanda, arXiv:2306.11695, taken over the whole column.
    """
    columns: Tensor = torch.linalg.vector_norm(layer.out_weight.float(), dim=0)
    return columns * layer.known.mean_squares.sqrt()


def magnitude(layer: Layer) -> Tensor:
    """Euclidean size of all weights that leave with the channel; blind to the calibration text."""
    squares = layer.out_weight.float().square().sum(dim=0)
    for weight in layer.inner_weights:
        squares += weight.float().square().sum(dim=1)
    return squares.sqrt()


def wifv(layer: Layer) -> Tensor:
    """Variance of the channel times the square of its column: what a constant in its place would miss.

    Source: WIFV of FLAP, arXiv:2312.11983.
    """
    variance = (layer.known.mean_squares - layer.mean.square()).clamp_min(0)
    return variance * layer.out_weight.float().square().sum(dim=0)


def obs_ranks(layer: Layer) -> Tensor:
    """Rank in the order in which a greedy structured OBS, which mends after every channel, takes them out."""
    order = elimination_order(layer)
    ranks = torch.empty(layer.width)
    ranks[order] = torch.arange(layer.width, dtype=ranks.dtype)
    return ranks


def fisher_scores(layer: Layer) -> Tensor:
    """Diagonal Fisher information of the channels' mask: squared gradients, summed over the sequences.

    Source: arXiv:2204.09656.
    """
    return _mask_gradients(layer).square().sum(dim=0)


def random_scores(layer: Layer) -> Tensor:
    """Lots drawn from the method's seed and the block's index: the floor that a criterion must beat."""
    generator = torch.Generator().manual_seed(layer.seed)
    return torch.rand(layer.width, generator=generator)


def keep_largest(layer: Layer, scores: Tensor, n_kept: int) -> Tensor:
    """The channels with the largest scores, (k,) ascending; nested: what 10 % removes, 30 % removes too."""
    return kept_channels(scores, n_kept)


def keep_rearranged(layer: Layer, scores: Tensor, n_kept: int) -> Tensor:
    """The channels that stay after the published greedy rearrangement, (k,) ascending; not nested.

    Starts from the lowest scores. Then each further channel, from low to high, joins those that go, and the one
    leaves them whose staying brings the length of their summed gradients down most: channels that cancel go together.
    Source: arXiv:2204.09656, section 4.3.
    """
    gradients = _mask_gradients(layer).double()
    order = torch.argsort(scores, stable=True)
    n_gone = layer.width - n_kept
    gone = order[:n_gone].clone()
    if not 0 < n_gone < layer.width:
        return kept_channels(scores, n_kept)
    squares = gradients.square().sum(dim=0)
    products = gradients.T @ gradients
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
    return complement(gone, layer.width)


@dataclass(frozen=True)
class Saliency:
    """score: (m,) of a layer. choose: the kept channels from the scores. by_gradient: needs the backward pass."""

    score: Callable[[Layer], Tensor]
    choose: Callable[[Layer, Tensor, int], Tensor] = keep_largest
    by_gradient: bool = False


SALIENCIES: dict[str, Saliency] = {
    "activation-aware": Saliency(activation_aware),
    "magnitude": Saliency(magnitude),
    "wifv": Saliency(wifv),
    "obs": Saliency(obs_ranks),
    "fisher": Saliency(fisher_scores, keep_rearranged, by_gradient=True),
    "random": Saliency(random_scores),
}


def _mask_gradients(layer: Layer) -> Tensor:
    assert layer.mask_gradients is not None, "this criterion's row says by_gradient"
    return layer.mask_gradients
