"""What a pruned layer loses: as a share of its output's energy, on the text it was fitted to and on other text.

Dimensions: d hidden width, m inner width, t tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from sparsedash.engine.pruning.layer import UNKNOWN, CalibrationData, Layer, Sample, layer_of
from sparsedash.engine.pruning.lazily import Lazily
from sparsedash.engine.pruning.linalg import complement, energy
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, out_weight
from sparsedash.schema.progress import Made, at_once

BlockErrors = tuple[float | None, float | None, float | None]
"""Of one block: fitted, uncompensated and held out, as in LayerErrors; None for what is not known."""

_NOTHING_KNOWN: BlockErrors = (None, None, None)


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerErrors:
    """The share of its output's energy that each block's MLP loses, or its projections on average.

    fitted: on the calibration tokens. held_out: on tokens kept out of the fit; far larger means overfitted; empty when
    none were kept out. uncompensated: on the calibration tokens, had the kept weights stayed as they are. All empty
    where nothing was collected on calibration text.
    """

    fitted: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    uncompensated: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, blocks: Iterable[BlockErrors]) -> "LayerErrors":
        """Of all blocks."""
        fitted, uncompensated, held_out = zip(*blocks, strict=True)
        return cls(fitted=_known(fitted), held_out=_known(held_out), uncompensated=_known(uncompensated))


def channel_errors(
    mlps: list[Mlp],
    calibration: CalibrationData,
    narrowed: Sequence[PrunedMlp],
    energies: dict[int, float],
    made: Made[BlockErrors] = at_once,
) -> Sequence[BlockErrors]:
    """What each narrowed MLP loses, found when it is asked for, while the model is the dense one. Nothing without
    statistics, and only the errors on held-out tokens where those are not whole.

    energies: of each block's dense output by its index, as far as known from these statistics; added to. made: see
    Made.
    """

    def lost(index: int) -> BlockErrors:
        known = calibration.statistics(index)
        if known is UNKNOWN:
            return _NOTHING_KNOWN
        layer = layer_of(mlps[index], known)
        if index not in energies and known.is_whole:
            energies[index] = layer.mean_square(layer.out_weight)
        return _block_errors(mlps[index], narrowed[index], layer, energies.get(index))

    @torch.no_grad()
    def found(index: int) -> BlockErrors:
        return made(index, partial(lost, index))

    return Lazily(len(mlps), found)


@torch.no_grad()
def passage_error(mlp: Mlp, narrow: PrunedMlp, sample: Sample) -> float:
    """What a narrowed MLP loses on passages of the evaluation. sample: of the inner activations of the dense one."""
    return _sample_error(mlp, narrow, sample)


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


def _known(errors: Iterable[float | None]) -> list[float]:
    return [error for error in errors if error is not None]


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
