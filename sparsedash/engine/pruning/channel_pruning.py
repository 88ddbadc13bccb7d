"""Structured pruning: score the channels of each MLP, allocate widths, choose kept channels,
compensate.

`channelx1`: whole inner channels leave the network, with their rows in the inner projections and
their column in the out-projection. Blocks are computed lazily, and depend on others only where
their width does.

An allocation returns the kept channels of each block: a multiple of the method's width multiple, at
least one, or all. A schedule spreads the sparsity over rounds. To add either: one function, one
row, and what an allocation needs in `MethodSettings`.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise
from random import Random

import numpy as np
import torch
from torch import Tensor

from sparsedash.engine.pruning.compensation import COMPENSATIONS
from sparsedash.engine.pruning.layer import (
    NO_STATISTICS,
    CalibrationData,
    Layer,
    LazySequence,
    layer_of,
)
from sparsedash.engine.pruning.saliency import SALIENCIES
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, out_weight, weights_per_channel
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Checkpointed, without_checkpoint


@dataclass(frozen=True, eq=False, kw_only=True)
class ChannelScores:
    """Scores of a block's channels, and the model's loss if channels are removed.

    cost: weights that leave the network with one channel. scores: (m,), larger means keep. losses:
    (m + 1,) float64, of the model with the best k channels kept and the others compensated, for k =
    0 to m; empty where the allocation does not need it.
    """

    width: int
    cost: int
    scores: Tensor
    losses: Tensor


def uniform(blocks: Sequence[ChannelScores], share: float, method: MethodSettings) -> list[int]:
    """The same share everywhere, to the nearest multiple."""
    multiple = method.width_multiple

    def nearest(width: int) -> int:
        if share == 0 or width <= multiple:
            return width
        return min(width, max(multiple, int(_kept(width, share) / multiple + 0.5) * multiple))

    return [nearest(block.width) for block in blocks]


def _kept(width: int, share: float) -> float:
    """What is left of so many channels, not rounded to whole ones, but free of what floats add or
    lose.
    """
    return round(width * (1 - share), 6)


def _standard(scores: Tensor) -> Tensor:
    """The scores in standard deviations from their mean; 0 where all are equal."""
    return (scores - scores.mean()) / scores.std().nan_to_num(0).clamp_min(
        torch.finfo(scores.dtype).tiny
    )


def least_total_loss(
    blocks: Sequence[ChannelScores], share: float, method: MethodSettings
) -> list[int]:
    """The widths with the least sum of losses among all that save as much: an exact knapsack.

    Of all savings within half a step of the share the one that loses least: the nearest one alone
    may fix how many blocks are narrower, where widths are no multiples.
    """
    possible = [
        [block.width, *_multiples_below(block.width, method.width_multiple)] for block in blocks
    ]
    saved = [
        [(block.width - k) * block.cost for k in own]
        for block, own in zip(blocks, possible, strict=True)
    ]
    # In the largest unit that divides all savings.
    unit = math.gcd(*chain.from_iterable(saved)) or 1
    steps = [[saving // unit for saving in own] for own in saved]
    wanted = share * sum(block.width * block.cost for block in blocks) / unit
    half = max(b - a for own in steps for a, b in pairwise([0, *own])) / 2
    room = min(sum(own[-1] for own in steps), math.ceil(wanted + half))
    # least[n]: the least loss of the blocks so far with n units saved; taken: the step that the
    # last block took.
    least, taken = np.array([0.0, *[np.inf] * room]), []
    for block, own, costs in zip(blocks, possible, steps, strict=True):
        before, least, chosen = least, np.full(room + 1, np.inf), np.zeros(room + 1, dtype=np.int32)
        for n, (width, cost) in enumerate(zip(own, costs, strict=True)):
            if cost > room:
                break
            totals = before[: room + 1 - cost] + float(block.losses[width])
            better = totals < least[cost:]
            least[cost:][better], chosen[cost:][better] = totals[better], n
        taken.append(chosen)
    reached = np.flatnonzero(np.isfinite(least))
    away = np.abs(reached - wanted)
    near = reached[away <= max(away.min(), half)]
    left, kept = int(near[least[near].argmin()]), []
    for own, costs, chosen in zip(
        reversed(possible), reversed(steps), reversed(taken), strict=True
    ):
        n = int(chosen[left])
        kept.append(own[n])
        left -= costs[n]
    return kept[::-1]


def _multiples_below(width: int, multiple: int) -> range:
    """The multiples below a width, descending."""
    return range((width - 1) // multiple * multiple, 0, -multiple)


def _curve(
    layer: Layer, scores: Tensor, index: int, calibration: CalibrationData, method: MethodSettings
) -> Tensor:
    """Loss of the model with the best k channels kept, (m + 1,): measured at a few widths.

    Between them, and beyond, in proportion to the error of the layer's output, by the nearest
    measured factors.
    """
    compensation, saliency = COMPENSATIONS[method.compensation], SALIENCIES[method.saliency]
    order = torch.argsort(scores, descending=True, stable=True)
    errors = compensation.errors(layer, order, method.damping).clamp_min(0).numpy()
    # Where only channels that are never active are gone, the loss is rounding: the first width that
    # costs is measured.
    costs = errors > NO_ERROR * errors[0]
    multiples = _multiples_below(layer.width, method.width_multiple)
    widths = [k for k in curve_widths(layer.width, method) if costs[k]] or [
        k for k in multiples if costs[k]
    ][:1]
    if not widths:
        return torch.from_numpy(errors)

    def versions() -> list[PrunedMlp]:
        return [
            compensation.refit(
                layer, saliency.choose(layer.mask_gradients, scores, k), method.damping
            )
            for k in widths
        ]

    measured, at = np.array(calibration.curve(method, index, versions)), np.array(widths)
    factors = measured / errors[at]
    return torch.from_numpy(errors * np.interp(np.arange(layer.width + 1), at[::-1], factors[::-1]))


def curve_widths(width: int, method: MethodSettings) -> list[int]:
    """Kept channels at which a curve is measured, descending: closer together where little goes."""
    multiple, n = method.width_multiple, method.curve_levels
    most = (width - 1) // multiple * multiple
    wanted = (
        width * (1 - MOST_MEASURED * (level / n) ** 1.5) / multiple for level in range(1, n + 1)
    )
    return sorted({min(most, max(1, round(own)) * multiple) for own in wanted} - {0}, reverse=True)


Widths = Callable[[Sequence[ChannelScores], float, MethodSettings], list[int]]

ALLOCATIONS: dict[str, Widths] = {
    "uniform": uniform,
    # arXiv:2204.09656 for Fisher scores, which can be compared across blocks; few others can.
    "global": lambda blocks, share, method: _by_threshold(
        [block.scores for block in blocks], share, method
    ),
    # FLAP, arXiv:2312.11983.
    "standardised": lambda blocks, share, method: _by_threshold(
        [_standard(block.scores) for block in blocks], share, method
    ),
    "curves": least_total_loss,
}
"""Kept channels of each block where a share of all goes."""


def _by_threshold(scores: Sequence[Tensor], share: float, method: MethodSettings) -> list[int]:
    """As many of each block as are among the highest scores of the whole model."""
    pooled, widths = torch.cat(list(scores)), [len(own) for own in scores]
    n_kept = int(_kept(len(pooled), share) + 0.5)
    keep = torch.zeros(len(pooled), dtype=torch.bool)
    keep[torch.argsort(pooled, descending=True, stable=True)[:n_kept]] = True
    return _rounded(
        [float(part.sum()) for part in torch.split(keep, widths)], widths, method.width_multiple
    )


def _rounded(wanted: Sequence[float], widths: Sequence[int], multiple: int) -> list[int]:
    """Rounded down to multiples, of which each keeps one; then up again where most was lost, or
    further down where most was won, so that the sum is kept to half a multiple, where that can be.
    """
    kept = [
        width if want >= width else max(int(want / multiple) * multiple, min(multiple, width))
        for want, width in zip(wanted, widths, strict=True)
    ]
    for i in sorted(range(len(kept)), key=lambda i: (kept[i] - wanted[i], i)):
        if sum(kept) + multiple / 2 > sum(wanted):
            break
        kept[i] = min(widths[i], kept[i] + multiple)
    while sum(kept) - multiple / 2 > sum(wanted) and (
        more := [i for i, own in enumerate(kept) if own > multiple]
    ):
        i = max(more, key=lambda i: (kept[i] - wanted[i], i))
        kept[i] = (kept[i] - 1) // multiple * multiple
    return kept


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    # The rest shrinks by the same factor in every round.
    "exponential": lambda target, done: 1 - (1 - target) ** done,
    "linear": lambda target, done: target * done,
    "cubic": lambda target, done: target * done**3,
    # A quarter of a cosine wave.
    "cosine": lambda target, done: target * (1 - math.cos(done * math.pi / 2)),
}
"""Sparsity so far from the sparsity at the end and the share of the rounds that are done; all from
0 to 1.

Source: the schedulers of neural-compressor.
"""


MOST_MEASURED = 0.8
"""Share of a block's channels that is gone at the last measured point of its curve."""

NO_ERROR = 1e-9
"""Share of the error without any channel, below which a layer's error is rounding."""


def prune_channels(
    mlps: list[Mlp],
    calibration: CalibrationData,
    method: MethodSettings,
    share: float,
    *,
    scores: Callable[[], Sequence[ChannelScores]],
    on_layer: Callable[[int, int], None],
    made: Checkpointed[PrunedMlp] = without_checkpoint,
) -> LazySequence[PrunedMlp]:
    """The narrowed MLPs without this share of their channels, computed lazily; the model itself is
    unchanged.

    scores: gives what `score_channels` finds; not called at share 0. on_layer: called with steps
    done and all steps.
    made: see Checkpointed. The same arguments give the same weights, to the bit.
    """
    n, blocks = len(mlps), cache(scores)
    width = cache(lambda: _width_of(blocks(), share, method))

    def narrow(index: int) -> PrunedMlp:
        if share == 0:
            return _unpruned(out_weight(mlps[index]).float().cpu())
        n_kept, layer = width()(index), _method_layer(mlps[index], calibration, index, method)
        if n_kept == layer.width:
            return _unpruned(layer.out_weight)
        kept = SALIENCIES[method.saliency].choose(
            layer.mask_gradients, blocks()[index].scores, n_kept
        )
        return COMPENSATIONS[method.compensation].refit(layer, kept, method.damping)

    def on_made(index: int) -> None:
        if share:
            on_layer(_n_done(index, n, method), 2 * n)

    return LazySequence(n, narrow, made, on_made)


def _width_of(
    blocks: Sequence[ChannelScores], share: float, method: MethodSettings
) -> Callable[[int], int]:
    """Gives the kept channels of each block; where they do not depend on the others, from its
    scores alone.
    """
    allocation = ALLOCATIONS[method.allocation]
    if method.per_block:
        return lambda index: allocation([blocks[index]], share, method)[0]
    return allocation(blocks, share, method).__getitem__


def _n_done(index: int, n: int, method: MethodSettings) -> int:
    """Steps of 2 n that are done once the channels of this block are chosen."""
    return 2 * index + 2 if method.per_block else n + index + 1


def remove_layers(
    mlps: list[Mlp],
    gone: Collection[int],
    on_made: Callable[[int], None],
    made: Checkpointed[PrunedMlp],
) -> LazySequence[PrunedMlp]:
    """The MLPs without these layers, computed lazily; what stays is unchanged.

    on_made: called with the index of each MLP. made: see Checkpointed.
    """

    def keep(index: int) -> PrunedMlp:
        weight = out_weight(mlps[index]).float().cpu()
        return PrunedMlp(torch.arange(0), weight[:, :0]) if index in gone else _unpruned(weight)

    return LazySequence(len(mlps), keep, made, on_made)


@torch.no_grad()
def choose_channels(
    calibration: CalibrationData,
    method: MethodSettings,
    share: float,
    scores: Sequence[ChannelScores],
    on_layer: Callable[[int, int], None],
) -> list[Tensor]:
    """The channels (k,) of each MLP kept where this share of all goes, ascending; nothing is
    refitted.
    """
    width, chosen, n = _width_of(scores, share, method), list[Tensor](), len(scores)
    for index in range(n):
        n_kept, masks = (
            width(index),
            calibration.mask_gradients(index) if method.by_gradient else None,
        )
        chosen.append(SALIENCIES[method.saliency].choose(masks, scores[index].scores, n_kept))
        on_layer(_n_done(index, n, method), 2 * n)
    return chosen


def score_channels(
    mlps: list[Mlp],
    calibration: CalibrationData,
    method: MethodSettings,
    on_layer: Callable[[int, int], None],
    made: Checkpointed[ChannelScores] = without_checkpoint,
) -> Sequence[ChannelScores]:
    """Scores of every block's channels, and losses if some are removed; lazy. made: see
    Checkpointed.
    """
    n = len(mlps)

    def score(index: int) -> ChannelScores:
        layer = _method_layer(mlps[index], calibration, index, method, refits=False)
        scores, losses = SALIENCIES[method.saliency].score(layer), torch.empty(0)
        if method.by_curves:
            losses = _curve(layer, scores, index, calibration, method)
        cost = weights_per_channel(mlps[index])
        return ChannelScores(width=layer.width, cost=cost, scores=scores, losses=losses)

    def on_made(index: int) -> None:
        on_layer(2 * index + 1 if method.per_block else index + 1, 2 * n)

    return LazySequence(n, score, made, on_made)


def score_dependencies(method: MethodSettings) -> tuple[object, ...]:
    """Parts of a method that its channel scores depend on; methods that have them in common share
    the scores.
    """
    if not method.by_curves:
        return method.saliency, method.seed
    compensation = COMPENSATIONS[method.compensation]
    shared = method.allocation, method.width_multiple, method.curve_levels
    return (
        method.saliency,
        method.seed,
        compensation.refit,
        compensation.errors,
        method.damping,
        *shared,
    )


def _method_layer(
    mlp: Mlp,
    calibration: CalibrationData,
    index: int,
    method: MethodSettings,
    *,
    refits: bool = True,
) -> Layer:
    """One MLP with what the method needs; without refits, gradients may be enough, and no
    statistics are read.
    """
    needs_statistics = refits or not method.by_gradient or method.by_curves
    statistics = calibration.statistics(index) if needs_statistics else NO_STATISTICS
    masks = calibration.mask_gradients(index) if method.by_gradient else None
    return layer_of(mlp, statistics, _block_seed(method.seed, index), masks)


def _block_seed(seed: int, index: int) -> int:
    """The seed of one block, 32 bits. A sum would give the blocks of neighbouring seeds the same
    ones, shifted.
    """
    return Random(f"{seed}, block {index}").getrandbits(32)


def _unpruned(weight: Tensor) -> PrunedMlp:
    return PrunedMlp(torch.arange(weight.shape[1]), weight, lost=0.0)
