"""A method is four choices; this is where they meet: score, decide the width, keep, compensate, measure."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedash.engine.pruning.allocation import ALLOCATIONS, Prospect
from sparsedash.engine.pruning.compensation import COMPENSATIONS
from sparsedash.engine.pruning.layer import Layer, Statistics
from sparsedash.engine.pruning.saliency import SALIENCIES
from sparsedash.engine.pruning.sensitivity import refit_errors
from sparsedash.engine.pruning.surgery import Mlp, Narrowed, inner_weights, out_weight
from sparsedash.settings import MethodSettings


@dataclass(frozen=True, eq=False, kw_only=True)
class PrunedModel:
    """How every MLP is narrowed, and the share of its output that is lost by it.

    layer_errors: on the calibration tokens. held_out_errors: on tokens kept out of the fit; far larger means overfitted;
    empty when none were kept out.
    """

    narrowed: list[Narrowed]
    layer_errors: list[float]
    held_out_errors: list[float]

    @property
    def widths(self) -> list[int]:
        """Kept channels of each block."""
        return [len(narrow.kept) for narrow in self.narrowed]


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """What calibration left of the blocks, asked for one block at a time by its index.

    mask_gradients: see Layer; asked only where the saliency needs it. sensitivities: what the model loses with one
    unit of squared error at each block's output; asked only where the allocation needs it.
    """

    statistics: Callable[[int], Statistics]
    mask_gradients: Callable[[int], Tensor]
    sensitivities: Callable[[], list[float]]


@torch.no_grad()
def prune(
    mlps: list[Mlp],
    evidence: Evidence,
    method: MethodSettings,
    permille: int,
    on_layer: Callable[[int, int], None],
) -> PrunedModel:
    """What each MLP becomes at this sparsity; the model itself is left as it is.

    on_layer: called with steps done and all steps. The same arguments give the same weights, to the bit.
    """
    scores, widths = _planned(mlps, evidence, method, permille, on_layer)
    narrowed = []
    for index, (mlp, n_kept) in enumerate(zip(mlps, widths, strict=True)):
        layer = _layer(mlp, evidence, index, method)
        narrowed.append(_narrow(layer, scores[index], n_kept, method))
        on_layer(len(mlps) + index + 1, 2 * len(mlps))
    return measured(mlps, evidence, narrowed)


def measured(mlps: list[Mlp], evidence: Evidence, narrowed: list[Narrowed]) -> PrunedModel:
    """Narrowed MLPs with the share of its output that each loses; asked while the model is still the dense one."""
    fitted, held_out = [], []
    for index, (mlp, narrow) in enumerate(zip(mlps, narrowed, strict=True)):
        known = evidence.statistics(index)
        layer = layer_of(mlp, known)
        fitted.append(_fitted_error(layer, narrow))
        if len(known.held_out):
            held_out.append(_held_out_error(layer, narrow, known.held_out))
    return PrunedModel(narrowed=narrowed, layer_errors=fitted, held_out_errors=held_out)


def _planned(
    mlps: list[Mlp],
    evidence: Evidence,
    method: MethodSettings,
    permille: int,
    on_layer: Callable[[int, int], None],
) -> tuple[list[Tensor], list[int]]:
    """Scores of the channels of every block, and how many of them it keeps."""
    asked = ALLOCATIONS[method.allocation]
    sensitivities = evidence.sensitivities() if asked.needs_losses else []
    scores, prospects = [], []
    for index, mlp in enumerate(mlps):
        layer = _layer(mlp, evidence, index, method)
        scores.append(SALIENCIES[method.saliency].score(layer))
        losses = torch.empty(0)
        if asked.needs_losses:
            losses = sensitivities[index] * refit_errors(layer, scores[index], method.damping)
        prospects.append(Prospect(width=layer.width, scores=scores[index], losses=losses))
        on_layer(index + 1, 2 * len(mlps))
    return scores, asked.widths(prospects, permille, method.width_multiple)


def _layer(mlp: Mlp, evidence: Evidence, index: int, method: MethodSettings) -> Layer:
    known = evidence.statistics(index)
    by_gradient = SALIENCIES[method.saliency].by_gradient
    return layer_of(
        mlp, known, method.seed + index, evidence.mask_gradients(index) if by_gradient else None
    )


def layer_of(
    mlp: Mlp, known: Statistics, seed: int = 0, mask_gradients: Tensor | None = None
) -> Layer:
    """One MLP with its statistics, on the CPU in float32."""
    bias = mlp.out.bias
    return Layer(
        out_weight=out_weight(mlp).detach().float().cpu(),
        out_bias=None if bias is None else bias.detach().float().cpu(),
        inner_weights=[weight.detach().cpu() for weight in inner_weights(mlp)],
        second_moment=known.second_moment,
        mean=known.mean,
        seed=seed,
        mask_gradients=mask_gradients,
    )


def _narrow(layer: Layer, scores: Tensor, n_kept: int, method: MethodSettings) -> Narrowed:
    if n_kept == layer.width:
        return Narrowed(torch.arange(n_kept), layer.out_weight)
    kept = SALIENCIES[method.saliency].choose(layer, scores, n_kept)
    weight, bias = COMPENSATIONS[method.compensation].refit(layer, kept, method.damping)
    return Narrowed(kept, weight, bias)


def _change(layer: Layer, narrow: Narrowed) -> tuple[Tensor, Tensor]:
    """Sparse minus dense as one affine map of all m inputs: weight (d, m), bias (d,)."""
    weight = -layer.out_weight
    weight[:, narrow.kept] += narrow.out_weight
    bias = torch.zeros(weight.shape[0])
    if narrow.out_bias is not None:
        bias += narrow.out_bias
        bias -= 0 if layer.out_bias is None else layer.out_bias
    return weight, bias


def _fitted_error(layer: Layer, narrow: Narrowed) -> float:
    """Share of the output's energy that is lost on the calibration tokens, from their second moment."""
    weight, bias = _change(layer, narrow)
    lost = _energy(weight, layer.second_moment)
    lost += float(2 * bias @ (weight @ layer.mean) + bias @ bias)
    whole = _energy(layer.out_weight, layer.second_moment)
    return max(0.0, lost / whole) if whole > 0 else 0.0


def _held_out_error(layer: Layer, narrow: Narrowed, inputs: Tensor) -> float:
    """The same share on tokens that took no part in the fit. inputs: (t, m)."""
    weight, bias = _change(layer, narrow)
    lost = (inputs @ weight.T + bias).square().sum()
    whole = (inputs @ layer.out_weight.T).square().sum()
    return float(lost / whole) if whole > 0 else 0.0


def _energy(weight: Tensor, moment: Tensor) -> float:
    return float(((weight @ moment) * weight).sum())
