"""Structured optimal brain surgeon: channels leave one after another, each time those whose loss the others mend best.

Dimensions: d hidden width, m inner width.
"""

import math

import torch
from torch import Tensor

from sparsedash.engine.pruning.layer import Layer
from sparsedash.engine.pruning.linalg import damped_cholesky

DAMPING = 0.1
_LAST_DIGITS = {torch.float32: 1e-6, torch.float64: 1e-13}
ROUNDS = 256
"""Channels leave in at most this many rounds: one at a time up to this width, a few at a time above it."""
_LOOKED_AT = 3
"""How many times as many channels as leave in a round are looked at for it."""
_TINY, _HUGE = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


def elimination_order(layer: Layer, damping: float = DAMPING) -> Tensor:
    """Channels in the order they leave, (m,) int64: every sparsity is a prefix of it.

    The next to leave has the least ||w_j||^2 / P_jj, where P is the inverse of the damped second moment among those
    that are left and w_j its column after those have taken over what is gone.
    Source: ZipLM, arXiv:2302.04089; SlimGPT, arXiv:2412.18110.
    """
    inverse = torch.cholesky_inverse(damped_cholesky(layer.moment(), damping))
    # In the precision that the inverse took: single, but for contradictions that its digits cannot tell apart.
    weight = layer.out_weight.to(inverse, copy=True)
    at_once = math.ceil(layer.width / ROUNDS)
    channels, left = torch.arange(layer.width), torch.ones(layer.width, dtype=torch.bool)
    order: list[Tensor] = []
    while True:
        leaving = _next(weight, inverse, left.nonzero().squeeze(1), at_once)
        order.append(channels[leaving])
        left[leaving] = False
        n_left = int(left.sum())
        if not n_left:
            return torch.cat(order)
        _mend_(weight, inverse, leaving)
        if 2 * n_left <= len(left):
            # Half the width is a quarter of the work.
            weight, inverse, channels = weight[:, left], inverse[left][:, left], channels[left]
            left = torch.ones(n_left, dtype=torch.bool)


def _next(weight: Tensor, inverse: Tensor, among: Tensor, n: int) -> Tensor:
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


def _mend_(weight: Tensor, inverse: Tensor, leaving: Tensor) -> None:
    """Let the others take over what these channels did, in place: W -= W_J P_JJ^-1 P_J:, P -= P_:J P_JJ^-1 P_J:."""
    # After many rounds what is left of the inverse may have lost its last digits: damped then, by as little as will do.
    digits = _LAST_DIGITS[inverse.dtype]
    factor = damped_cholesky(inverse[leaving][:, leaving], digits, rounding=0.0).to(inverse)
    rows = torch.linalg.solve_triangular(factor, inverse[leaving], upper=False)
    columns = torch.linalg.solve_triangular(factor, weight[:, leaving].T, upper=False)
    weight.addmm_(columns.T, rows, alpha=-1)
    inverse.addmm_(rows.T, rows, alpha=-1)
