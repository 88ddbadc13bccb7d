"""How the weights that stay make up for those that go: bias, least squares. To add a way: one function and one row.

Dimensions: d hidden width, m inner width, k kept channels, p channels that go.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedash.engine.pruning.error_curves import bias_errors, cut_errors, refit_errors
from sparsedash.engine.pruning.layer import Layer
from sparsedash.engine.pruning.linalg import complement, damped_solution, energy
from sparsedash.engine.pruning.surgery import PrunedMlp


def none(layer: Layer, kept: Tensor, damping: float) -> PrunedMlp:
    """The kept columns as they are."""
    gone = complement(kept, layer.width)
    lost = energy(layer.out_weight[:, gone], layer.part(gone, gone)) if layer.known.is_whole else None
    return PrunedMlp(kept, layer.out_weight[:, kept], layer.out_bias, lost)


def bias(layer: Layer, kept: Tensor, damping: float) -> PrunedMlp:
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
    added, lost = _made_up(layer, kept, damping)
    fitted = weight[:, kept] + added
    if layer.out_bias is None:
        return PrunedMlp(kept, fitted, None, lost)
    mean = layer.mean.double()
    shifted = layer.out_bias.double() + weight.double() @ mean - fitted.double() @ mean[kept]
    return PrunedMlp(kept, fitted, shifted.float(), lost)


def _made_up(layer: Layer, kept: Tensor, damping: float) -> tuple[Tensor, float]:
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
    "none": Compensation(none, cut_errors),
    "bias": Compensation(bias, bias_errors),
    "least-squares": Compensation(least_squares, refit_errors),
    "sequential": Compensation(least_squares, refit_errors, sequential=True),
}
