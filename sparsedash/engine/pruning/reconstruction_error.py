"""What a pruned layer loses: as a share of its output's energy, on the text it was fitted to and on other text.

Dimensions: d hidden width, m inner width, t tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from sparsedash.engine.pruning.allocation import ALLOCATIONS
from sparsedash.engine.pruning.layer import UNKNOWN, CalibrationData, Layer, Sample, layer_of
from sparsedash.engine.pruning.linalg import complement, energy
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, out_weight
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Made, at_once

BlockErrors = tuple[float | None, float | None, float | None]
"""Of one block: fitted, uncompensated and held out, as in LayerErrors; None for what is not known."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerErrors:
    """The share of its output's energy that each block's MLP loses, or its projections on average.

    fitted: on the calibration tokens. held_out: on tokens kept out of the fit; far larger means overfitted; empty when
    none were kept out. uncompensated: on the calibration tokens, had the kept weights stayed as they are. All empty
    where nothing was collected on calibration text. sensitivities: see CalibrationData; empty where the method did not
    ask for them.
    """

    fitted: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    uncompensated: list[float] = field(default_factory=list)
    sensitivities: list[float] = field(default_factory=list)


@torch.no_grad()
def channel_errors(
    mlps: list[Mlp],
    calibration: CalibrationData,
    method: MethodSettings,
    narrowed: list[PrunedMlp],
    energies: dict[int, float],
    made: Made[BlockErrors] = at_once,
) -> LayerErrors:
    """What each narrowed MLP loses; asked while the model is still the dense one. Nothing without statistics, and only
    the errors on held-out tokens where those are not whole.

    energies: of each block's dense output by its index, as far as known from these statistics; added to. made: see
    Made.
    """
    if calibration.statistics(0) is UNKNOWN:
        return LayerErrors()

    def lost(index: int) -> BlockErrors:
        layer = layer_of(mlps[index], calibration.statistics(index))
        if index not in energies and layer.known.is_whole:
            energies[index] = layer.mean_square(layer.out_weight)
        return _block_errors(mlps[index], narrowed[index], layer, energies.get(index))

    errors = [made(index, partial(lost, index)) for index in range(len(mlps))]
    needs_losses = ALLOCATIONS[method.allocation].needs_losses
    return LayerErrors(
        fitted=[fitted for fitted, _, _ in errors if fitted is not None],
        held_out=[held_out for _, _, held_out in errors if held_out is not None],
        uncompensated=[plain for _, plain, _ in errors if plain is not None],
        sensitivities=calibration.sensitivities() if needs_losses else [],
    )


@torch.no_grad()
def passage_errors(
    mlps: list[Mlp], samples: Callable[[int], list[Sample] | None], narrowed: list[PrunedMlp]
) -> list[float]:
    """What each narrowed MLP loses on passages of the evaluation.

    samples: gives a list of one, the inner activations of the dense model's block, or None; without them there are no
    errors.
    """
    found = []
    for index, (mlp, narrow) in enumerate(zip(mlps, narrowed, strict=True)):
        given = samples(index)
        if given is None:
            return []
        found.append(_sample_error(mlp, narrow, given[0]))
    return found


def share_lost(dense: Tensor, sparse: Tensor, moment: Tensor) -> float:
    """Share of a projection's output energy that is lost, from the second moment of its inputs.

    dense, sparse: (n, d).
    """
    return _share(energy(sparse - dense, moment), energy(dense, moment))


def share_lost_of_sample(dense: Tensor, sparse: Tensor, sample: Sample) -> float:
    """The same share on this sample of its inputs."""
    return _sample_lost(dense, sparse - dense, torch.zeros(len(dense)), sample)


def _block_errors(mlp: Mlp, narrow: PrunedMlp, layer: Layer, whole: float | None) -> BlockErrors:
    """whole: energy of its dense output; None where it is not known."""
    sample = layer.known.held_out
    held_out = _sample_error(mlp, narrow, sample) if len(sample) else None
    if whole is None:
        return None, None, held_out
    lost = narrow.lost
    if lost is None:
        lost = layer.mean_square(*narrow.change(layer.out_weight, layer.out_bias))
    # Only the columns that go: they are few.
    gone = complement(narrow.kept, layer.width)
    cut = energy(layer.out_weight[:, gone], layer.part(gone, gone))
    return _share(lost, whole), _share(cut, whole), held_out


def _share(lost: float, whole: float) -> float:
    """Of the dense output's energy; rounding may find a little less than nothing lost."""
    return max(0.0, lost / whole) if whole > 0 else 0.0


def _sample_error(mlp: Mlp, narrow: PrunedMlp, sample: Sample) -> float:
    """The share of the output's energy that is lost on tokens that took no part in the fit."""
    dense, bias = out_weight(mlp).float().cpu(), mlp.out.bias
    change, shift = narrow.change(dense, None if bias is None else bias.float().cpu())
    return _sample_lost(dense, change, shift, sample)


def _sample_lost(dense: Tensor, change: Tensor, shift: Tensor, sample: Sample) -> float:
    """Energy of what an affine change (n, d), (n,) makes of a sample (t, d), as a share of the dense output's."""
    lost = sample.weights @ (sample.inputs @ change.T + shift).square().sum(dim=1)
    whole = sample.weights @ (sample.inputs @ dense.T).square().sum(dim=1)
    return float(lost / whole) if whole > 0 else 0.0
