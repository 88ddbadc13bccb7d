"""Linear algebra of second moments: summing them, damping them (a ridge), and solving with them."""

import torch
from torch import Tensor

from sparsedash.schema.errors import CalibrationError

MAX_DAMPING_RETRIES = 8

SINGLE = 4e-6
"""How far, relatively, sums in single precision over many tokens may be off."""

MISSED = 1e-6
"""What single precision may leave unexplained, as a share of what a fit explains; real models leave some 1e-12."""

AT_ONCE = 512
"""Rows or columns of a matrix that are worked on together, where all of it would be copied otherwise."""


def damped_cholesky(moment: Tensor, damping: float, rounding: float = SINGLE) -> Tensor:
    """The factor alone, see `damped_factor`."""
    return damped_factor(moment, damping, rounding)[0]


def damped_factor(moment: Tensor, damping: float, rounding: float = SINGLE) -> tuple[Tensor, Tensor]:
    """Lower Cholesky factor (m, m) of moment + R, and the diagonal (m,) of R in float64.

    R is lam = damping * the median of moment's diagonal. The median, because a few enormous activations must not decide
    it. Where the factorisation fails, each of the diagonal grows by its own rounding first: channels that are enormous
    at the same tokens are collinear, and rounding alone makes them contradict each other. After that the damping grows
    tenfold while it fails. moment: (m, m) float32 or float64, symmetric. The factor is of the same type, or float64
    where single precision does not reach. rounding: relative, of what the moment was summed in.
    Raises CalibrationError when it still fails, or when the moment is not finite.
    """
    _require_finite(moment)
    diagonal = moment.diagonal().double()
    scale = float(diagonal.median())
    if scale <= 0:
        scale = float(diagonal.mean()) or 1.0
    ridge = diagonal.new_full(diagonal.shape, damping * scale)
    own = rounding * diagonal.clamp_min(0)
    ridges = [ridge, *(ridge * 10**attempt + own for attempt in range(MAX_DAMPING_RETRIES))]
    for ridge in ridges if rounding else ridges[1:]:
        for dtype in dict.fromkeys((moment.dtype, torch.float64)):
            # No second copy of all of it: at a width of 11,008 one takes half a gigabyte.
            damped = moment.to(dtype, copy=True)
            damped.diagonal().add_(ridge)
            _, failed = torch.linalg.cholesky_ex(damped, out=(damped, torch.empty(0, dtype=torch.int32)))
            if not failed:
                return damped, ridge
    raise CalibrationError(
        "The least squares could not be solved even with heavy damping.", "Calibrate on more or more varied text."
    )


def damped_solution(moment: Tensor, right: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """(moment + R)^-1 right, and the diagonal (m,) of R, see `damped_factor`.

    In single precision first, which is twice as fast and takes half the memory; what comes out is tried on one random
    combination of the columns, and solved in double where it is off. moment: (m, m) float32. right: (m, n) float32.
    """
    factor, ridge = damped_factor(moment, damping)
    solution = torch.cholesky_solve(right.to(factor), factor)
    if factor.dtype == torch.float64 or _missed(moment, ridge, right, solution, factor) <= MISSED:
        return solution.float(), ridge
    factor, ridge = damped_factor(moment.double(), damping)
    return torch.cholesky_solve(right.double(), factor).float(), ridge


def _missed(moment: Tensor, ridge: Tensor, right: Tensor, solution: Tensor, factor: Tensor) -> float:
    """What a solution in single precision leaves to be explained, as a share of what the exact one explains.

    Of one combination of its columns, drawn by lot; the share that a fit by it loses.
    """
    signs = torch.randint(2, (right.shape[1],), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    wanted, found = (torch.mv(part, signs) for part in (right.double(), solution.double()))
    left = wanted - ridge * found
    for start in range(0, len(moment), AT_ONCE):
        left[start : start + AT_ONCE] -= moment[start : start + AT_ONCE].double() @ found
    both = torch.stack([left, wanted], dim=1).to(factor)
    rest, whole = torch.linalg.solve_triangular(factor, both, upper=False).square().sum(dim=0).tolist()
    return rest / whole if whole > 0 else 0.0


def energy(weight: Tensor, moment: Tensor) -> float:
    """Mean of ||A x||^2 over inputs x with this second moment (m, m). weight: A, (n, m)."""
    return float(((weight @ moment) * weight).sum(dtype=torch.float64))


def part_of(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """These rows and columns of a matrix, (rows, columns), without a copy of all columns on the way."""
    found = matrix.new_empty(len(rows), len(columns))
    for start in range(0, len(rows), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        found[some] = matrix[rows[some]][:, columns]
    return found


def add_second_moment_(moment: Tensor, activations: Tensor) -> None:
    """Add x^T x to the lower triangle of `moment`, in place; what is above it is left undefined.

    moment: (m, m). activations: (n, m). Column blocks skip most of the upper triangle, which is half of the work.
    """
    width = moment.shape[0]
    for start in range(0, width, AT_ONCE):
        stop = min(start + AT_ONCE, width)
        moment[start:, start:stop].addmm_(activations[:, start:].T, activations[:, start:stop])


def mirrored_(moment: Tensor) -> Tensor:
    """The symmetric matrix (m, m) whose lower triangle this is, in its place: a second one may be a gigabyte."""
    width = moment.shape[0]
    for start in range(0, width, AT_ONCE):
        stop = min(start + AT_ONCE, width)
        moment[start:stop, stop:] = moment[stop:, start:stop].T
        square = moment[start:stop, start:stop].tril()
        moment[start:stop, start:stop] = square + square.tril(-1).T
    return moment


def _require_finite(moment: Tensor) -> None:
    # Its diagonal tells: where an activation was not finite, neither is the mean of its square.
    if not torch.isfinite(moment.diagonal()).all():
        raise CalibrationError(
            "The calibration statistics hold values that are not finite.", "Calibrate in float32, or on other text."
        )


def complement(kept: Tensor, width: int) -> Tensor:
    """The indices below `width` that are not in `kept`, ascending."""
    gone = torch.ones(width, dtype=torch.bool)
    gone[kept] = False
    return gone.nonzero().squeeze(1)
