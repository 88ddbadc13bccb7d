"""Structured optimal brain surgeon: channels leave one after another, each time those whose loss the others mend best.

Dimensions: d hidden width, m inner width.
"""

import math

import torch
from torch import Tensor

from sparsedash.engine.pruning.layer import Layer
from sparsedash.engine.pruning.linear import damped_cholesky

DAMPING = 0.1
_LAST_DIGITS = 1e-13
ROUNDS = 256
"""Channels leave in at most this many rounds: one at a time up to this width, a few at a time above it."""


def elimination_order(layer: Layer, damping: float = DAMPING) -> Tensor:
    """Channels in the order they leave, (m,) int64: every sparsity is a prefix of it.

    The next to leave has the least ||w_j||^2 / P_jj, where P is the inverse of the damped second moment among those
    that are left and w_j its column after those have taken over what is gone.
    Source: ZipLM, arXiv:2302.04089; SlimGPT, arXiv:2412.18110.
    """
    weight = layer.out_weight.double().clone()
    inverse = torch.cholesky_inverse(damped_cholesky(layer.moment(), damping))
    at_once = math.ceil(layer.width / ROUNDS)
    left = torch.ones(layer.width, dtype=torch.bool)
    order: list[Tensor] = []
    while left.any():
        pivots = inverse.diagonal().clamp_min(torch.finfo(torch.float64).tiny)
        costs = weight.square().sum(dim=0) / pivots
        among = left.nonzero().squeeze(1)
        leaving = among[costs[among].topk(min(at_once, len(among)), largest=False).indices]
        left[leaving] = False
        order.append(leaving)
        if left.any():
            _mend_(weight, inverse, leaving)
    return torch.cat(order)


def _mend_(weight: Tensor, inverse: Tensor, leaving: Tensor) -> None:
    """Let the others take over what these channels did, in place: W -= W_J P_JJ^-1 P_J:, P -= P_:J P_JJ^-1 P_J:."""
    # After many rounds what is left of the inverse may have lost its last digits: damped then, by as little as will do.
    factor = damped_cholesky(inverse[leaving][:, leaving], _LAST_DIGITS, rounding=0.0)
    rows = torch.linalg.solve_triangular(factor, inverse[leaving], upper=False)
    columns = torch.linalg.solve_triangular(factor, weight[:, leaving].T, upper=False)
    weight.addmm_(columns.T, rows, alpha=-1)
    inverse.addmm_(rows.T, rows, alpha=-1)
