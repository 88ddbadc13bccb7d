"""Compensation for removed channels (bias, least squares), and the reconstruction error that is left.

To add a compensation: one function and one row. Dimensions: d hidden width, m inner width, k kept channels,
p removed channels, t tokens.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from sparsedash.engine.pruning.layer import NO_STATISTICS, CalibrationData, Layer, LazySequence, Sample, layer_of
from sparsedash.engine.pruning.linalg import complement, damped_factor, damped_solution, energy
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, out_weight
from sparsedash.schema.progress import Checkpointed, without_checkpoint


def cut_errors(layer: Layer, order: Tensor, damping: float) -> Tensor:
    """The errors where the kept columns are left as they are."""
    return _uncompensated(layer.out_weight, layer.part(order, order), order)


def bias_errors(layer: Layer, order: Tensor, damping: float) -> Tensor:
    """The errors where the bias takes up the mean of what goes."""
    return _uncompensated(layer.out_weight, layer.covariance_of(order, order), order)


def refit_errors(layer: Layer, order: Tensor, damping: float) -> Tensor:
    """The errors where the kept columns are refitted, with what the ridge costs by holding them back.

    With H + R = L L^T in this order and R the ridge, keeping k leaves W_P (S - R_P) W_P^T, where S is the trailing
    block of L times its transpose. So column c of W L is lost by every k <= c: one factorisation gives all.
    """
    factor, ridge = damped_factor(layer.moment(order), damping)
    weight = layer.out_weight[:, order].to(factor)
    lost = (weight @ factor).square().sum(dim=0) - ridge.to(factor) * weight.square().sum(dim=0)
    return _cumulative_errors(lost.double())


def _uncompensated(weight: Tensor, moment: Tensor, order: Tensor) -> Tensor:
    """W_P H_PP W_P^T for what goes: each channel by itself, and with each of those that go before it.

    moment: (m, m) in this order; overwritten.
    """
    weight = weight[:, order]
    products = moment.mul_(weight.T @ weight)
    alone = products.diagonal().double()
    return _cumulative_errors(2 * products.triu_(1).sum(dim=1, dtype=torch.float64) + alone)


def _cumulative_errors(lost: Tensor) -> Tensor:
    """From what each channel adds to the loss when it goes after all that follow it in the order."""
    return torch.cat([lost.flip(0).cumsum(0).flip(0), lost.new_zeros(1)])


def no_compensation(layer: Layer, kept: Tensor, damping: float) -> PrunedMlp:
    """The kept columns as they are."""
    gone = complement(kept, layer.width)
    lost = energy(layer.out_weight[:, gone], layer.part(gone, gone)) if layer.known.is_whole else None
    return PrunedMlp(kept, layer.out_weight[:, kept], layer.out_bias, lost)


def bias_compensation(layer: Layer, kept: Tensor, damping: float) -> PrunedMlp:
    """The kept columns as they are, and in the bias the mean of what is gone; a layer without a bias is given one.

    Source: FLAP, arXiv:2312.11983.
    """
    gone = complement(kept, layer.width)
    mean = layer.out_weight[:, gone].double() @ layer.mean[gone].double()
    before = 0.0 if layer.out_bias is None else layer.out_bias.double()
    lost = energy(layer.out_weight[:, gone], layer.covariance_of(gone, gone)) if layer.known.is_whole else None
    return PrunedMlp(kept, layer.out_weight[:, kept], (before + mean).float(), lost)


def least_squares(layer: Layer, kept: Tensor, damping: float) -> PrunedMlp:
    """The columns that reproduce the dense output best over the calibration tokens, pulled towards the dense ones.

    Minimises E ||W x - W' x_K||^2 + lam ||W' - W_K||^2, hence W' = W_K + W_P H_PK (H_KK + lam I)^-1, with
    lam = damping * median(diag H_KK). Where the layer has a bias, H is the covariance and the bias takes up the means.
    Raises CalibrationError when it cannot be solved even with heavy damping.
    """
    weight = layer.out_weight
    if len(kept) == layer.width:
        return PrunedMlp(kept, weight, layer.out_bias, 0.0)
    added, lost = _solve(layer, kept, damping)
    fitted = weight[:, kept] + added
    if layer.out_bias is None:
        return PrunedMlp(kept, fitted, None, lost)
    mean = layer.mean.double()
    shifted = layer.out_bias.double() + weight.double() @ mean - fitted.double() @ mean[kept]
    return PrunedMlp(kept, fitted, shifted.float(), lost)


def _solve(layer: Layer, kept: Tensor, damping: float) -> tuple[Tensor, float]:
    """What is added to the kept columns (d, k), and the mean squared error that is left.

    With A = H_KK + R and V = W_P H_PK A^-1, that is tr W_P H_PP W_P^T - tr V H_KP W_P^T - tr V R V^T: nothing has to be
    multiplied with all of H once more.
    """
    gone = complement(kept, layer.width)
    missing, beside = layer.out_weight[:, gone], layer.moment_of(kept, gone)
    # Whichever is narrower: a column of each channel that goes, or of each output.
    few = len(gone) < len(missing)
    right = beside if few else beside @ missing.T
    solution, ridge = damped_solution(lambda some: layer.moment_of(kept[some], kept), right, damping)
    added = missing @ solution.T if few else solution.T
    cross = beside @ missing.T if few else right
    explained = (added * cross.T).sum(dtype=torch.float64) + (added.square() @ ridge.float()).sum(dtype=torch.float64)
    return added, max(0.0, energy(missing, layer.moment_of(gone, gone)) - float(explained))


@dataclass(frozen=True)
class Compensation:
    """refit: what one layer becomes when these channels stay, by its own statistics. Its third argument is the damping.

    errors: what the layer loses then, for every number of kept channels; see error_curves. sequential: refitted once
    more, block after block, on the sparse model's own activations.
    """

    refit: Callable[[Layer, Tensor, float], PrunedMlp]
    errors: Callable[[Layer, Tensor, float], Tensor]
    sequential: bool = False


COMPENSATIONS: dict[str, Compensation] = {
    "none": Compensation(no_compensation, cut_errors),
    "bias": Compensation(bias_compensation, bias_errors),
    "least-squares": Compensation(least_squares, refit_errors),
    "sequential": Compensation(least_squares, refit_errors, sequential=True),
}


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
    made: Checkpointed[BlockErrors] = without_checkpoint,
) -> Sequence[BlockErrors]:
    """What each narrowed MLP loses, found when it is asked for, while the model is the dense one. Nothing without
    statistics, and only the errors on held-out tokens where those are not whole.

    energies: of each block's dense output by its index, as far as known from these statistics; added to. made: see
    Made.
    """

    def lost(index: int) -> BlockErrors:
        known = calibration.statistics(index)
        if known is NO_STATISTICS:
            return _NOTHING_KNOWN
        layer = layer_of(mlps[index], known)
        if index not in energies and known.is_whole:
            energies[index] = layer.mean_square(layer.out_weight)
        return _block_errors(mlps[index], narrowed[index], layer, energies.get(index))

    @torch.no_grad()
    def found(index: int) -> BlockErrors:
        return made(index, partial(lost, index))

    return LazySequence(len(mlps), found)


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
