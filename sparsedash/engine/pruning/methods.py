"""A method is four choices; this is where they meet: score, decide the width, keep, compensate, measure."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedash.engine.pruning.allocation import ALLOCATIONS
from sparsedash.engine.pruning.compensation import COMPENSATIONS
from sparsedash.engine.pruning.layer import Layer, Statistics
from sparsedash.engine.pruning.patterns import kept_channels
from sparsedash.engine.pruning.saliency import SALIENCIES
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


@torch.no_grad()
def prune(
    mlps: list[Mlp],
    statistics: Callable[[int], Statistics],
    method: MethodSettings,
    permille: int,
    on_layer: Callable[[int, int], None],
) -> PrunedModel:
    """What each MLP becomes at this sparsity; the model itself is left as it is.

    statistics: gives those of the block with this index; asked for one block at a time.
    on_layer: called with blocks done and all blocks. The same arguments give the same weights, to the bit.
    """
    widths = ALLOCATIONS[method.allocation](
        [mlp.width for mlp in mlps], permille, method.width_multiple
    )
    narrowed, fitted, held_out = [], [], []
    for index, (mlp, n_kept) in enumerate(zip(mlps, widths, strict=True)):
        known = statistics(index)
        layer = _layer(mlp, known, method.seed + index)
        narrow = _narrow(layer, n_kept, method)
        narrowed.append(narrow)
        fitted.append(_fitted_error(layer, narrow))
        if len(known.held_out):
            held_out.append(_held_out_error(layer, narrow, known.held_out))
        on_layer(index + 1, len(mlps))
    return PrunedModel(narrowed=narrowed, layer_errors=fitted, held_out_errors=held_out)


def _layer(mlp: Mlp, known: Statistics, seed: int) -> Layer:
    bias = mlp.out.bias
    return Layer(
        out_weight=out_weight(mlp).detach().float().cpu(),
        out_bias=None if bias is None else bias.detach().float().cpu(),
        inner_weights=[weight.detach().cpu() for weight in inner_weights(mlp)],
        second_moment=known.second_moment,
        mean=known.mean,
        seed=seed,
    )


def _narrow(layer: Layer, n_kept: int, method: MethodSettings) -> Narrowed:
    if n_kept == layer.out_weight.shape[1]:
        return Narrowed(torch.arange(n_kept), layer.out_weight)
    kept = kept_channels(SALIENCIES[method.saliency](layer), n_kept)
    weight, bias = COMPENSATIONS[method.compensation](layer, kept, method.damping)
    return Narrowed(kept, weight, bias)


def _change(layer: Layer, narrow: Narrowed) -> tuple[Tensor, Tensor]:
    """Sparse minus dense as one affine map of all m inputs: weight (d, m), bias (d,)."""
    weight = -layer.out_weight
    weight[:, narrow.kept] += narrow.out_weight
    if narrow.out_bias is None or layer.out_bias is None:
        return weight, torch.zeros(weight.shape[0])
    return weight, narrow.out_bias - layer.out_bias


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
