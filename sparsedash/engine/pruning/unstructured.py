"""Sets single weights to zero, projection by projection, by the statistics of each projection's inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import torch
from torch import Tensor, nn

from sparsedash.engine.pruning.layer import UNKNOWN, CalibrationData, Sample, Statistics
from sparsedash.engine.pruning.lazily import Lazily
from sparsedash.engine.pruning.reconstruction_error import BlockErrors, share_lost, share_lost_of_sample
from sparsedash.engine.pruning.surgery import weight_of
from sparsedash.engine.pruning.weight_saliency import inverse_factor, needs_factor, sparse_weight
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Made, at_once

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
    made: Made[MaskedBlock] = at_once,
) -> Sequence[MaskedBlock]:
    """The new weights (out, in) of each block's projections by name, and what they lose, found when they are asked for;
    the model is left as it is.

    on_block: called with blocks done and all blocks. hold: keeps the weights of one projection while the others are
    pruned. made: see Made. The same arguments give the same weights, to the bit.
    """

    def mask(index: int) -> MaskedBlock:
        return _masked(projections[index], calibration.inputs(index), method, permille, hold)

    @torch.no_grad()
    def become(index: int) -> MaskedBlock:
        block = made(index, partial(mask, index))
        on_block(index + 1, len(projections))
        return block

    return Lazily(len(projections), become)


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


def _masked(
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
        for name, sparse in _sparse(together, known, method, permille).items():
            if known is not UNKNOWN:
                errors.append(_errors(weight_of(block[name]).float().cpu(), sparse, known))
            new[name] = hold(sparse.to(block[name].weight.dtype))
    return MaskedBlock(weights=new, errors=errors)


def _sparse(together: Projections, known: Statistics, method: MethodSettings, permille: int) -> dict[str, Tensor]:
    """The new weights, (out, in) float32, of projections that are given the same."""
    if not together:
        return {}
    factor = inverse_factor(known, method.damping) if needs_factor(method) else None
    return {
        name: sparse_weight(weight_of(module).float().cpu(), known, factor, method, permille)
        for name, module in together.items()
    }


def _errors(dense: Tensor, sparse: Tensor, known: Statistics) -> BlockErrors:
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
