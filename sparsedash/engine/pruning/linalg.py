"""Linear algebra of second moments: accumulation, damping (a ridge), factors and solutions."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sparsedash.schema.errors import CalibrationError

MAX_DAMPING_RETRIES = 8

SINGLE_ROUNDING = 4e-6
"""Relative error of sums in single precision over many tokens."""

MAX_UNEXPLAINED = 1e-6
"""Share of a fit's explained energy that single precision may lose; real models lose some 1e-12."""

ROWS_AT_ONCE = 512
"""Rows or columns of a matrix processed together, so that it is never copied as a whole."""

_WHOLE_WIDTH = 192
"""Up to this width a second moment is accumulated as a whole, its upper triangle included."""


def damped_factor(
    moment: Tensor, damping: float, rounding: float = SINGLE_ROUNDING
) -> tuple[Tensor, Tensor]:
    """Lower Cholesky factor (m, m) of moment + R, and the diagonal (m,) of R in float64.

    R is lam = damping * the median of moment's diagonal, which a few enormous activations do not
    decide. Where the factorisation fails, each of the diagonal grows by its own rounding first,
    since channels that are enormous at the same tokens are collinear; then the damping grows
    tenfold while it fails. moment: (m, m) float32 or float64, symmetric; the factor is of its type,
    or float64 where that does not suffice. rounding: relative error of the moment's sums. Raises
    CalibrationError when it still fails, or when the moment is not finite.
    """
    return _factorise(
        lambda dtype: _column_major(len(moment), dtype).copy_(moment),
        moment.dtype,
        damping,
        rounding,
    )


def damped_solution(
    rows: Callable[[slice], Tensor], right: Tensor, damping: float
) -> tuple[Tensor, Tensor]:
    """(moment + R)^-1 right, and the diagonal (m,) of R, see `damped_factor`.

    In single precision, and in double where that is off on one random combination of the columns.
    rows: gives these rows of the moment (m, m), float32; moment and factor are never in memory
    together: at a width of 11,008 either takes half a gigabyte. right: (m, n) float32.
    """

    def copied(dtype: torch.dtype) -> Tensor:
        moment = _column_major(len(right), dtype)
        for part in row_slices(len(right)):
            moment[part] = rows(part)
        return moment

    factor, ridge = _factorise(
        copied,
        torch.float32,
        damping,
        SINGLE_ROUNDING,
    )
    solution = _cholesky_solve(factor, right)
    if (
        factor.dtype == torch.float32
        and _unexplained(rows, ridge, right, solution, factor) > MAX_UNEXPLAINED
    ):
        factor, ridge = _factorise(
            copied,
            torch.float64,
            damping,
            SINGLE_ROUNDING,
        )
        solution = _cholesky_solve(factor, right)
    return solution.float(), ridge


def _column_major(size: int, dtype: torch.dtype) -> Tensor:
    """Empty (size, size), column-major as in LAPACK, which would copy any other to and fro."""
    return torch.empty(size, size, dtype=dtype).T


def _cholesky_solve(factor: Tensor, right: Tensor) -> Tensor:
    """A^-1 right in the type of A's lower factor, which `cholesky_solve` would copy."""
    half: Tensor = torch.linalg.solve_triangular(
        factor,
        right.to(factor),
        upper=False,
    )
    whole: Tensor = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    return whole


def _factorise(
    copied: Callable[[torch.dtype], Tensor],
    first: torch.dtype,
    damping: float,
    rounding: float,
) -> tuple[Tensor, Tensor]:
    """See `damped_factor`. copied: the moment in a type, to be overwritten. first: type to try."""
    copies = [copied(first)]
    diagonal = copies[0].diagonal().double().clone()
    # It suffices: an activation that is not finite has no finite square.
    if not torch.isfinite(diagonal).all():
        raise CalibrationError(
            "The calibration statistics hold values that are not finite.",
            "Calibrate in float32, or on other text.",
        )
    scale = float(diagonal.median())
    if scale <= 0:
        scale = float(diagonal.mean()) or 1.0
    ridge = diagonal.new_full(diagonal.shape, damping * scale)
    rounding_errors = rounding * diagonal.clamp_min(0)
    ridges = [ridge]
    for attempt in range(MAX_DAMPING_RETRIES):
        ridges.append(ridge * 10**attempt + rounding_errors)
    for ridge in ridges if rounding else ridges[1:]:
        for dtype in dict.fromkeys((first, torch.float64)):
            moment = copies.pop() if copies else copied(dtype)
            moment.diagonal().add_(ridge)
            info = torch.empty(0, dtype=torch.int32)
            _, failed = torch.linalg.cholesky_ex(moment, out=(moment, info))
            if not failed:
                return moment, ridge
            # Freed before the next copy: two may be a gigabyte.
            del moment
    raise CalibrationError(
        "The least squares could not be solved even with heavy damping.",
        "Calibrate on more or more varied text.",
    )


def _unexplained(
    rows: Callable[[slice], Tensor],
    ridge: Tensor,
    right: Tensor,
    solution: Tensor,
    factor: Tensor,
) -> float:
    """Share of the explained energy that a float32 solution loses.

    Estimated from one random combination of the columns.
    """
    random = torch.Generator().manual_seed(0)
    signs = torch.randint(2, (right.shape[1],), generator=random).double() * 2 - 1
    target = torch.mv(right.double(), signs)
    combined = torch.mv(solution.double(), signs)
    residual = target - ridge * combined
    for part in row_slices(len(right)):
        residual[part] -= rows(part).double() @ combined
    columns = torch.stack([residual, target], dim=1).to(factor)
    whitened = torch.linalg.solve_triangular(factor, columns, upper=False)
    lost, explained = whitened.square().sum(dim=0).tolist()
    return lost / explained if explained > 0 else 0.0


def row_slices(n_rows: int, at_once: int = ROWS_AT_ONCE) -> Iterator[slice]:
    """Slices of all rows, at_once rows each."""
    for start in range(0, n_rows, at_once):
        yield slice(start, min(start + at_once, n_rows))


def energy(weight: Tensor, moment: Tensor) -> float:
    """Mean of ||A x||^2 over inputs x with this second moment (m, m). weight: A, (n, m)."""
    return float(((weight @ moment) * weight).sum(dtype=torch.float64))


def submatrix(
    matrix: Tensor,
    rows: Tensor,
    columns: Tensor,
) -> Tensor:
    """These rows and columns of a matrix, without an intermediate copy of all columns."""
    selected = matrix.new_empty(len(rows), len(columns))
    for part in row_slices(len(rows)):
        # Plain indexing takes three times as long.
        torch.index_select(
            matrix.index_select(0, rows[part]),
            1,
            columns,
            out=selected[part],
        )
    return selected


def add_second_moment_(moment: Tensor, activations: Tensor) -> None:
    """Add x^T x to the lower triangle of `moment` (m, m), in place; the upper one is undefined.

    Half of the work. activations: x, (n, m). The matrix is halved recursively, and the square below
    the diagonal is one product.
    """
    width = moment.shape[0]
    if width <= _WHOLE_WIDTH:
        moment.addmm_(activations.T, activations)
        return
    low = slice(width // 2)
    high = slice(width // 2, width)
    moment[high, low].addmm_(activations[:, high].T, activations[:, low])
    for half in (low, high):
        add_second_moment_(moment[half, half], activations[:, half])


def mirror_lower_(moment: Tensor) -> Tensor:
    """The symmetric matrix (m, m) with this lower triangle, in place: it may be a gigabyte."""
    width = moment.shape[0]
    for part in row_slices(width):
        moment[part, part.stop :] = moment[part.stop :, part].T
        square = moment[part, part].tril()
        moment[part, part] = square + square.tril(-1).T
    return moment


def complement(kept: Tensor, width: int) -> Tensor:
    """The indices below `width` that are not in `kept`, ascending."""
    gone = torch.ones(width, dtype=torch.bool)
    gone[kept] = False
    return gone.nonzero().squeeze(1)
