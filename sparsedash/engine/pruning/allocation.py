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
    """How much each channel of a block matters, and what it would cost the model to give channels up.

    scores: (m,), larger means keep. losses: (m + 1,), what keeping the best k channels and making up for the others
    would cost the model, for k = 0 to m; empty where the allocation does not ask for it.
    """

    width: int
    scores: Tensor
    losses: Tensor


def uniform(blocks: Sequence[ChannelScores], permille: int, method: MethodSettings) -> list[int]:
    """The same share everywhere, to the nearest multiple."""
    return [_nearest(block.width, permille, method.width_multiple) for block in blocks]


def global_by_score(blocks: Sequence[ChannelScores], permille: int, method: MethodSettings) -> list[int]:
    """As many of each block as are among the highest scores of the whole model.

    Source: arXiv:2204.09656 for Fisher scores, which can be compared across blocks; few others can.
    """
    return _by_threshold([block.scores for block in blocks], permille, method.width_multiple)


def standardised(blocks: Sequence[ChannelScores], permille: int, method: MethodSettings) -> list[int]:
    """The same with each block's scores in standard deviations from their mean, so that they can be compared.

    Source: FLAP, arXiv:2312.11983.
    """
    scores = [_standard(block.scores) for block in blocks]
    return _by_threshold(scores, permille, method.width_multiple)


def by_sensitivity(blocks: Sequence[ChannelScores], permille: int, method: MethodSettings) -> list[int]:
    """Part of the way, the method's blend, from the uniform widths to those that cost the model least.

    Half of it by default: measured on little text, sensitivity is half believed.
    """
    cheapest = _cheapest(blocks, permille, method)
    exact = [
        method.blend * own + (1 - method.blend) * block.width * (1000 - permille) / 1000
        for own, block in zip(cheapest, blocks, strict=True)
    ]
    return _rounded(exact, [block.width for block in blocks], method.width_multiple)


@dataclass(frozen=True)
class Allocation:
    """widths: the kept channels of each block. needs_losses: whether it looks at what giving channels up costs.

    alone: whether a block's width follows from that block alone.
    """

    widths: Callable[[Sequence[ChannelScores], int, MethodSettings], list[int]]
    needs_losses: bool = False
    alone: bool = False


ALLOCATIONS: dict[str, Allocation] = {
    "uniform": Allocation(uniform, alone=True),
    "global": Allocation(global_by_score),
    "standardised": Allocation(standardised),
    "sensitivity": Allocation(by_sensitivity, needs_losses=True),
}


def _standard(scores: Tensor) -> Tensor:
    """In standard deviations from their mean; 0 where all are alike."""
    deviation = scores.std().nan_to_num(0).clamp_min(torch.finfo(scores.dtype).tiny)
    return (scores - scores.mean()) / deviation


def _nearest(width: int, permille: int, multiple: int) -> int:
    if permille == 0 or width <= multiple:
        return width
    exact = width * (1000 - permille) / 1000
    return min(width, max(multiple, int(exact / multiple + 0.5) * multiple))


def _cheapest(blocks: Sequence[ChannelScores], permille: int, method: MethodSettings) -> list[int]:
    """One multiple after another from where it costs the model least, until the target is reached.

    No block gives less than the floor, rounded down to multiples, or more than the ceiling, unless the target itself is
    beyond them; none has to stay wider than uniform widths would be.
    """
    multiple, asked = method.width_multiple, permille / 1000
    floor, ceiling = min(method.floor, asked), max(method.ceiling, asked)
    kept = [_up_to_multiple(block.width, 1 - floor, multiple) for block in blocks]
    narrowest = [
        min(max(multiple, int(block.width * (1 - ceiling))), even)
        for block, even in zip(blocks, uniform(blocks, permille, method), strict=True)
    ]
    offers: list[tuple[float, int, int]] = []

    def offer(index: int) -> None:
        narrower = (kept[index] - 1) // multiple * multiple
        if narrower >= narrowest[index]:
            cost = _cost_a_channel(blocks[index], kept[index], narrower)
            heappush(offers, (cost, index, narrower))

    for index in range(len(blocks)):
        offer(index)
    target = sum(block.width for block in blocks) * (1 - asked)
    while offers and sum(kept) - target >= multiple / 2:
        _, index, narrower = heappop(offers)
        kept[index] = narrower
        offer(index)
    return kept


def _up_to_multiple(width: int, share: float, multiple: int) -> int:
    """This share of the width, rounded up to a multiple; at most the width."""
    return min(width, math.ceil(width * share / multiple - 1e-9) * multiple)


def _cost_a_channel(block: ChannelScores, kept: int, narrower: int) -> float:
    return float(block.losses[narrower] - block.losses[kept]) / (kept - narrower)


def _by_threshold(scores: Sequence[Tensor], permille: int, multiple: int) -> list[int]:
    """Kept channels by one threshold over all blocks."""
    pooled = torch.cat(list(scores))
    n_kept = int(len(pooled) * (1000 - permille) / 1000 + 0.5)
    keep = torch.zeros(len(pooled), dtype=torch.bool)
    keep[torch.argsort(pooled, descending=True, stable=True)[:n_kept]] = True
    widths = [len(own) for own in scores]
    wanted = [float(part.sum()) for part in torch.split(keep, widths)]
    return _rounded(wanted, widths, multiple)


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


def exponential(target: float, done: float) -> float:
    """What is left shrinks by the same factor in every round."""
    left: float = (1 - target) ** done
    return 1 - left


def linear(target: float, done: float) -> float:
    """The same share in every round."""
    return target * done


def cubic(target: float, done: float) -> float:
    """Little at first, most at the end."""
    return target * done**3


def cosine(target: float, done: float) -> float:
    """A quarter of a cosine wave: little at first."""
    return target * (1 - math.cos(done * math.pi / 2))


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "exponential": exponential,
    "linear": linear,
    "cubic": cubic,
    "cosine": cosine,
}


def reached_permille(schedule: str, permille: int, done: float) -> int:
    """The sparsity after this share of the rounds, per mille."""
    return round(1000 * SCHEDULES[schedule](permille / 1000, done))
