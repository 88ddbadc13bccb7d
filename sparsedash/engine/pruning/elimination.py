"""Structured optimal brain surgeon: channels leave one by one, each time the one whose loss the others mend best.

Dimensions: d hidden width, m inner width.
"""

import torch
from torch import Tensor

from sparsedash.engine.pruning.layer import Layer
from sparsedash.engine.pruning.linear import damped_cholesky

DAMPING = 0.01
BATCH = 64
EXACT_WIDTH = 8192
BATCH_ABOVE = 16


def elimination_order(layer: Layer, damping: float = DAMPING) -> Tensor:
    """Channels in the order they leave, (m,) int64: every sparsity is a prefix of it.

    The next to leave has the least ||w_j||^2 / P_jj, where P is the inverse of the damped second moment among those
    that are left and w_j its column after those left have taken over what is gone. Up to EXACT_WIDTH channels one at
    a time, beyond it BATCH_ABOVE at a time.
    Source: ZipLM, arXiv:2302.04089; SlimGPT, arXiv:2412.18110.
    """
    width = layer.out_weight.shape[1]
    inverse = torch.cholesky_inverse(damped_cholesky(layer.moment(), damping))
    left = _Left(layer.out_weight.double(), inverse)
    at_once = 1 if width <= EXACT_WIDTH else BATCH_ABOVE
    order: list[int] = []
    while len(order) < width:
        order += left.remove_(min(at_once, width - len(order)))
    return torch.tensor(order)


class _Left:
    """The channels that are left: their columns and the inverse of their second moment, corrected in batches.

    Removing channel j takes P_:j P_j: / P_jj from P, and w_j P_j: / P_jj from W. The last few of these are kept as
    factors: now P = inverse - rows^T rows and W = weight - columns rows.
    """

    def __init__(self, weight: Tensor, inverse: Tensor) -> None:
        d, m = weight.shape
        self._weight, self._inverse = weight, inverse
        self._rows, self._columns = weight.new_zeros(BATCH, m), weight.new_zeros(d, BATCH)
        self._n_pending = 0
        self._diagonal = inverse.diagonal().clone()
        self._squares = weight.square().sum(dim=0)
        self._gone = torch.zeros(m, dtype=torch.bool)

    def remove_(self, n_channels: int) -> list[int]:
        """Take out the n channels that cost least now; returns which."""
        costs = self._squares / self._diagonal.clamp_min(torch.finfo(torch.float64).tiny)
        costs[self._gone] = torch.inf
        chosen: list[int] = costs.topk(n_channels, largest=False).indices.tolist()
        for channel in chosen:
            self._remove_one_(channel)
        return chosen

    def _remove_one_(self, channel: int) -> None:
        if self._n_pending == BATCH:
            self._settle_()
        n = self._n_pending
        rows, columns = self._rows[:n], self._columns[:, :n]
        pivot = self._inverse[channel] - rows[:, channel] @ rows
        row = pivot / pivot[channel].sqrt()
        column = (self._weight[:, channel] - columns @ rows[:, channel]) / pivot[channel].sqrt()
        products = column @ self._weight - (column @ columns) @ rows
        self._squares += row * (row * (column @ column) - 2 * products)
        self._diagonal -= row.square()
        self._rows[n], self._columns[:, n] = row, column
        self._n_pending += 1
        self._gone[channel] = True

    def _settle_(self) -> None:
        self._inverse -= self._rows.T @ self._rows
        self._weight = self._weight - self._columns @ self._rows
        self._n_pending = 0
