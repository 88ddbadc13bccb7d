"""Allocation of the sparsity over blocks (widths) and over rounds (schedules). To add one: one function and one row.

An allocation returns the kept channels of each block: a multiple of the method's width multiple, at least one
multiple, or all. Sparsity 0 removes nothing. Requested and reached sparsity can differ by the rounding.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import torch
from torch import Tensor

from sparsedash.schema.method_settings import MethodSettings


@dataclass(frozen=True, eq=False, kw_only=True)
class ChannelScores:
    """Scores of a block's channels, and the model's loss if channels are removed.

    scores: (m,), larger means keep. losses: (m + 1,), of the model with the best k channels kept and the others
    compensated, for k = 0 to m; empty where the allocation does not need it.
    """

    width: int
    scores: Tensor
    losses: Tensor


def uniform(blocks: Sequence[ChannelScores], permille: int, method: MethodSettings) -> list[int]:
    """The same share everywhere, to the nearest multiple."""
    multiple = method.width_multiple

    def nearest(width: int) -> int:
        if permille == 0 or width <= multiple:
            return width
        exact = width * (1000 - permille) / 1000
        return min(width, max(multiple, int(exact / multiple + 0.5) * multiple))

    return [nearest(block.width) for block in blocks]


def _standard(scores: Tensor) -> Tensor:
    """The scores in standard deviations from their mean; 0 where all are equal."""
    return (scores - scores.mean()) / scores.std().nan_to_num(0).clamp_min(torch.finfo(scores.dtype).tiny)


def by_sensitivity(blocks: Sequence[ChannelScores], permille: int, method: MethodSettings) -> list[int]:
    """The method's blend of the uniform widths and the widths of least loss.

    Half of each by default: sensitivity is measured on little text.
    """
    exact = [
        method.blend * own + (1 - method.blend) * block.width * (1000 - permille) / 1000
        for own, block in zip(_least_loss(blocks, permille, method), blocks, strict=True)
    ]
    return _rounded(exact, [block.width for block in blocks], method.width_multiple)


@dataclass(frozen=True)
class Allocation:
    """widths: the kept channels of each block. needs_losses: whether it reads the losses of the blocks.

    alone: whether a block's width follows from that block alone.
    """

    widths: Callable[[Sequence[ChannelScores], int, MethodSettings], list[int]]
    needs_losses: bool = False
    alone: bool = False


ALLOCATIONS: dict[str, Allocation] = {
    "uniform": Allocation(uniform, alone=True),
    # arXiv:2204.09656 for Fisher scores, which can be compared across blocks; few others can.
    "global": Allocation(
        lambda blocks, permille, method: _by_threshold([block.scores for block in blocks], permille, method)
    ),
    # FLAP, arXiv:2312.11983.
    "standardised": Allocation(
        lambda blocks, permille, method: _by_threshold([_standard(block.scores) for block in blocks], permille, method)
    ),
    "sensitivity": Allocation(by_sensitivity, needs_losses=True),
}


def _least_loss(blocks: Sequence[ChannelScores], permille: int, method: MethodSettings) -> list[int]:
    """Removes one multiple after another where the loss grows least, until the target is reached.

    No block gives less than the floor, rounded down to multiples, or more than the ceiling, unless the target itself is
    beyond them; none has to stay wider than uniform widths would be.
    """
    multiple, target = method.width_multiple, permille / 1000
    floor, ceiling = min(method.floor, target), max(method.ceiling, target)
    kept = [min(b.width, math.ceil(b.width * (1 - floor) / multiple - 1e-9) * multiple) for b in blocks]
    narrowest = [
        min(max(multiple, int(block.width * (1 - ceiling))), even)
        for block, even in zip(blocks, uniform(blocks, permille, method), strict=True)
    ]
    queue: list[tuple[float, int, int]] = []

    def enqueue(index: int) -> None:
        narrower, losses = (kept[index] - 1) // multiple * multiple, blocks[index].losses
        if narrower >= narrowest[index]:
            cost = float(losses[narrower] - losses[kept[index]]) / (kept[index] - narrower)
            heappush(queue, (cost, index, narrower))

    for index in range(len(blocks)):
        enqueue(index)
    n_kept = sum(block.width for block in blocks) * (1 - target)
    while queue and sum(kept) - n_kept >= multiple / 2:
        _, index, kept_now = heappop(queue)
        kept[index] = kept_now
        enqueue(index)
    return kept


def _by_threshold(scores: Sequence[Tensor], permille: int, method: MethodSettings) -> list[int]:
    """As many of each block as are among the highest scores of the whole model."""
    pooled, widths = torch.cat(list(scores)), [len(own) for own in scores]
    n_kept = int(len(pooled) * (1000 - permille) / 1000 + 0.5)
    keep = torch.zeros(len(pooled), dtype=torch.bool)
    keep[torch.argsort(pooled, descending=True, stable=True)[:n_kept]] = True
    return _rounded([float(part.sum()) for part in torch.split(keep, widths)], widths, method.width_multiple)


def _rounded(wanted: Sequence[float], widths: Sequence[int], multiple: int) -> list[int]:
    """Rounded down to multiples, then up again where most was lost, so that the sum is kept."""
    kept = [
        width if want >= width else max(int(want / multiple) * multiple, min(multiple, width))
        for want, width in zip(wanted, widths, strict=True)
    ]
    for i in sorted(range(len(kept)), key=lambda i: (kept[i] - wanted[i], i)):
        if sum(kept) + multiple / 2 > sum(wanted):
            break
        kept[i] = min(widths[i], kept[i] + multiple)
    return kept


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    # The rest shrinks by the same factor in every round.
    "exponential": lambda target, done: 1 - (1 - target) ** done,
    "linear": lambda target, done: target * done,
    "cubic": lambda target, done: target * done**3,
    # A quarter of a cosine wave.
    "cosine": lambda target, done: target * (1 - math.cos(done * math.pi / 2)),
}
"""Sparsity so far from the sparsity at the end and the share of the rounds that are done; all from 0 to 1.

Source: the schedulers of neural-compressor.
"""


def reached_permille(schedule: str, permille: int, done: float) -> int:
    """The sparsity after this share of the rounds, per mille."""
    return round(1000 * SCHEDULES[schedule](permille / 1000, done))
