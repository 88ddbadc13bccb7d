"""Structured pruning: score the channels of each MLP, allocate widths, choose kept channels, compensate.

Blocks are computed lazily, and depend on others only where their width does.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from sparsedash.engine.pruning.allocation import ALLOCATIONS, ChannelScores
from sparsedash.engine.pruning.compensation import COMPENSATIONS, least_squares
from sparsedash.engine.pruning.layer import NO_STATISTICS, CalibrationData, Layer, LazySequence, layer_of
from sparsedash.engine.pruning.saliency import SALIENCIES, activation_aware
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, out_weight
from sparsedash.engine.pruning.weight_pruning import kept_channels
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Checkpointed, without_checkpoint


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
    """What each MLP becomes at this sparsity, when it is asked for; the model itself is left as it is.

    scores: gives what `score_channels` finds; not asked where nothing goes. on_layer: called with steps done and all
    steps. made: see Made. The same arguments give the same weights, to the bit.
    """
    allocation, blocks = ALLOCATIONS[method.allocation], cache(scores)

    @cache
    def widths() -> list[int]:
        return allocation.widths(blocks(), permille, method)

    def narrow(index: int) -> PrunedMlp:
        block = blocks()[index]
        n_kept = allocation.widths([block], permille, method)[0] if allocation.alone else widths()[index]
        layer = _method_layer(mlps[index], calibration, index, method)
        return _refit(layer, _choose_kept(layer, block.scores, n_kept, method), method)

    @torch.no_grad()
    def become(index: int) -> PrunedMlp:
        if permille == 0:
            return made(index, partial(_all_kept, mlps[index]))
        found = made(index, partial(narrow, index))
        done = 2 * index + 2 if allocation.alone else len(mlps) + index + 1
        on_layer(done, 2 * len(mlps))
        return found

    return LazySequence(len(mlps), become)


@torch.no_grad()
def choose_channels(
    mlps: list[Mlp],
    calibration: CalibrationData,
    method: MethodSettings,
    permille: int,
    on_layer: Callable[[int, int], None],
) -> list[Tensor]:
    """The channels (k,) of each MLP that would stay at this sparsity, ascending; nothing is refitted."""
    blocks = score_channels(mlps, calibration, method, on_layer)
    widths = ALLOCATIONS[method.allocation].widths(blocks, permille, method)
    chosen = []
    for index, (mlp, n_kept) in enumerate(zip(mlps, widths, strict=True)):
        layer = _method_layer(mlp, calibration, index, method, refits=False)
        chosen.append(_choose_kept(layer, blocks[index].scores, n_kept, method))
        on_layer(len(mlps) + index + 1, 2 * len(mlps))
    return chosen


def score_channels(
    mlps: list[Mlp],
    calibration: CalibrationData,
    method: MethodSettings,
    on_layer: Callable[[int, int], None],
    made: Checkpointed[ChannelScores] = without_checkpoint,
) -> Sequence[ChannelScores]:
    """The scores of every block's channels, and what it costs to give some up, whatever the sparsity; found when they
    are asked for.

    made: see Made.
    """
    allocation, errors = ALLOCATIONS[method.allocation], COMPENSATIONS[method.compensation].errors
    sensitivities = cache(calibration.sensitivities)

    def score(index: int) -> ChannelScores:
        # Before the layer: finding them takes long, and memory.
        sensitivity = sensitivities()[index] if allocation.needs_losses else 0.0
        layer = _method_layer(mlps[index], calibration, index, method, refits=False)
        scores, losses = SALIENCIES[method.saliency].score(layer), torch.empty(0)
        if allocation.needs_losses:
            order = torch.argsort(scores, descending=True, stable=True)
            losses = sensitivity * errors(layer, order, method.damping)
        return ChannelScores(width=layer.width, scores=scores, losses=losses)

    @torch.no_grad()
    def scored(index: int) -> ChannelScores:
        found = made(index, partial(score, index))
        on_layer(2 * index + 1 if allocation.alone else index + 1, 2 * len(mlps))
        return found

    return LazySequence(len(mlps), scored)


def score_dependencies(method: MethodSettings) -> tuple[object, ...]:
    """What of a method its channel scores depend on; methods that have it in common share them."""
    if not ALLOCATIONS[method.allocation].needs_losses:
        return method.saliency, method.seed
    return method.saliency, method.seed, COMPENSATIONS[method.compensation].errors, method.damping


def _method_layer(
    mlp: Mlp, calibration: CalibrationData, index: int, method: MethodSettings, *, refits: bool = True
) -> Layer:
    """One MLP with what the method asks about it.

    Without refitting, gradients alone may do, and the statistics are not read.
    """
    by_gradient = SALIENCIES[method.saliency].by_gradient
    needs_statistics = refits or not by_gradient or ALLOCATIONS[method.allocation].needs_losses
    known = calibration.statistics(index) if needs_statistics else NO_STATISTICS
    return layer_of(mlp, known, method.seed + index, calibration.mask_gradients(index) if by_gradient else None)


def _all_kept(mlp: Mlp) -> PrunedMlp:
    return PrunedMlp(torch.arange(mlp.width), out_weight(mlp).float().cpu(), lost=0.0)


def _choose_kept(layer: Layer, scores: Tensor, n_kept: int, method: MethodSettings) -> Tensor:
    if n_kept == layer.width:
        return torch.arange(n_kept)
    return SALIENCIES[method.saliency].choose(layer, scores, n_kept)


def _refit(layer: Layer, kept: Tensor, method: MethodSettings) -> PrunedMlp:
    if len(kept) == layer.width:
        return PrunedMlp(kept, layer.out_weight, lost=0.0)
    return COMPENSATIONS[method.compensation].refit(layer, kept, method.damping)


REFERENCE_KEPT = 0.75
REFERENCE_DAMPING = 0.01


def reference_cut(layer: Layer) -> PrunedMlp:
    """What the MLP becomes when a quarter of its channels goes, refitted.

    A quarter of those that are ever active: behind a ReLU many are not, and without those nothing would be missing.
    """
    scores = activation_aware(layer)
    n_active = int((scores > 0).sum())
    kept = kept_channels(scores, max(1, int(n_active * REFERENCE_KEPT)))
    return least_squares(layer, kept, REFERENCE_DAMPING)
