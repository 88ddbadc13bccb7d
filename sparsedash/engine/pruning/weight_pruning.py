"""Unstructured and n:m pruning of single weights: patterns, saliencies, SparseGPT compensation.

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
    """n_zero zeros in every `group` neighbours of a row; group 0: anywhere."""

    group: int = 0
    n_zero: int = 0

    def zeros(
        self,
        scores: Tensor,
        permille: int,
        by_row: bool,
    ) -> Tensor:
        """Mask of removed weights, (n, d) bool: the lowest scores. scores: (n, d).

        by_row: without groups, the same share of every row, instead of a share of all. Neighbours
        at the end of a row that do not fill a group are kept.
        """
        n_rows, n_columns = scores.shape
        if self.group:
            n_grouped = n_columns - n_columns % self.group
            groups = scores[:, :n_grouped].reshape(n_rows, -1, self.group)
            zeros = torch.zeros_like(scores, dtype=torch.bool)
            zeros[:, :n_grouped] = _lowest(groups, self.n_zero).view(n_rows, n_grouped)
            return zeros
        if by_row:
            return _lowest(scores, round(n_columns * permille / 1000))
        return _lowest(
            scores.flatten(), round(scores.numel() * permille / 1000)
        ).view_as(scores)


PATTERNS: dict[str, Pattern] = {
    "1x1": Pattern(),
    "2:4": Pattern(group=4, n_zero=2),
    "4:8": Pattern(group=8, n_zero=4),
}


def _lowest(scores: Tensor, n: int) -> Tensor:
    """True at the n lowest of the last dimension."""
    lowest = torch.zeros_like(scores, dtype=torch.bool)
    return lowest.scatter_(-1, scores.topk(n, dim=-1, largest=False).indices, True)


@dataclass(frozen=True)
class WeightSaliency:
    """Scores (n, d) of weights (n, d), larger means keep.

    score: from the root mean square of each input (d,) and its pivot (d,), see `inverse_factor`.
    by_row: weights are compared within a row. rescores: weights that were compensated, column by
    column.
    """

    score: Callable[[Tensor, Tensor, Tensor], Tensor]
    by_row: bool = False
    rescores: bool = False


WEIGHT_SALIENCIES: dict[str, WeightSaliency] = {
    "magnitude": WeightSaliency(lambda weight, sizes, pivots: weight.abs()),
    # Wanda, arXiv:2306.11695.
    "activation-aware": WeightSaliency(
        lambda weight, sizes, pivots: weight.abs() * sizes, by_row=True
    ),
    # SparseGPT, arXiv:2301.00774.
    "obs": WeightSaliency(
        lambda weight, sizes, pivots: (weight / pivots).abs(), rescores=True
    ),
}


def needs_factor(method: MethodSettings) -> bool:
    """True if the method needs the inverse of the inputs' second moment."""
    return method.compensation != "none" or WEIGHT_SALIENCIES[method.saliency].rescores


def inverse_factor(statistics: Statistics, damping: float) -> Tensor:
    """Upper (d, d) float32 U with U^T U = (H + lam I)^-1, H the inputs' second moment.

    lam: see `damped_factor`. U_jj^2 is the inverse at j once all columns before j are fixed. With
    the columns reversed, H = R R^T for an upper R, and U = R^-1: one factorisation.
    """
    reversed_covariance = statistics.covariance.flip(0, 1)
    mean = statistics.mean.flip(0)
    upper = damped_factor(reversed_covariance.addr_(mean, mean), damping)[0].flip(0, 1)
    unit = torch.eye(len(upper), dtype=upper.dtype)
    factor: Tensor = torch.linalg.solve_triangular(
        upper,
        unit,
        upper=True,
        out=unit,
    )
    return factor.float()


def sparse_weight(
    weight: Tensor,
    statistics: Statistics,
    factor: Tensor | None,
    method: MethodSettings,
    permille: int,
) -> Tensor:
    """The sparse weight (n, d) of a float32 one. factor: from `inverse_factor` where needed."""
    saliency = WEIGHT_SALIENCIES[method.saliency]
    pattern = PATTERNS[method.pattern]
    sizes = statistics.mean_squares.sqrt()
    pivots = sizes if factor is None else factor.diagonal()

    def find_zeros(part: Tensor, columns: slice) -> Tensor:
        scores = saliency.score(part, sizes[columns], pivots[columns])
        return pattern.zeros(scores, permille, saliency.by_row)

    if factor is None or method.compensation == "none":
        return weight.masked_fill(find_zeros(weight, slice(None)), 0)
    if saliency.rescores:
        return _sparsegpt(
            weight,
            factor,
            pattern.group,
            find_zeros,
        )
    zeros = find_zeros(weight, slice(None))
    return _sparsegpt(
        weight,
        factor,
        pattern.group,
        lambda _, columns: zeros[:, columns],
    )


def _sparsegpt(
    weight: Tensor,
    factor: Tensor,
    group: int,
    find_zeros: Callable[[Tensor, slice], Tensor],
) -> Tensor:
    """The sparse weight; columns to the right compensate a removed weight, and are scored after it.

    Source: SparseGPT, arXiv:2301.00774, algorithm 1.
    """
    weight = weight.clone()
    for start in range(0, weight.shape[1], SPARSEGPT_BLOCK):
        block = slice(start, min(start + SPARSEGPT_BLOCK, weight.shape[1]))
        part = weight[:, block]
        block_factor = factor[block, block]
        errors = torch.zeros_like(part)
        width = part.shape[1]
        for first in range(0, width, group or width):
            last = min(first + (group or width), width)
            zeros = find_zeros(part[:, first:last], slice(start + first, start + last))
            for j in range(first, last):
                errors[:, j] = (part[:, j] * zeros[:, j - first]) / block_factor[j, j]
                part[:, j:].addr_(errors[:, j], block_factor[j, j:], alpha=-1)
                # Exactly zero, whatever the subtraction rounded to.
                part[:, j].masked_fill_(zeros[:, j - first], 0)
        weight[:, block.stop :].addmm_(errors, factor[block, block.stop :], alpha=-1)
    return weight


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskedBlock:
    """New weights (out, in) of a block's projections by name, and their errors, if measured."""

    weights: dict[str, Tensor]
    errors: list[BlockErrors]

    @property
    def average_errors(self) -> BlockErrors:
        """Mean of each kind of error that every projection has."""
        means: list[float | None] = []
        for kind in zip(*self.errors, strict=True):
            known = [error for error in kind if error is not None]
            means.append(fmean(known) if len(known) == len(kind) else None)
        return BlockErrors(*means)

    def moved_to(self, offload: Callable[[Tensor], Tensor]) -> "MaskedBlock":
        """The same with offloaded weights."""
        weights = {name: offload(weight) for name, weight in self.weights.items()}
        return replace(self, weights=weights)


def prune_weights(
    projections: list[Projections],
    calibration: CalibrationData,
    method: MethodSettings,
    permille: int,
    *,
    on_block: Callable[[int, int], None],
    offload: Callable[[Tensor], Tensor],
    checkpointed: Checkpointed[MaskedBlock] = without_checkpoint,
) -> Sequence[MaskedBlock]:
    """New weights and errors of each block's projections, lazy; the model is unchanged.

    on_block: called with blocks done and all blocks. offload: of the weights of one projection
    while the others are pruned. The same arguments give the same weights, to the bit.
    """
    n = len(projections)

    def mask(index: int) -> MaskedBlock:
        inputs = calibration.inputs(index)
        return masked_block(
            projections[index],
            inputs,
            method,
            permille,
            offload,
        )

    return LazySequence(
        n,
        mask,
        checkpointed,
        lambda index: on_block(index + 1, n),
    )


def masked_block(
    block: Projections,
    inputs: Sequence[tuple[list[str], Statistics]],
    method: MethodSettings,
    permille: int,
    offload: Callable[[Tensor], Tensor],
    *,
    measured: bool = True,
) -> MaskedBlock:
    """New weights of one block's projections, and their errors if measured.

    inputs: statistics of each input, with the names of the projections that read it. offload: see
    `prune_weights`.
    """
    weights: dict[str, Tensor] = {}
    errors: list[BlockErrors] = []
    for names, statistics in inputs:
        pruned_names = [name for name in names if name in block]
        factor = None
        if pruned_names and needs_factor(method):
            factor = inverse_factor(statistics, method.damping)
        for name in pruned_names:
            dense = weight_of(block[name]).float().cpu()
            sparse = sparse_weight(
                dense,
                statistics,
                factor,
                method,
                permille,
            )
            if measured and statistics is not NO_STATISTICS:
                errors.append(_weight_errors(dense, sparse, statistics))
            weights[name] = offload(sparse.to(block[name].weight.dtype))
    return MaskedBlock(weights=weights, errors=errors)


@torch.no_grad()
def weight_passage_error(
    block: Projections,
    groups: list[list[str]],
    samples: list[Sample],
    masked: dict[str, Tensor],
) -> float:
    """Mean error of one block's projections on passages.

    samples: one a group, of names that share an input.
    """
    errors = []
    for names, sample in zip(groups, samples, strict=True):
        for name in masked.keys() & names:
            dense = weight_of(block[name]).float().cpu()
            errors.append(sample_error(dense, masked[name].float() - dense, sample))
    return fmean(errors)


def _weight_errors(
    dense: Tensor,
    sparse: Tensor,
    statistics: Statistics,
) -> BlockErrors:
    fitted = uncompensated = held_out = None
    if statistics.is_whole:
        fitted = share_lost(dense, sparse, statistics)
        uncompensated = share_lost(
            dense,
            dense.masked_fill(sparse == 0, 0),
            statistics,
        )
    if len(statistics.held_out):
        held_out = sample_error(dense, sparse - dense, statistics.held_out)
    return BlockErrors(fitted, uncompensated, held_out)
