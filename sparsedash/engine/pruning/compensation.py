"""Compensation for removed channels (bias, least squares), and the error that remains.

To add one: a refit, an error curve and a row. An error curve takes the channels (m,), the best
first, and returns (m + 1,) float64: the mean squared error of the output over the calibration
tokens with the first k kept. Reconstruction errors are shares of the dense output's energy.
Dimensions: d hidden, m inner, k kept, p removed channels, t tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sparsedash.engine.pruning.layer import (
    NO_STATISTICS,
    CalibrationData,
    Layer,
    LazySequence,
    Sample,
    Statistics,
    layer_of,
)
from sparsedash.engine.pruning.linalg import (
    complement,
    damped_factor,
    damped_solution,
    energy,
)
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, out_weight
from sparsedash.schema.progress import Checkpointed, without_checkpoint


class BlockErrors(NamedTuple):
    """Reconstruction errors of one block's MLP, or of its projections on average; None: unknown.

    fitted: on the calibration tokens. uncompensated: on them, with the kept weights unchanged.
    held_out: on tokens outside the fit, far larger where overfitted.
    """

    fitted: float | None = None
    uncompensated: float | None = None
    held_out: float | None = None


def no_compensation(
    layer: Layer,
    kept: Tensor,
    damping: float,
) -> PrunedMlp:
    """The kept columns, unchanged."""
    lost = _energy_of_removed(layer, kept, layer.second_moment)
    return PrunedMlp(
        kept,
        layer.out_weight[:, kept],
        layer.out_bias,
        lost,
    )


def bias_compensation(
    layer: Layer,
    kept: Tensor,
    damping: float,
) -> PrunedMlp:
    """The kept columns, and the mean of the removed ones in the bias, which is added where missing.

    Source: FLAP, arXiv:2312.11983.
    """
    gone = complement(kept, layer.width)
    mean = layer.out_weight[:, gone].double() @ layer.mean[gone].double()
    bias = 0.0 if layer.out_bias is None else layer.out_bias.double()
    lost = _energy_of_removed(layer, kept, layer.covariance)
    return PrunedMlp(
        kept,
        layer.out_weight[:, kept],
        (bias + mean).float(),
        lost,
    )


def _energy_of_removed(
    layer: Layer, kept: Tensor, moment: Callable[[Tensor, Tensor], Tensor]
) -> float | None:
    """Energy of the output of the removed columns; None where their moments are unknown."""
    if not layer.statistics.is_whole:
        return None
    gone = complement(kept, layer.width)
    return energy(layer.out_weight[:, gone], moment(gone, gone))


def least_squares(
    layer: Layer,
    kept: Tensor,
    damping: float,
) -> PrunedMlp:
    """The columns that best reproduce the dense output, with a ridge towards the dense columns.

    Minimises E ||W x - W' x_K||^2 + lam ||W' - W_K||^2, hence W' = W_K + W_P H_PK (H_KK + lam I)^-1, with
    lam = damping * median(diag H_KK). Where the layer has a bias, H is the covariance and the bias absorbs the means.
    Raises CalibrationError when it cannot be solved even with heavy damping.
    """
    weight = layer.out_weight
    if len(kept) == layer.width:
        return PrunedMlp(
            kept,
            weight,
            layer.out_bias,
            0.0,
        )
    gone = complement(kept, layer.width)
    removed = weight[:, gone]
    kept_with_gone = layer.moment(kept, gone)
    # Whichever is narrower: a column of each removed channel, or of each output.
    by_channel = len(gone) < len(removed)
    right = kept_with_gone if by_channel else kept_with_gone @ removed.T
    solution, ridge = damped_solution(
        lambda rows: layer.moment(kept[rows], kept),
        right,
        damping,
    )
    change = removed @ solution.T if by_channel else solution.T
    cross = kept_with_gone @ removed.T if by_channel else right
    # With A = H_KK + R and V = W_P H_PK A^-1, what remains is tr W_P H_PP W_P^T - tr V H_KP W_P^T -
    # tr V R V^T: no further product with all of H.
    explained = (change * cross.T).sum(dtype=torch.float64)
    explained = explained + (change.square() @ ridge.float()).sum(dtype=torch.float64)
    lost = max(0.0, energy(removed, layer.moment(gone)) - float(explained))
    fitted = weight[:, kept] + change
    if layer.out_bias is None:
        return PrunedMlp(kept, fitted, None, lost)
    mean = layer.mean.double()
    shifted = (
        layer.out_bias.double() + weight.double() @ mean - fitted.double() @ mean[kept]
    )
    return PrunedMlp(kept, fitted, shifted.float(), lost)


def refit_errors(
    layer: Layer,
    order: Tensor,
    damping: float,
) -> Tensor:
    """Error curve of least squares, with the cost of the ridge.

    With H + R = L L^T in this order and R the ridge, keeping k leaves W_P (S - R_P) W_P^T, where S
    is the trailing block of L times its transpose. So column c of W L is lost by every k <= c: one
    factorisation gives all.
    """
    factor, ridge = damped_factor(layer.moment(order), damping)
    weight = layer.out_weight[:, order].to(factor)
    lost = (weight @ factor).square().sum(dim=0) - ridge.to(
        factor
    ) * weight.square().sum(dim=0)
    return _cumulative_errors(lost.double())


def _uncompensated(
    weight: Tensor,
    moment: Tensor,
    order: Tensor,
) -> Tensor:
    """Error curve W_P H_PP W_P^T without compensation. moment: (m, m) in this order; overwritten."""
    weight = weight[:, order]
    products = moment.mul_(weight.T @ weight)
    diagonal = products.diagonal().double()
    return _cumulative_errors(
        2 * products.triu_(1).sum(dim=1, dtype=torch.float64) + diagonal
    )


def _cumulative_errors(lost: Tensor) -> Tensor:
    """Error curve (m + 1,) from the loss that each channel adds, removed from the last to the first."""
    return torch.cat([lost.flip(0).cumsum(0).flip(0), lost.new_zeros(1)])


@dataclass(frozen=True)
class Compensation:
    """A refit and its error curve, of a layer, channels and the damping.

    `least-squares` and `sequential` have the same two, and so share curves: `store_keys.curves_key`
    says so too.
    """

    refit: Callable[[Layer, Tensor, float], PrunedMlp]
    errors: Callable[[Layer, Tensor, float], Tensor]


COMPENSATIONS: dict[str, Compensation] = {
    "none": Compensation(
        no_compensation,
        lambda layer, order, _: _uncompensated(
            layer.out_weight, layer.second_moment(order, order), order
        ),
    ),
    "bias": Compensation(
        bias_compensation,
        lambda layer, order, _: _uncompensated(
            layer.out_weight, layer.covariance(order, order), order
        ),
    ),
    "least-squares": Compensation(least_squares, refit_errors),
    # And once more, block after block, on the sparse model's own activations.
    "sequential": Compensation(least_squares, refit_errors),
}


def channel_errors(
    mlps: list[Mlp],
    calibration: CalibrationData,
    narrowed: Sequence[PrunedMlp],
    energies: dict[int, float],
    checkpointed: Checkpointed[BlockErrors] = without_checkpoint,
) -> Sequence[BlockErrors]:
    """Errors of each narrowed MLP, lazy; on held-out tokens alone without whole statistics.

    Computed while the model is the dense one. energies: of each block's dense output, by index;
    added to. checkpointed: keeps those that are computed.
    """

    def errors(index: int) -> BlockErrors:
        if not mlps[index].width:
            return BlockErrors(0.0, 0.0, 0.0)
        statistics = calibration.statistics(index)
        if statistics is NO_STATISTICS:
            return BlockErrors()
        layer = layer_of(mlps[index], statistics)
        narrow = narrowed[index]
        sample = statistics.held_out
        held_out = passage_error(mlps[index], narrow, sample) if len(sample) else None
        if index not in energies and statistics.is_whole:
            energies[index] = statistics.energy(layer.out_weight)
        if index not in energies:
            return BlockErrors(held_out=held_out)
        dense = energies[index]
        lost = narrow.lost
        if lost is None:
            change, shift = narrow.change(layer.out_weight, layer.out_bias)
            lost = statistics.energy(change, 0.0 if shift is None else shift)
        uncompensated = (
            _energy_of_removed(layer, narrow.kept, layer.second_moment) or 0.0
        )
        return BlockErrors(
            _share(lost, dense),
            _share(uncompensated, dense),
            held_out,
        )

    return LazySequence(len(mlps), errors, checkpointed)


@torch.no_grad()
def passage_error(
    mlp: Mlp,
    narrow: PrunedMlp,
    sample: Sample,
) -> float:
    """Error of a narrowed MLP on a sample of the dense model's activations."""
    dense = out_weight(mlp).float().cpu()
    bias = mlp.out.bias
    change, shift = narrow.change(dense, None if bias is None else bias.float().cpu())
    return sample_error(dense, change, sample, shift)


def share_lost(
    dense: Tensor,
    sparse: Tensor,
    inputs: Statistics,
) -> float:
    """Error of a projection (n, d), from the statistics of its inputs."""
    return _share(inputs.energy(sparse - dense), inputs.energy(dense))


def sample_error(
    dense: Tensor, change: Tensor, sample: Sample, shift: Tensor | float = 0.0
) -> float:
    """Error of a projection (n, d) after an affine change (n, d), (n,), on a sample of inputs."""
    lost = sample.weights @ (sample.inputs @ change.T + shift).square().sum(dim=1)
    whole = sample.weights @ (sample.inputs @ dense.T).square().sum(dim=1)
    return float(lost / whole) if whole > 0 else 0.0


def _share(lost: float, whole: float) -> float:
    """Of the dense output's energy; rounding may leave a loss a little below zero."""
    return max(0.0, lost / whole) if whole > 0 else 0.0
