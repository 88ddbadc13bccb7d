"""Unstructured and n:m pruning of single weights: patterns, weight saliencies, SparseGPT
compensation.

Patterns set weights of the projections to zero, which by itself makes a model neither smaller nor
faster: `1x1` anywhere, `n:m` n in every m neighbours of a row. To add a pattern or a saliency: one
row. Dimensions: n outputs (rows), d inputs (columns).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor, nn

from sparsedash.engine.pruning.compensation import BlockErrors, sample_error, share_lost
from sparsedash.engine.pruning.layer import (
    NO_STATISTICS,
    CalibrationData,
    LazySequence,
    Sample,
    Statistics,
)
from sparsedash.engine.pruning.linalg import damped_factor
from sparsedash.engine.pruning.surgery import weight_of
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Checkpointed, without_checkpoint

SPARSEGPT_BLOCK = 128
"""Columns that are compensated among themselves before all others; a multiple of every group."""

Projections = dict[str, nn.Linear]
"""One block's projections by name."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """group, n_zero: so many zeros in every `group` neighbours of a row; 0: anywhere."""

    group: int = 0
    n_zero: int = 0

    def zeros(self, scores: Tensor, permille: int, by_row: bool) -> Tensor:
        """Mask of removed weights, (n, d) bool: the lowest scores. scores: (n, d).

        by_row: without groups, the same share of every row, instead of a share of all. Neighbours
        at the end of a row that do not fill a group are kept.
        """
        rows, columns = scores.shape
        if self.group:
            n_full = columns - columns % self.group
            gone = torch.zeros_like(scores, dtype=torch.bool)
            gone[:, :n_full] = _lowest(
                scores[:, :n_full].reshape(rows, -1, self.group), self.n_zero
            ).view(rows, n_full)
            return gone
        if by_row:
            return _lowest(scores, round(columns * permille / 1000))
        return _lowest(scores.flatten(), round(scores.numel() * permille / 1000)).view_as(scores)


PATTERNS: dict[str, Pattern] = {
    "1x1": Pattern(),
    "2:4": Pattern(group=4, n_zero=2),
    "4:8": Pattern(group=8, n_zero=4),
}


def _lowest(scores: Tensor, n: int) -> Tensor:
    """True at the n lowest of the last dimension."""
    gone = torch.zeros_like(scores, dtype=torch.bool)
    return gone.scatter_(-1, scores.topk(n, dim=-1, largest=False).indices, True)


@dataclass(frozen=True)
class WeightSaliency:
    """score: (n, d) of weights (n, d), larger means keep; from the root mean square of each input
    (d,) and its pivot (d,), see `inverse_factor`.

    by_row: rows are compared with themselves. looks_again: at weights compensated so far.
    """

    score: Callable[[Tensor, Tensor, Tensor], Tensor]
    by_row: bool = False
    looks_again: bool = False


WEIGHT_SALIENCIES: dict[str, WeightSaliency] = {
    "magnitude": WeightSaliency(lambda weight, sizes, pivots: weight.abs()),
    # Wanda, arXiv:2306.11695.
    "activation-aware": WeightSaliency(
        lambda weight, sizes, pivots: weight.abs() * sizes, by_row=True
    ),
    # SparseGPT, arXiv:2301.00774.
    "obs": WeightSaliency(lambda weight, sizes, pivots: (weight / pivots).abs(), looks_again=True),
}


def needs_factor(method: MethodSettings) -> bool:
    """Whether the method needs the inverse of the inputs' second moment."""
    return method.compensation != "none" or WEIGHT_SALIENCIES[method.saliency].looks_again


def inverse_factor(statistics: Statistics, damping: float) -> Tensor:
    """Upper (d, d) float32 U with U^T U = (H + lam I)^-1, H the inputs' second moment and lam as in
    `damped_factor`.

    U_jj^2 is what is left of the inverse at j when all columns before j are settled. With the
    columns turned over, H = R R^T for an upper R, and U = R^-1: one factorisation.
    """
    turned, mean = statistics.covariance.flip(0, 1), statistics.mean.flip(0)
    upper = damped_factor(turned.addr_(mean, mean), damping)[0].flip(0, 1)
    unit = torch.eye(len(upper), dtype=upper.dtype)
    factor: Tensor = torch.linalg.solve_triangular(upper, unit, upper=True, out=unit)
    return factor.float()


def sparse_weight(
    weight: Tensor,
    statistics: Statistics,
    factor: Tensor | None,
    method: MethodSettings,
    permille: int,
) -> Tensor:
    """The new weight (n, d) of a float32 one, with its zeros. factor: from `inverse_factor` where
    needed.
    """
    saliency, pattern = WEIGHT_SALIENCIES[method.saliency], PATTERNS[method.pattern]
    sizes = statistics.mean_squares.sqrt()
    pivots = sizes if factor is None else factor.diagonal()

    def zeros(part: Tensor, some: slice) -> Tensor:
        return pattern.zeros(
            saliency.score(part, sizes[some], pivots[some]), permille, saliency.by_row
        )

    if factor is not None and method.compensation != "none" and saliency.looks_again:
        return _sparsegpt(weight, factor, pattern.group, zeros)
    gone = zeros(weight, slice(None))
    if factor is None or method.compensation == "none":
        return weight.masked_fill(gone, 0)
    return _sparsegpt(weight, factor, pattern.group, lambda part, some: gone[:, some])


def _sparsegpt(
    weight: Tensor, factor: Tensor, group: int, zeros: Callable[[Tensor, slice], Tensor]
) -> Tensor:
    """Column by column: the columns to the right compensate a removed weight, and are scored after
    that.

    Source: SparseGPT, arXiv:2301.00774, algorithm 1.
    """
    weight = weight.clone()
    for start in range(0, weight.shape[1], SPARSEGPT_BLOCK):
        block = slice(start, min(start + SPARSEGPT_BLOCK, weight.shape[1]))
        part, own = weight[:, block], factor[block, block]
        errors, width = torch.zeros_like(part), part.shape[1]
        for first in range(0, width, group or width):
            last = min(first + (group or width), width)
            gone = zeros(part[:, first:last], slice(start + first, start + last))
            for j in range(first, last):
                errors[:, j] = (part[:, j] * gone[:, j - first]) / own[j, j]
                part[:, j:].addr_(errors[:, j], own[j, j:], alpha=-1)
                # Exactly zero, whatever the subtraction rounded to.
                part[:, j].masked_fill_(gone[:, j - first], 0)
        weight[:, block.stop :].addmm_(errors, factor[block, block.stop :], alpha=-1)
    return weight


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskedBlock:
    """New weights (out, in) of one block's projections by name, and the errors of each, if any were
    measured.
    """

    weights: dict[str, Tensor]
    errors: list[BlockErrors]

    @property
    def average_errors(self) -> BlockErrors:
        """Of each kind, where every projection has one."""
        if not self.errors:
            return BlockErrors()
        kinds = zip(*self.errors, strict=True)
        return BlockErrors(
            *(
                None if None in kind else fmean(error for error in kind if error is not None)
                for kind in kinds
            )
        )

    def moved_to(self, hold: Callable[[Tensor], Tensor]) -> "MaskedBlock":
        """The same with its weights where `hold` keeps them."""
        return replace(self, weights={name: hold(weight) for name, weight in self.weights.items()})


def prune_weights(
    projections: list[Projections],
    calibration: CalibrationData,
    method: MethodSettings,
    permille: int,
    *,
    on_block: Callable[[int, int], None],
    hold: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    made: Checkpointed[MaskedBlock] = without_checkpoint,
) -> Sequence[MaskedBlock]:
    """The new weights (out, in) of each block's projections, and their errors, computed lazily; the
    model is unchanged.

    on_block: called with blocks done and all blocks. hold: keeps the weights of one projection
    while the others are pruned. made: see Checkpointed. The same arguments give the same weights,
    to the bit.
    """

    def mask(index: int) -> MaskedBlock:
        return masked_block(projections[index], calibration.inputs(index), method, permille, hold)

    return LazySequence(
        len(projections), mask, made, lambda index: on_block(index + 1, len(projections))
    )


def masked_block(
    block: Projections,
    inputs: Sequence[tuple[list[str], Statistics]],
    method: MethodSettings,
    permille: int,
    hold: Callable[[Tensor], Tensor],
    *,
    measured: bool = True,
) -> MaskedBlock:
    """New weights of one block's projections. inputs: statistics of each input, with the names of
    those it is given to.

    hold: see `prune_weights`. measured: whether their errors are.
    """
    new, errors = dict[str, Tensor](), list[BlockErrors]()
    for names, statistics in inputs:
        together = [name for name in names if name in block]
        factor = (
            inverse_factor(statistics, method.damping)
            if together and needs_factor(method)
            else None
        )
        for name in together:
            dense = weight_of(block[name]).float().cpu()
            sparse = sparse_weight(dense, statistics, factor, method, permille)
            if measured and statistics is not NO_STATISTICS:
                errors.append(_weight_errors(dense, sparse, statistics))
            new[name] = hold(sparse.to(block[name].weight.dtype))
    return MaskedBlock(weights=new, errors=errors)


@torch.no_grad()
def weight_passage_error(
    block: Projections, groups: list[list[str]], samples: list[Sample], masked: dict[str, Tensor]
) -> float:
    """Mean error of one block's projections on passages. samples: one for each group of names that
    share an input.
    """
    given = {name: sample for names, sample in zip(groups, samples, strict=True) for name in names}

    def error(name: str) -> float:
        dense = weight_of(block[name]).float().cpu()
        return sample_error(dense, masked[name].float() - dense, given[name])

    return fmean(map(error, masked))


def _weight_errors(dense: Tensor, sparse: Tensor, statistics: Statistics) -> BlockErrors:
    fitted = uncompensated = None
    if statistics.is_whole:
        kept = dense.masked_fill(sparse == 0, 0)
        fitted, uncompensated = (share_lost(dense, each, statistics) for each in (sparse, kept))
    held_out = statistics.held_out
    return BlockErrors(
        fitted,
        uncompensated,
        sample_error(dense, sparse - dense, held_out) if len(held_out) else None,
    )
