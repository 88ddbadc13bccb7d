"""The patterns in which weights go, and what share of the model is gone. To add a pattern: one row.

`channelx1`: whole inner channels leave the network, with their rows in the inner projections and their column in the
out-projection. Where channels go by their scores the masks are nested: what 10 % removes, 30 % removes too. All others
set single weights to zero, which by itself makes a model neither smaller nor faster: `1x1` anywhere, `n:m` so many in
every m neighbours of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """channels: whole channels leave.

    group, n_zero: so many zeros in every `group` neighbours of a row; 0: anywhere.
    """

    channels: bool = False
    group: int = 0
    n_zero: int = 0

    def zeros(self, scores: Tensor, permille: int, by_row: bool) -> Tensor:
        """Where single weights go, (n, d) bool: the lowest scores. scores: (n, d).

        by_row: of a pattern without groups: the same share of every row, instead of a share of all. Neighbours at the
        end of a row that do not fill a group stay.
        """
        rows, columns = scores.shape
        if self.group:
            n_full = columns - columns % self.group
            grouped = scores[:, :n_full].reshape(rows, -1, self.group)
            gone = torch.zeros_like(scores, dtype=torch.bool)
            gone[:, :n_full] = _lowest(grouped, self.n_zero).reshape(rows, n_full)
            return gone
        if by_row:
            return _lowest(scores, round(columns * permille / 1000))
        return _lowest(scores.flatten(), round(scores.numel() * permille / 1000)).view_as(scores)


PATTERNS: dict[str, Pattern] = {
    "channelx1": Pattern(channels=True),
    "1x1": Pattern(),
    "2:4": Pattern(group=4, n_zero=2),
    "4:8": Pattern(group=8, n_zero=4),
}


def _lowest(scores: Tensor, n: int) -> Tensor:
    """True at the n lowest of the last dimension."""
    gone = torch.zeros_like(scores, dtype=torch.bool)
    return gone.scatter_(-1, scores.topk(n, dim=-1, largest=False).indices, True)


def kept_channels(scores: Tensor, n_kept: int) -> Tensor:
    """Indices of the channels with the largest scores, ascending. scores: (m,). Ties fall to the lower index."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:n_kept].sort().values


def mask_of(kept: Tensor, width: int) -> Tensor:
    """(m,) float32: 1 for the channels that are kept, 0 for those that go."""
    mask = torch.zeros(width)
    mask[kept] = 1
    return mask


def mlp_sparsity(dense: Sequence[int], kept: Sequence[int]) -> float:
    """Removed inner channels / all inner channels."""
    return 1 - sum(kept) / sum(dense)


def matmul_ratio(dense: Sequence[int], kept: Sequence[int], weights_per_channel: Sequence[int], total: int) -> float:
    """Removed weights / all weights of Linear and Conv layers, output head included.

    weights_per_channel: of each block, over all its MLP's projections. total: in the dense model.
    """
    removed = sum((m - k) * per for m, k, per in zip(dense, kept, weights_per_channel, strict=True))
    return removed / total
