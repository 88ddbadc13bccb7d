"""Structured pruning: score the channels of each MLP, allocate widths, choose kept channels, compensate.

`channelx1`: whole inner channels leave the network, with their rows in the inner projections and their column in the
out-projection. Blocks are computed lazily, and depend on others only where their width does.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from sparsedash.engine.pruning.allocation import ALLOCATIONS, ChannelScores
from sparsedash.engine.pruning.compensation import COMPENSATIONS, least_squares
from sparsedash.engine.pruning.layer import NO_STATISTICS, CalibrationData, Layer, LazySequence, layer_of
from sparsedash.engine.pruning.saliency import SALIENCIES, activation_aware, kept_channels
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, out_weight
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Checkpointed, without_checkpoint

REFERENCE_KEPT, REFERENCE_DAMPING = 0.75, 0.01


def prune_channels(
    mlps: list[Mlp],
    calibration: CalibrationData,
    method: MethodSettings,
    permille: int,
    *,
    scores: Callable[[], Sequence[ChannelScores]],
    on_layer: Callable[[int, int], None],
    made: Checkpointed[PrunedMlp] = without_checkpoint,
) -> LazySequence[PrunedMlp]:
    """The narrowed MLPs at this sparsity, computed lazily; the model itself is unchanged.

    scores: gives what `score_channels` finds; not called at sparsity 0. on_layer: called with steps done and all steps.
    made: see Checkpointed. The same arguments give the same weights, to the bit.
    """
    allocation, blocks, n = ALLOCATIONS[method.allocation], cache(scores), len(mlps)
    widths = cache(lambda: allocation.widths(blocks(), permille, method))

    def narrow(index: int) -> PrunedMlp:
        if permille == 0:
            return _unpruned(out_weight(mlps[index]).float().cpu())
        block = blocks()[index]
        n_kept = allocation.widths([block], permille, method)[0] if allocation.alone else widths()[index]
        layer = _method_layer(mlps[index], calibration, index, method)
        if n_kept == layer.width:
            return _unpruned(layer.out_weight)
        kept = SALIENCIES[method.saliency].choose(layer, block.scores, n_kept)
        return COMPENSATIONS[method.compensation].refit(layer, kept, method.damping)

    def on_made(index: int) -> None:
        if permille:
            on_layer(2 * index + 2 if allocation.alone else n + index + 1, 2 * n)

    return LazySequence(n, narrow, made, on_made)


@torch.no_grad()
def choose_channels(
    mlps: list[Mlp],
    calibration: CalibrationData,
    method: MethodSettings,
    permille: int,
    on_layer: Callable[[int, int], None],
) -> list[Tensor]:
    """The channels (k,) of each MLP kept at this sparsity, ascending; nothing is refitted."""
    blocks = score_channels(mlps, calibration, method, on_layer)
    widths = ALLOCATIONS[method.allocation].widths(blocks, permille, method)
    chosen = []
    for index, (mlp, n_kept) in enumerate(zip(mlps, widths, strict=True)):
        layer = _method_layer(mlp, calibration, index, method, refits=False)
        chosen.append(SALIENCIES[method.saliency].choose(layer, blocks[index].scores, n_kept))
        on_layer(len(mlps) + index + 1, 2 * len(mlps))
    return chosen


def score_channels(
    mlps: list[Mlp],
    calibration: CalibrationData,
    method: MethodSettings,
    on_layer: Callable[[int, int], None],
    made: Checkpointed[ChannelScores] = without_checkpoint,
) -> Sequence[ChannelScores]:
    """Scores of every block's channels, and losses if some are removed, whatever the sparsity; computed lazily.

    made: see Checkpointed.
    """
    allocation, errors = ALLOCATIONS[method.allocation], COMPENSATIONS[method.compensation].errors
    sensitivities, n = cache(calibration.sensitivities), len(mlps)

    def score(index: int) -> ChannelScores:
        # Before the layer: sensitivities take long, and memory.
        sensitivity = sensitivities()[index] if allocation.needs_losses else 0.0
        layer = _method_layer(mlps[index], calibration, index, method, refits=False)
        scores, losses = SALIENCIES[method.saliency].score(layer), torch.empty(0)
        if allocation.needs_losses:
            order = torch.argsort(scores, descending=True, stable=True)
            losses = sensitivity * errors(layer, order, method.damping)
        return ChannelScores(width=layer.width, scores=scores, losses=losses)

    def on_made(index: int) -> None:
        on_layer(2 * index + 1 if allocation.alone else index + 1, 2 * n)

    return LazySequence(n, score, made, on_made)


def score_dependencies(method: MethodSettings) -> tuple[object, ...]:
    """Parts of a method that its channel scores depend on; methods that have them in common share the scores."""
    if not ALLOCATIONS[method.allocation].needs_losses:
        return method.saliency, method.seed
    return method.saliency, method.seed, COMPENSATIONS[method.compensation].errors, method.damping


def reference_cut(layer: Layer) -> PrunedMlp:
    """The trial change that measures a block's sensitivity: the MLP without a quarter of its channels, refitted.

    A quarter of those that are ever active: behind a ReLU many are not, and their removal would lose nothing.
    """
    scores = activation_aware(layer)
    n_active = int((scores > 0).sum())
    return least_squares(layer, kept_channels(scores, max(1, int(n_active * REFERENCE_KEPT))), REFERENCE_DAMPING)


def _method_layer(
    mlp: Mlp, calibration: CalibrationData, index: int, method: MethodSettings, *, refits: bool = True
) -> Layer:
    """One MLP with what the method needs; without refits, gradients may be enough, and no statistics are read."""
    by_gradient = SALIENCIES[method.saliency].by_gradient
    needs_statistics = refits or not by_gradient or ALLOCATIONS[method.allocation].needs_losses
    statistics = calibration.statistics(index) if needs_statistics else NO_STATISTICS
    return layer_of(mlp, statistics, method.seed + index, calibration.mask_gradients(index) if by_gradient else None)


def _unpruned(weight: Tensor) -> PrunedMlp:
    return PrunedMlp(torch.arange(weight.shape[1]), weight, lost=0.0)
