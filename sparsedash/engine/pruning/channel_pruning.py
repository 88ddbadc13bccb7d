"""Structured pruning: score the channels of each MLP, allocate widths, choose channels, compensate.

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
from sparsedash.engine.pruning.saliency import SALIENCIES, drawn_seed
from sparsedash.engine.pruning.surgery import (
    Mlp,
    PrunedMlp,
    out_weight,
    weights_per_channel,
)
from sparsedash.schema.method_settings import MethodSettings, channels_left
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


def uniform(
    blocks: Sequence[ChannelScores],
    share: float,
    method: MethodSettings,
) -> list[int]:
    """The same share of every block removed, to the nearest multiple."""
    return [method.nearest_width(block.width, share) for block in blocks]


def least_total_loss(
    blocks: Sequence[ChannelScores], share: float, method: MethodSettings
) -> list[int]:
    """The widths with the least sum of losses among all that save as much: an exact knapsack.

    Of all savings within half a step of the share the one that loses least: the nearest one alone
    may fix how many blocks are narrower, where widths are no multiples.
    """
    widths = [
        [block.width, *_multiples_below(block.width, method.width_multiple)]
        for block in blocks
    ]
    savings = [
        (block.width - np.array(options)) * block.cost
        for block, options in zip(blocks, widths, strict=True)
    ]
    # In the largest unit that divides all savings.
    unit = int(np.gcd.reduce(np.concatenate(savings))) or 1
    steps = [(block_savings // unit).tolist() for block_savings in savings]
    target = share * sum(block.width * block.cost for block in blocks) / unit
    half_step = max(np.diff([0, *block_steps]).max() for block_steps in steps) / 2
    capacity = min(
        sum(block_steps[-1] for block_steps in steps), math.ceil(target + half_step)
    )
    # least[n]: the least loss of the blocks so far with n units saved.
    least = np.full(capacity + 1, np.inf)
    least[0] = 0.0
    choices = []
    for block, options, block_steps in zip(blocks, widths, steps, strict=True):
        before = least
        least = np.full(capacity + 1, np.inf)
        choice = np.zeros(capacity + 1, dtype=np.int32)
        for number, (width, step) in enumerate(zip(options, block_steps, strict=True)):
            if step > capacity:
                break
            totals = before[: capacity + 1 - step] + float(block.losses[width])
            better = totals < least[step:]
            least[step:][better] = totals[better]
            choice[step:][better] = number
        choices.append(choice)
    reachable = np.flatnonzero(np.isfinite(least))
    distances = np.abs(reachable - target)
    near = reachable[distances <= max(distances.min(), half_step)]
    remaining = int(near[least[near].argmin()])
    kept = []
    for options, block_steps, choice in reversed(
        list(zip(widths, steps, choices, strict=True))
    ):
        number = int(choice[remaining])
        kept.append(options[number])
        remaining -= block_steps[number]
    return kept[::-1]


def _multiples_below(width: int, multiple: int) -> range:
    """The multiples below a width, descending."""
    return range((width - 1) // multiple * multiple, 0, -multiple)


def _by_threshold(
    scores: Sequence[Tensor],
    share: float,
    method: MethodSettings,
) -> list[int]:
    """As many channels of each block as are among the highest scores of the whole model."""
    pooled = torch.cat(list(scores))
    widths = [len(block) for block in scores]
    n_kept = int(channels_left(len(pooled), share) + 0.5)
    keep = torch.zeros(len(pooled), dtype=torch.bool)
    keep[torch.argsort(pooled, descending=True, stable=True)[:n_kept]] = True
    wanted = [float(block.sum()) for block in torch.split(keep, widths)]
    return _rounded(wanted, widths, method.width_multiple)


def _rounded(
    wanted: Sequence[float],
    widths: Sequence[int],
    multiple: int,
) -> list[int]:
    """Largest-remainder rounding to multiples, at least one each, preserving the total."""
    kept = []
    for target, width in zip(wanted, widths, strict=True):
        rounded = max(int(target / multiple) * multiple, min(multiple, width))
        kept.append(width if target >= width else rounded)

    def excess(i: int) -> tuple[float, int]:
        return kept[i] - wanted[i], i

    for i in sorted(range(len(kept)), key=excess):
        if sum(kept) + multiple / 2 > sum(wanted):
            break
        kept[i] = min(widths[i], kept[i] + multiple)
    while sum(kept) - multiple / 2 > sum(wanted):
        reducible = [i for i, width in enumerate(kept) if width > multiple]
        if not reducible:
            break
        i = max(reducible, key=excess)
        kept[i] = (kept[i] - 1) // multiple * multiple
    return kept


def _globally(
    blocks: Sequence[ChannelScores],
    share: float,
    method: MethodSettings,
) -> list[int]:
    return _by_threshold([block.scores for block in blocks], share, method)


def _standardised(
    blocks: Sequence[ChannelScores], share: float, method: MethodSettings
) -> list[int]:
    """By scores in standard deviations from each block's mean; 0 where all are equal."""
    standard_scores = []
    for block in blocks:
        scores = block.scores
        deviation = scores.std().nan_to_num(0).clamp_min(torch.finfo(scores.dtype).tiny)
        standard_scores.append((scores - scores.mean()) / deviation)
    return _by_threshold(standard_scores, share, method)


Allocation = Callable[[Sequence[ChannelScores], float, MethodSettings], list[int]]

ALLOCATIONS: dict[str, Allocation] = {
    "uniform": uniform,
    # arXiv:2204.09656 for Fisher scores, which can be compared across blocks; few others can.
    "global": _globally,
    # FLAP, arXiv:2312.11983.
    "standardised": _standardised,
    "curves": least_total_loss,
}
"""Kept channels of each block if a share of all is removed."""


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    # What remains shrinks by the same factor in every round.
    "exponential": lambda target, done: 1 - (1 - target) ** done,
    "linear": lambda target, done: target * done,
    "cubic": lambda target, done: target * done**3,
    # A quarter of a cosine wave.
    "cosine": lambda target, done: target * (1 - math.cos(done * math.pi / 2)),
}
"""Sparsity so far from the final sparsity and the share of the rounds that are done; all 0 to 1.

Source: the schedulers of neural-compressor.
"""


MAX_MEASURED = 0.8
"""Share of a block's channels that is removed at the last measured point of its curve."""

NO_ERROR = 1e-9
"""Share of the error without any channel, below which a layer's error is rounding."""


def _curve(
    layer: Layer,
    scores: Tensor,
    index: int,
    calibration: CalibrationData,
    method: MethodSettings,
) -> Tensor:
    """Loss of the model with the best k channels kept, (m + 1,): measured at a few widths.

    Between them, and beyond, in proportion to the error of the layer's output, by the nearest
    measured factors.
    """
    compensation = COMPENSATIONS[method.compensation]
    order = torch.argsort(
        scores,
        descending=True,
        stable=True,
    )
    errors = compensation.errors(layer, order, method.damping).clamp_min(0).numpy()
    # Where only channels that are never active are removed, the loss is rounding: the first width
    # that costs is measured.
    costs = errors > NO_ERROR * errors[0]
    widths = [k for k in curve_widths(layer.width, method) if costs[k]]
    if not widths:
        multiples = _multiples_below(layer.width, method.width_multiple)
        widths = [k for k in multiples if costs[k]][:1]
    if not widths:
        return torch.from_numpy(errors)

    def versions() -> list[PrunedMlp]:
        choose = SALIENCIES[method.saliency].choose
        return [
            compensation.refit(
                layer, choose(layer.mask_gradients, scores, k), method.damping
            )
            for k in widths
        ]

    losses = np.array(calibration.curve(method, index, versions))
    factors = losses / errors[widths]
    interpolated = np.interp(np.arange(layer.width + 1), widths[::-1], factors[::-1])
    return torch.from_numpy(errors * interpolated)


def curve_widths(width: int, method: MethodSettings) -> list[int]:
    """Kept channels at which a curve is measured, descending: closer where few are removed."""
    multiple = method.width_multiple
    most = (width - 1) // multiple * multiple
    widths = {0}
    for level in range(1, method.curve_levels + 1):
        removed = MAX_MEASURED * (level / method.curve_levels) ** 1.5
        n_multiples = round(width * (1 - removed) / multiple)
        widths.add(min(most, max(1, n_multiples) * multiple))
    return sorted(widths - {0}, reverse=True)


def score_channels(
    mlps: list[Mlp],
    calibration: CalibrationData,
    method: MethodSettings,
    on_layer: Callable[[int, int], None],
    checkpointed: Checkpointed[ChannelScores] = without_checkpoint,
) -> Sequence[ChannelScores]:
    """Scores of every block's channels, and losses if some are removed; lazy."""
    n = len(mlps)

    def score(index: int) -> ChannelScores:
        if not mlps[index].width:
            nothing = torch.zeros(1, dtype=torch.float64)
            return ChannelScores(width=0, cost=0, scores=torch.empty(0), losses=nothing)
        # Gradients may be enough: then no statistics are read.
        needs_statistics = not method.by_gradient or method.needs_curves
        statistics = (
            calibration.statistics(index) if needs_statistics else NO_STATISTICS
        )
        gradients = calibration.mask_gradients(index) if method.by_gradient else None
        layer = layer_of(
            mlps[index],
            statistics,
            drawn_seed(f"{method.seed}, block {index}"),
            gradients,
        )
        scores = SALIENCIES[method.saliency].score(layer)
        losses = torch.empty(0)
        if method.needs_curves:
            losses = _curve(
                layer,
                scores,
                index,
                calibration,
                method,
            )
        cost = weights_per_channel(mlps[index])
        return ChannelScores(
            width=layer.width,
            cost=cost,
            scores=scores,
            losses=losses,
        )

    def on_scored(index: int) -> None:
        on_layer(2 * index + 1 if method.is_block_local else index + 1, 2 * n)

    return LazySequence(
        n,
        score,
        checkpointed,
        on_scored,
    )


def score_dependencies(method: MethodSettings) -> tuple[object, ...]:
    """Parts of a method that its channel scores depend on: methods that share them share scores."""
    if not method.needs_curves:
        return method.saliency, method.seed
    compensation = COMPENSATIONS[method.compensation]
    return (
        method.saliency,
        method.seed,
        compensation.refit,
        compensation.errors,
        method.damping,
        method.allocation,
        method.width_multiple,
        method.curve_levels,
    )


def _width_of(
    blocks: Sequence[ChannelScores], share: float, method: MethodSettings
) -> Callable[[int], int]:
    """Kept channels by block; from a block's own scores alone where others do not matter."""
    allocation = ALLOCATIONS[method.allocation]
    if method.is_block_local:
        return lambda index: allocation([blocks[index]], share, method)[0]
    return allocation(blocks, share, method).__getitem__


def _n_done(index: int, n: int, method: MethodSettings) -> int:
    """Steps of 2 n that are done once the channels of this block are chosen."""
    return 2 * index + 2 if method.is_block_local else n + index + 1


def prune_channels(
    mlps: list[Mlp],
    calibration: CalibrationData,
    method: MethodSettings,
    share: float,
    *,
    scores: Callable[[], Sequence[ChannelScores]],
    on_layer: Callable[[int, int], None],
    checkpointed: Checkpointed[PrunedMlp] = without_checkpoint,
) -> LazySequence[PrunedMlp]:
    """The narrowed MLPs without this share of their channels, lazy; the model is unchanged.

    scores: makes those of `score_channels`; not called at share 0. on_layer: called with the steps
    done and their total. The same arguments give the same weights, to the bit.
    """
    n = len(mlps)
    blocks = cache(scores)
    width = cache(lambda: _width_of(blocks(), share, method))

    def narrow(index: int) -> PrunedMlp:
        if share == 0:
            return _unpruned(out_weight(mlps[index]).float().cpu())
        n_kept = width()(index)
        gradients = calibration.mask_gradients(index) if method.by_gradient else None
        layer = layer_of(
            mlps[index],
            calibration.statistics(index),
            mask_gradients=gradients,
        )
        if n_kept == layer.width:
            return _unpruned(layer.out_weight)
        kept = SALIENCIES[method.saliency].choose(
            gradients,
            blocks()[index].scores,
            n_kept,
        )
        return COMPENSATIONS[method.compensation].refit(layer, kept, method.damping)

    def on_narrowed(index: int) -> None:
        if share:
            on_layer(_n_done(index, n, method), 2 * n)

    return LazySequence(
        n,
        narrow,
        checkpointed,
        on_narrowed,
    )


@torch.no_grad()
def choose_channels(
    calibration: CalibrationData,
    method: MethodSettings,
    share: float,
    scores: Sequence[ChannelScores],
    on_layer: Callable[[int, int], None],
) -> list[Tensor]:
    """The channels (k,) of each MLP kept if this share is removed, ascending; without a refit."""
    width = _width_of(scores, share, method)
    kept = []
    for index in range(len(scores)):
        n_kept = width(index)
        gradients = calibration.mask_gradients(index) if method.by_gradient else None
        if n_kept == scores[index].width:
            kept.append(torch.arange(n_kept))
        else:
            choose = SALIENCIES[method.saliency].choose
            kept.append(choose(gradients, scores[index].scores, n_kept))
        on_layer(_n_done(index, len(scores), method), 2 * len(scores))
    return kept


def remove_layers(
    mlps: list[Mlp],
    gone: Collection[int],
    on_layer: Callable[[int], None],
    checkpointed: Checkpointed[PrunedMlp],
) -> LazySequence[PrunedMlp]:
    """The MLPs without these layers, lazy; the others are unchanged. on_layer: called with each."""

    def keep(index: int) -> PrunedMlp:
        weight = out_weight(mlps[index]).float().cpu()
        return (
            PrunedMlp(torch.arange(0), weight[:, :0])
            if index in gone
            else _unpruned(weight)
        )

    return LazySequence(
        len(mlps),
        keep,
        checkpointed,
        on_layer,
    )


def _unpruned(weight: Tensor) -> PrunedMlp:
    return PrunedMlp(torch.arange(weight.shape[1]), weight, lost=0.0)
