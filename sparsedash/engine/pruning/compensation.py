"""How the weights that stay make up for those that go. One function and one row add a way.

Dimensions: d hidden width, m inner width, k kept channels. Every function returns the new out-projection (d, k) and its
new bias (d,), None where the layer has none.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sparsedash.engine.pruning.layer import Layer
from sparsedash.errors import CalibrationError

MAX_DAMPING_RETRIES = 8

Compensation = Callable[[Layer, Tensor, float], tuple[Tensor, Tensor | None]]


def none(layer: Layer, kept: Tensor, damping: float) -> tuple[Tensor, Tensor | None]:
    """The kept columns as they are."""
    return layer.out_weight[:, kept], layer.out_bias


def least_squares(layer: Layer, kept: Tensor, damping: float) -> tuple[Tensor, Tensor | None]:
    """The columns that reproduce the dense output best over the calibration tokens, pulled towards the dense ones.

    Minimises E ||W x - W' x_K||^2 + lam ||W' - W_K||^2, hence W' = W_K + W_P H_PK (H_KK + lam I)^-1, with
    lam = damping * median(diag H): a few enormous activations must not decide it. Where the layer has a bias, H is the
    covariance and the bias takes up the means. The damping grows tenfold while the factorisation fails.
    Raises CalibrationError when it still fails, or when H is not finite.
    """
    weight = layer.out_weight.double()
    gone = _complement(kept, weight.shape[1])
    moment = layer.second_moment.double()
    mean = layer.mean.double()
    if layer.out_bias is not None:
        moment = moment - torch.outer(mean, mean)
    fitted = weight[:, kept]
    if len(gone):
        cross = moment[kept][:, gone] @ weight[:, gone].T
        fitted = fitted + _solve(moment[kept][:, kept], cross, damping).T
    if layer.out_bias is None:
        return fitted.float(), None
    bias = layer.out_bias.double() + weight @ mean - fitted @ mean[kept]
    return fitted.float(), bias.float()


COMPENSATIONS: dict[str, Compensation] = {"none": none, "least-squares": least_squares}


def _complement(kept: Tensor, width: int) -> Tensor:
    gone = torch.ones(width, dtype=torch.bool)
    gone[kept] = False
    return gone.nonzero().squeeze(1)


def _solve(moment: Tensor, right: Tensor, damping: float) -> Tensor:
    """(moment + lam I)^-1 right by Cholesky. moment: (k, k) float64. right: (k, d)."""
    diagonal = moment.diagonal()
    scale = float(diagonal.median())
    if not torch.isfinite(moment).all():
        raise CalibrationError(
            "The calibration statistics hold values that are not finite.",
            "Calibrate in float32, or on other text.",
        )
    if scale <= 0:
        scale = float(diagonal.mean()) or 1.0
    for attempt in range(MAX_DAMPING_RETRIES):
        damped = moment.clone()
        damped.diagonal().add_(damping * 10**attempt * scale)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return torch.cholesky_solve(right, factor)
    raise CalibrationError(
        "The least squares could not be solved even with heavy damping.",
        "Calibrate on more or more varied text.",
    )
