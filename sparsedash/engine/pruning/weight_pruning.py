"""Unstructured and n:m pruning of single weights: patterns, weight saliencies, SparseGPT compensation.

`channelx1`: whole inner channels leave the network, with their rows in the inner projections and their column in the
out-projection. All other patterns set single weights to zero, which by itself makes a model neither smaller nor
faster: `1x1` anywhere, `n:m` n in every m neighbours of a row. Dimensions: n outputs (rows), d inputs (columns).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import torch
from torch import Tensor, nn

from sparsedash.engine.pruning.compensation import BlockErrors, share_lost, share_lost_of_sample
from sparsedash.engine.pruning.layer import NO_STATISTICS, CalibrationData, LazySequence, Sample, Statistics
from sparsedash.engine.pruning.linalg import damped_cholesky
from sparsedash.engine.pruning.surgery import weight_of
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Checkpointed, without_checkpoint


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """channels: whole channels leave.

    group, n_zero: so many zeros in every `group` neighbours of a row; 0: anywhere.
    """

    channels: bool = False
    group: int = 0
    n_zero: int = 0

    def zeros(self, scores: Tensor, permille: int, by_row: bool) -> Tensor:
        """Where single weights go, (n, d) bool: the lowest scores. scores: (n, d).

        by_row: of a pattern without groups: the same share of every row, instead of a share of all. Neighbours at the
        end of a row that do not fill a group stay.
        """
        rows, columns = scores.shape
        if self.group:
            n_full = columns - columns % self.group
            grouped = scores[:, :n_full].reshape(rows, -1, self.group)
            gone = torch.zeros_like(scores, dtype=torch.bool)
            gone[:, :n_full] = _lowest(grouped, self.n_zero).reshape(rows, n_full)
            return gone
        if by_row:
            return _lowest(scores, round(columns * permille / 1000))
        return _lowest(scores.flatten(), round(scores.numel() * permille / 1000)).view_as(scores)


PATTERNS: dict[str, Pattern] = {
    "channelx1": Pattern(channels=True),
    "1x1": Pattern(),
    "2:4": Pattern(group=4, n_zero=2),
    "4:8": Pattern(group=8, n_zero=4),
}


def _lowest(scores: Tensor, n: int) -> Tensor:
    """True at the n lowest of the last dimension."""
    gone = torch.zeros_like(scores, dtype=torch.bool)
    return gone.scatter_(-1, scores.topk(n, dim=-1, largest=False).indices, True)


def kept_channels(scores: Tensor, n_kept: int) -> Tensor:
    """Indices of the channels with the largest scores, ascending. scores: (m,). Ties fall to the lower index."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:n_kept].sort().values


def mask_of(kept: Tensor, width: int) -> Tensor:
    """(m,) float32: 1 for the channels that are kept, 0 for those that go."""
    mask = torch.zeros(width)
    mask[kept] = 1
    return mask


def mlp_sparsity(dense: Sequence[int], kept: Sequence[int]) -> float:
    """Removed inner channels / all inner channels."""
    return 1 - sum(kept) / sum(dense)


def matmul_ratio(dense: Sequence[int], kept: Sequence[int], weights_per_channel: Sequence[int], total: int) -> float:
    """Removed weights / all weights of Linear and Conv layers, output head included.

    weights_per_channel: of each block, over all its MLP's projections. total: in the dense model.
    """
    removed = sum((m - k) * per for m, k, per in zip(dense, kept, weights_per_channel, strict=True))
    return removed / total


SPARSEGPT_BLOCK = 128
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
        return _sparsegpt(weight, factor, pattern, zeros)
    gone = zeros(weight, everything)
    return _sparsegpt(weight, factor, pattern, lambda part, some: gone[:, some])


def _sparsegpt(weight: Tensor, factor: Tensor, pattern: Pattern, zeros: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """Column after column: what goes is made up for by the columns to its right, and theirs are looked at after that.

    Source: SparseGPT, arXiv:2301.00774, algorithm 1; here all layers see the dense model's activations.
    """
    weight = weight.clone()
    for start in range(0, weight.shape[1], SPARSEGPT_BLOCK):
        block = slice(start, min(start + SPARSEGPT_BLOCK, weight.shape[1]))
        errors = _sparsegpt_block_(weight[:, block], factor[block, block], pattern.group, zeros, start)
        weight[:, block.stop :].addmm_(errors, factor[block, block.stop :], alpha=-1)
    return weight


def _sparsegpt_block_(
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


Projections = dict[str, nn.Linear]
"""One block's projections by name."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskedBlock:
    """New weights (out, in) of one block's projections by name, and what each of these loses; nothing where nothing was
    measured.
    """

    weights: dict[str, Tensor]
    errors: list[BlockErrors]

    @property
    def average_errors(self) -> BlockErrors:
        """Of each kind, where every projection has one."""
        fitted, uncompensated, held_out = map(_average, zip(*self.errors, strict=True)) if self.errors else [None] * 3
        return fitted, uncompensated, held_out

    def held(self, hold: Callable[[Tensor], Tensor]) -> "MaskedBlock":
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
    """The new weights (out, in) of each block's projections by name, and what they lose, found when they are asked for;
    the model is left as it is.

    on_block: called with blocks done and all blocks. hold: keeps the weights of one projection while the others are
    pruned. made: see Made. The same arguments give the same weights, to the bit.
    """

    def mask(index: int) -> MaskedBlock:
        return _mask_block(projections[index], calibration.inputs(index), method, permille, hold)

    @torch.no_grad()
    def become(index: int) -> MaskedBlock:
        block = made(index, partial(mask, index))
        on_block(index + 1, len(projections))
        return block

    return LazySequence(len(projections), become)


@torch.no_grad()
def weight_passage_error(
    block: Projections, groups: list[list[str]], samples: list[Sample], masked: dict[str, Tensor]
) -> float:
    """What the projections of one block lose on passages of the evaluation, on average.

    groups: the names that are given the same. samples: one of each of them, in this order.
    """
    given = {name: sample for names, sample in zip(groups, samples, strict=True) for name in names}
    return fmean(
        share_lost_of_sample(weight_of(block[name]).float().cpu(), weight.float(), given[name])
        for name, weight in masked.items()
    )


def _mask_block(
    block: Projections,
    inputs: list[tuple[list[str], Statistics]],
    method: MethodSettings,
    permille: int,
    hold: Callable[[Tensor], Tensor],
) -> MaskedBlock:
    new: dict[str, Tensor] = {}
    errors: list[BlockErrors] = []
    for names, known in inputs:
        together = {name: block[name] for name in names if name in block}
        for name, sparse in _sparse_group(together, known, method, permille).items():
            if known is not NO_STATISTICS:
                errors.append(_weight_errors(weight_of(block[name]).float().cpu(), sparse, known))
            new[name] = hold(sparse.to(block[name].weight.dtype))
    return MaskedBlock(weights=new, errors=errors)


def _sparse_group(together: Projections, known: Statistics, method: MethodSettings, permille: int) -> dict[str, Tensor]:
    """The new weights, (out, in) float32, of projections that are given the same."""
    if not together:
        return {}
    factor = inverse_factor(known, method.damping) if needs_factor(method) else None
    return {
        name: sparse_weight(weight_of(module).float().cpu(), known, factor, method, permille)
        for name, module in together.items()
    }


def _weight_errors(dense: Tensor, sparse: Tensor, known: Statistics) -> BlockErrors:
    as_they_are = dense.masked_fill(sparse == 0, 0)
    held_out = known.held_out
    return (
        share_lost(dense, sparse, known.second_moment) if known.is_whole else None,
        share_lost(dense, as_they_are, known.second_moment) if known.is_whole else None,
        share_lost_of_sample(dense, sparse, held_out) if len(held_out) else None,
    )


def _average(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return fmean(known) if len(known) == len(errors) else None
