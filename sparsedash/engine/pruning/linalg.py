"""Linear algebra that saliencies and compensation share: damping (a ridge) of second moments, and solving with them."""

import torch
from torch import Tensor

from sparsedash.schema.errors import CalibrationError

MAX_DAMPING_RETRIES = 8

SINGLE = 4e-6
"""How far, relatively, sums in single precision over many tokens may be off."""


def damped_cholesky(moment: Tensor, damping: float, rounding: float = SINGLE) -> Tensor:
    """The factor alone, see `damped_factor`."""
    return damped_factor(moment, damping, rounding)[0]


def damped_factor(moment: Tensor, damping: float, rounding: float = SINGLE) -> tuple[Tensor, Tensor]:
    """Lower Cholesky factor (m, m) of moment + R, and the diagonal (m,) of R.

    R is lam = damping * the median of moment's diagonal. The median, because a few enormous activations must not decide
    it. Where the factorisation fails, each of the diagonal grows by its own rounding first: channels that are enormous
    at the same tokens are collinear, and rounding alone makes them contradict each other. After that the damping grows
    tenfold while it fails. moment: (m, m) float64, symmetric; its diagonal is changed on the way, and put back.
    rounding: relative, of what the moment was summed in.
    Raises CalibrationError when it still fails, or when the moment is not finite.
    """
    _require_finite(moment)
    # No damped copy beside it: at a width of 11,008 one takes a gigabyte.
    diagonal = moment.diagonal().clone()
    scale = float(diagonal.median())
    if scale <= 0:
        scale = float(diagonal.mean()) or 1.0
    ridge = diagonal.new_full(diagonal.shape, damping * scale)
    own = rounding * diagonal.clamp_min(0)
    ridges = [ridge, *(ridge * 10**attempt + own for attempt in range(MAX_DAMPING_RETRIES))]
    try:
        for ridge in ridges if rounding else ridges[1:]:
            moment.diagonal().copy_(diagonal + ridge)
            factor: Tensor
            factor, failed = torch.linalg.cholesky_ex(moment)
            if not failed:
                return factor, ridge
    finally:
        moment.diagonal().copy_(diagonal)
    raise CalibrationError(
        "The least squares could not be solved even with heavy damping.", "Calibrate on more or more varied text."
    )


def energy(weight: Tensor, moment: Tensor) -> float:
    """Mean of ||A x||^2 over inputs x with this second moment (m, m). weight: A, (n, m)."""
    return float(((weight @ moment) * weight).sum())


def _require_finite(moment: Tensor) -> None:
    if not torch.isfinite(moment).all():
        raise CalibrationError(
            "The calibration statistics hold values that are not finite.", "Calibrate in float32, or on other text."
        )


def complement(kept: Tensor, width: int) -> Tensor:
    """The indices below `width` that are not in `kept`, ascending."""
    gone = torch.ones(width, dtype=torch.bool)
    gone[kept] = False
    return gone.nonzero().squeeze(1)
