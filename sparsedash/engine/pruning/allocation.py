"""How much each block gives. One function and one row add a way.

Every function returns the kept channels of each block: a multiple of `multiple`, at least one multiple, or all. Nothing
asked means nothing removed. Requested and reached sparsity can differ by the rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CEILING = 0.6
"""The largest share of a block's channels that sensitivity alone would take; less is taken, by the blend."""

BLEND = 0.5
"""How far sensitivity moves the widths from the uniform ones: measured on little text, it is half believed."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Prospect:
    """What a block has to give.

    scores: (m,) of its channels, larger means keep. losses: (m + 1,), what keeping the best k channels and refitting
    them would cost the model, for k = 0 to m. Each is empty where the allocation does not ask for it.
    """

    width: int
    scores: Tensor
    losses: Tensor


def uniform(prospects: Sequence[Prospect], permille: int, multiple: int) -> list[int]:
    """The same share everywhere, to the nearest multiple."""
    return [_nearest(block.width, permille, multiple) for block in prospects]


def global_by_score(prospects: Sequence[Prospect], permille: int, multiple: int) -> list[int]:
    """As many of each block as are among the highest scores of the whole model.

    Source: arXiv:2204.09656 for Fisher scores, which can be compared across blocks; few others can.
    """
    return _by_threshold([block.scores for block in prospects], permille, multiple)


def standardised(prospects: Sequence[Prospect], permille: int, multiple: int) -> list[int]:
    """The same with each block's scores in standard deviations from their mean, so that they can be compared.

    Source: FLAP, arXiv:2312.11983.
    """
    scores = [(block.scores - block.scores.mean()) / block.scores.std() for block in prospects]
    return _by_threshold(scores, permille, multiple)


def by_sensitivity(prospects: Sequence[Prospect], permille: int, multiple: int) -> list[int]:
    """Half way from the uniform widths to those that cost the model least."""
    cheapest = _cheapest(prospects, permille, multiple)
    exact = [
        BLEND * own + (1 - BLEND) * block.width * (1000 - permille) / 1000
        for own, block in zip(cheapest, prospects, strict=True)
    ]
    return _rounded(exact, [block.width for block in prospects], multiple)


@dataclass(frozen=True)
class Allocation:
    """widths: the kept channels. needs: what it reads of the prospects beside the width."""

    widths: Callable[[Sequence[Prospect], int, int], list[int]]
    needs_scores: bool = False
    needs_losses: bool = False


ALLOCATIONS: dict[str, Allocation] = {
    "uniform": Allocation(uniform),
    "global": Allocation(global_by_score, needs_scores=True),
    "standardised": Allocation(standardised, needs_scores=True),
    "sensitivity": Allocation(by_sensitivity, needs_losses=True),
}


def _nearest(width: int, permille: int, multiple: int) -> int:
    if permille == 0 or width <= multiple:
        return width
    exact = width * (1000 - permille) / 1000
    return min(width, max(multiple, int(exact / multiple + 0.5) * multiple))


def _cheapest(prospects: Sequence[Prospect], permille: int, multiple: int) -> list[int]:
    """One multiple after another from where it costs the model least, until the target is reached."""
    kept = [block.width for block in prospects]
    target = sum(kept) * (1000 - permille) / 1000
    while sum(kept) - target >= multiple / 2:
        narrower = [(k - 1) // multiple * multiple for k in kept]
        possible = [
            i for i, block in enumerate(prospects) if narrower[i] >= _floor(block.width, multiple)
        ]
        if not possible:
            break
        costs = {i: _cost_a_channel(prospects[i], kept[i], narrower[i]) for i in possible}
        best = min(possible, key=costs.__getitem__)
        kept[best] = narrower[best]
    return kept


def _floor(width: int, multiple: int) -> int:
    """The narrowest that a block may become."""
    return max(multiple, int(width * (1 - CEILING)))


def _cost_a_channel(block: Prospect, kept: int, narrower: int) -> float:
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
