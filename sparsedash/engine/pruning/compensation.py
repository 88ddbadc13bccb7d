"""How the weights that stay make up for those that go: bias, least squares. To add a way: one function and one row.

Dimensions: d hidden width, m inner width, k kept channels. Every function returns the new out-projection (d, k) and its
new bias (d,), None to leave the bias as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedash.engine.pruning.error_curves import bias_errors, cut_errors, refit_errors
from sparsedash.engine.pruning.layer import Layer
from sparsedash.engine.pruning.linalg import complement, damped_cholesky


def none(layer: Layer, kept: Tensor, damping: float) -> tuple[Tensor, Tensor | None]:
    """The kept columns as they are."""
    return layer.out_weight[:, kept], layer.out_bias


def bias(layer: Layer, kept: Tensor, damping: float) -> tuple[Tensor, Tensor | None]:
    """The kept columns as they are, and in the bias the mean of what is gone; a layer without a bias is given one.

    Source: FLAP, arXiv:2312.11983.
    """
    gone = complement(kept, layer.width)
    mean = layer.out_weight[:, gone].double() @ layer.mean[gone].double()
    before = 0.0 if layer.out_bias is None else layer.out_bias.double()
    return layer.out_weight[:, kept], (before + mean).float()


def least_squares(layer: Layer, kept: Tensor, damping: float) -> tuple[Tensor, Tensor | None]:
    """The columns that reproduce the dense output best over the calibration tokens, pulled towards the dense ones.

    Minimises E ||W x - W' x_K||^2 + lam ||W' - W_K||^2, hence W' = W_K + W_P H_PK (H_KK + lam I)^-1, with
    lam = damping * median(diag H_KK). Where the layer has a bias, H is the covariance and the bias takes up the means.
    Raises CalibrationError when it cannot be solved even with heavy damping.
    """
    weight, mean = layer.out_weight.double(), layer.mean.double()
    fitted = weight[:, kept]
    if len(kept) < layer.width:
        gone = complement(kept, layer.width)
        cross = layer.moment_of(kept, gone) @ weight[:, gone].T
        fitted = fitted + makeup(layer.moment_of(kept, kept), cross, damping)
    if layer.out_bias is None:
        return fitted.float(), None
    shifted = layer.out_bias.double() + weight @ mean - fitted @ mean[kept]
    return fitted.float(), shifted.float()


def makeup(moment: Tensor, cross: Tensor, damping: float) -> Tensor:
    """What to add to the kept columns (d, k), so that they make up for what is missing: cross^T (H_KK + lam I)^-1.

    moment: (k, k), H of what is kept. cross: (k, d), the mean of x_K y^T, where y is what is missing in the output:
    H_KP W_P^T where columns go, and more where the output is to move besides.
    """
    return torch.cholesky_solve(cross, damped_cholesky(moment, damping)).T


@dataclass(frozen=True)
class Compensation:
    """refit: the new out-projection and bias of one layer by its own statistics.

    errors: what the layer loses then, for every number of kept channels; see error_curves. sequential: refitted once
    more, block after block, on the sparse model's own activations.
    """

    refit: Callable[[Layer, Tensor, float], tuple[Tensor, Tensor | None]]
    errors: Callable[[Layer, Tensor, float], Tensor]
    sequential: bool = False


COMPENSATIONS: dict[str, Compensation] = {
    "none": Compensation(none, cut_errors),
    "bias": Compensation(bias, bias_errors),
    "least-squares": Compensation(least_squares, refit_errors),
    "sequential": Compensation(least_squares, refit_errors, sequential=True),
}
