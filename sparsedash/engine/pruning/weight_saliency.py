"""Which single weights of a projection go, and how those that stay in its row make up for them.

Dimensions: n outputs (rows), d inputs (columns). One row adds a criterion.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedash.engine.pruning.layer import Statistics
from sparsedash.engine.pruning.linalg import damped_cholesky
from sparsedash.engine.pruning.patterns import PATTERNS, Pattern
from sparsedash.schema.method_settings import MethodSettings

BLOCK = 128
"""Columns that are mended among themselves before all others; a multiple of every group."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Columns:
    """What a saliency knows about some input columns.

    sizes: (d,), root of their mean square. pivots: (d,), see `inverse_factor`.
    """

    sizes: Tensor
    pivots: Tensor

    def __getitem__(self, some: slice) -> "Columns":
        return Columns(sizes=self.sizes[some], pivots=self.pivots[some])


@dataclass(frozen=True)
class WeightSaliency:
    """How single weights are scored. score: (n, d), larger means keep.

    by_row: rows are compared with themselves. looks_again: at weights mended so far.
    """

    score: Callable[[Tensor, Columns], Tensor]
    by_row: bool = False
    looks_again: bool = False


WEIGHT_SALIENCIES: dict[str, WeightSaliency] = {
    "magnitude": WeightSaliency(lambda weight, columns: weight.abs()),
    # Wanda, arXiv:2306.11695.
    "activation-aware": WeightSaliency(lambda weight, columns: weight.abs() * columns.sizes, by_row=True),
    # SparseGPT, arXiv:2301.00774.
    "obs": WeightSaliency(lambda weight, columns: (weight / columns.pivots).abs(), looks_again=True),
}


def needs_factor(method: MethodSettings) -> bool:
    """Whether the method looks at the inverse of the inputs' second moment."""
    return method.compensation != "none" or WEIGHT_SALIENCIES[method.saliency].looks_again


def inverse_factor(known: Statistics, damping: float) -> Tensor:
    """Upper (d, d) float32 U with U^T U = (H + lam I)^-1, H the inputs' second moment and lam as in `damped_cholesky`.

    The square of U_jj is what is left of the inverse at j when all columns before j are settled. With the columns
    turned over, H = R R^T for an upper R, and U = R^-1: one factorisation and no inverse of an inverse.
    """
    upper = damped_cholesky(known.second_moment.flip(0, 1), damping).flip(0, 1)
    unit = torch.eye(len(upper), dtype=upper.dtype)
    factor: Tensor = torch.linalg.solve_triangular(upper, unit, upper=True, out=unit)
    return factor.float()


def sparse_weight(
    weight: Tensor, known: Statistics, factor: Tensor | None, method: MethodSettings, permille: int
) -> Tensor:
    """The projection's new weight (n, d), with zeros where weights go.

    weight: (n, d) float32. factor: from `inverse_factor` where it is needed.
    """
    saliency, pattern = WEIGHT_SALIENCIES[method.saliency], PATTERNS[method.pattern]
    sizes = known.mean_squares.clamp_min(0).sqrt()
    columns = Columns(sizes=sizes, pivots=sizes if factor is None else factor.diagonal())

    def zeros(part: Tensor, some: slice) -> Tensor:
        return pattern.zeros(saliency.score(part, columns[some]), permille, saliency.by_row)

    everything = slice(0, weight.shape[1])
    if method.compensation == "none" or factor is None:
        return weight.masked_fill(zeros(weight, everything), 0)
    if saliency.looks_again:
        return _mended(weight, factor, pattern, zeros)
    gone = zeros(weight, everything)
    return _mended(weight, factor, pattern, lambda part, some: gone[:, some])


def _mended(weight: Tensor, factor: Tensor, pattern: Pattern, zeros: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """Column after column: what goes is made up for by the columns to its right, and theirs are looked at after that.

    Source: SparseGPT, arXiv:2301.00774, algorithm 1; here all layers see the dense model's activations.
    """
    weight = weight.clone()
    for start in range(0, weight.shape[1], BLOCK):
        block = slice(start, min(start + BLOCK, weight.shape[1]))
        errors = _mend_block_(weight[:, block], factor[block, block], pattern.group, zeros, start)
        weight[:, block.stop :].addmm_(errors, factor[block, block.stop :], alpha=-1)
    return weight


def _mend_block_(
    part: Tensor, factor: Tensor, group: int, zeros: Callable[[Tensor, slice], Tensor], start: int
) -> Tensor:
    """Set weights of these columns to zero and mend them among themselves, in place. Returns the errors (n, b) left."""
    errors = torch.zeros_like(part)
    width = part.shape[1]
    step = group or width
    for first in range(0, width, step):
        some = slice(first, min(first + step, width))
        gone = zeros(part[:, some], slice(start + some.start, start + some.stop))
        for j in range(some.start, some.stop):
            errors[:, j] = (part[:, j] * gone[:, j - first]) / factor[j, j]
            part[:, j:].addr_(errors[:, j], factor[j, j:], alpha=-1)
            # Exactly zero, whatever the subtraction rounded to.
            part[:, j].masked_fill_(gone[:, j - first], 0)
    return errors
