"""What is removed, and the shares of the model that it makes up.

`channelx1`: whole inner channels leave the network, with their rows in the inner projections and their column in the
out-projection. The masks are nested: what 10 % removes, 30 % removes too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def kept_channels(scores: Tensor, n_kept: int) -> Tensor:
    """Indices of the channels with the largest scores, ascending. scores: (m,). Ties fall to the lower index."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:n_kept].sort().values


def mlp_sparsity(dense: Sequence[int], kept: Sequence[int]) -> float:
    """Removed inner channels / all inner channels."""
    return 1 - sum(kept) / sum(dense)


def matmul_ratio(
    dense: Sequence[int], kept: Sequence[int], weights_per_channel: Sequence[int], total: int
) -> float:
    """Removed weights / all weights of Linear and Conv layers, output head included.

    weights_per_channel: of each block, over all its MLP's projections. total: in the dense model.
    """
    removed = sum((m - k) * per for m, k, per in zip(dense, kept, weights_per_channel, strict=True))
    return removed / total
