"""Prunes channels: scores them, decides each block's width, chooses what is kept, and compensates."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sparsedash.engine.pruning.allocation import ALLOCATIONS, ChannelScores
from sparsedash.engine.pruning.compensation import COMPENSATIONS
from sparsedash.engine.pruning.layer import UNKNOWN, CalibrationData, Layer, layer_of
from sparsedash.engine.pruning.saliency import SALIENCIES
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, out_weight
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Made, at_once


@torch.no_grad()
def prune(
    mlps: list[Mlp],
    calibration: CalibrationData,
    method: MethodSettings,
    permille: int,
    *,
    scores: Callable[[], list[ChannelScores]],
    on_layer: Callable[[int, int], None],
    made: Made[PrunedMlp] = at_once,
) -> list[PrunedMlp]:
    """What each MLP becomes at this sparsity; the model itself is left as it is.

    scores: gives what `score_channels` finds; not asked where nothing goes. on_layer: called with steps done and all
    steps. made: see Made. The same arguments give the same weights, to the bit.
    """
    if permille == 0:
        return [made(index, partial(_all_kept, mlp)) for index, mlp in enumerate(mlps)]
    blocks = scores()
    widths = ALLOCATIONS[method.allocation].widths(blocks, permille, method)
    narrowed = []
    for index, n_kept in enumerate(widths):

        def narrow(index: int = index, n_kept: int = n_kept) -> PrunedMlp:
            layer = _layer(mlps[index], calibration, index, method)
            return _refitted(layer, _kept(layer, blocks[index].scores, n_kept, method), method)

        narrowed.append(made(index, narrow))
        on_layer(len(mlps) + index + 1, 2 * len(mlps))
    return narrowed


@torch.no_grad()
def choose(
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
        layer = _layer(mlp, calibration, index, method, refits=False)
        chosen.append(_kept(layer, blocks[index].scores, n_kept, method))
        on_layer(len(mlps) + index + 1, 2 * len(mlps))
    return chosen


@torch.no_grad()
def score_channels(
    mlps: list[Mlp],
    calibration: CalibrationData,
    method: MethodSettings,
    on_layer: Callable[[int, int], None],
    made: Made[ChannelScores] = at_once,
) -> list[ChannelScores]:
    """The scores of every block's channels, and what it costs to give some up, whatever the sparsity.

    made: see Made.
    """
    needs_losses = ALLOCATIONS[method.allocation].needs_losses
    errors = COMPENSATIONS[method.compensation].errors
    sensitivities = calibration.sensitivities() if needs_losses else []
    blocks = []
    for index, mlp in enumerate(mlps):

        def score(index: int = index, mlp: Mlp = mlp) -> ChannelScores:
            layer = _layer(mlp, calibration, index, method, refits=False)
            scores, losses = SALIENCIES[method.saliency].score(layer), torch.empty(0)
            if needs_losses:
                order = torch.argsort(scores, descending=True, stable=True)
                losses = sensitivities[index] * errors(layer, order, method.damping)
            return ChannelScores(width=layer.width, scores=scores, losses=losses)

        blocks.append(made(index, score))
        on_layer(index + 1, 2 * len(mlps))
    return blocks


def scores_depend_on(method: MethodSettings) -> tuple[object, ...]:
    """What of a method its channel scores depend on; methods that have it in common share them."""
    if not ALLOCATIONS[method.allocation].needs_losses:
        return method.saliency, method.seed
    return method.saliency, method.seed, COMPENSATIONS[method.compensation].errors, method.damping


def _layer(mlp: Mlp, calibration: CalibrationData, index: int, method: MethodSettings, *, refits: bool = True) -> Layer:
    """One MLP with what the method asks about it.

    Without refitting, gradients alone may do, and the statistics are not read.
    """
    by_gradient = SALIENCIES[method.saliency].by_gradient
    needs_statistics = refits or not by_gradient or ALLOCATIONS[method.allocation].needs_losses
    known = calibration.statistics(index) if needs_statistics else UNKNOWN
    return layer_of(mlp, known, method.seed + index, calibration.mask_gradients(index) if by_gradient else None)


def _all_kept(mlp: Mlp) -> PrunedMlp:
    return PrunedMlp(torch.arange(mlp.width), out_weight(mlp).float().cpu(), lost=0.0)


def _kept(layer: Layer, scores: Tensor, n_kept: int, method: MethodSettings) -> Tensor:
    if n_kept == layer.width:
        return torch.arange(n_kept)
    return SALIENCIES[method.saliency].choose(layer, scores, n_kept)


def _refitted(layer: Layer, kept: Tensor, method: MethodSettings) -> PrunedMlp:
    if len(kept) == layer.width:
        return PrunedMlp(kept, layer.out_weight, lost=0.0)
    return COMPENSATIONS[method.compensation].refit(layer, kept, method.damping)
