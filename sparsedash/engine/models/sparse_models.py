"""What a sparse model of a run is: narrower MLPs, or single weights at zero. Both kinds answer the
same questions.

All but `applied` is asked while the loaded model is the dense one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sparsedash.catalog.budgets import reached
from sparsedash.engine.models.decoder_blocks import skipping
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.compensation import BlockErrors, passage_error
from sparsedash.engine.pruning.layer import LazySequence, Sample
from sparsedash.engine.pruning.surgery import (
    PrunedMlp,
    out_weight,
    pruned,
    reparametrised,
    reweighted,
)
from sparsedash.engine.pruning.weight_pruning import MaskedBlock, weight_passage_error
from sparsedash.schema.method_settings import Scope
from sparsedash.schema.records import Healed, Quantised, Reached


@dataclass(frozen=True, eq=False, kw_only=True)
class PrunedChannels:
    """A model whose MLPs have fewer channels, or that has fewer layers: its MLPs, their errors,
    losses where measured.

    gone: layers that are gone as a whole. alone: loss of the model by the cut of each block alone.
    others: parameters beside the MLPs that are not dense's, by name: of a healed one its norms, of
    a quantised one all. healed, quantised: what was done to it last; the errors are those before.
    """

    loaded: LoadedModel
    blocks: LazySequence[PrunedMlp]
    errors: Sequence[BlockErrors]
    alone: Callable[[], list[float]]
    gone: Sequence[int] = ()
    others: Mapping[str, Tensor] = field(default_factory=dict)
    healed: Healed | None = None
    quantised: Quantised | None = None

    @classmethod
    def whole(cls, loaded: LoadedModel) -> "PrunedChannels":
        """The loaded model with all its channels."""
        blocks = [PrunedMlp(torch.arange(mlp.width), out_weight(mlp)) for mlp in loaded.mlps]
        return cls(
            loaded=loaded,
            blocks=LazySequence(len(blocks), blocks.__getitem__),
            errors=(),
            alone=list,
        )

    def round_(self, index: int) -> None:
        """Keep this block in the model's own type from now on, to which it is rounded in any case.

        Only once its errors were asked for: they are of the unrounded weights.
        """
        narrow, dtype = self.blocks[index], self.loaded.mlps[index].out.weight.dtype
        if narrow.out_weight.dtype != dtype:
            rounded = replace(narrow, out_weight=narrow.out_weight.to(dtype))
            self.blocks.replace(index, rounded.moved_to(self.loaded.residency.offload))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the loaded model is the sparse one; afterwards the dense one again."""
        loaded = self.loaded
        changes = [
            lambda index=index, mlp=mlp: pruned([mlp], [self.blocks[index]])
            for index, mlp in enumerate(loaded.mlps)
        ]
        without = skipping(loaded.model.base_model, loaded.blocks, self.gone)
        with reparametrised(loaded.model, self.others), loaded.residency.changed(changes), without:
            yield

    def holding(
        self, blocks: Sequence[PrunedMlp], others: Mapping[str, Tensor]
    ) -> "PrunedChannels":
        """The same model with these weights."""
        return replace(self, blocks=LazySequence(len(blocks), blocks.__getitem__), others=others)

    @property
    def widths(self) -> list[int]:
        """Channels of each MLP; 0 where the whole layer is gone."""
        return [len(narrow.kept) for narrow in self.blocks]

    def reached(self) -> Reached:
        """What is gone, of every budget; of a quantised file's bytes, of those of the dense model
        in 16 bits.
        """
        found, of = reached(self.loaded.shape, self.widths), self.quantised
        return replace(found, bytes=max(0.0, 1 - of.n_bytes / of.dense_bytes)) if of else found

    @property
    def watched(self) -> list[list[str]]:
        """Of each block, the names of the projections whose inputs `passage_error` takes."""
        return [[self.loaded.family.out]] * len(self.blocks)

    def passage_error(self, index: int, samples: list[Sample]) -> float:
        """Error of this block on samples of its watched projections' inputs."""
        return passage_error(self.loaded.mlps[index], self.blocks[index], samples[0])


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskedWeights:
    """A model of the same shape with zeros among a scope's weights. groups: see `shared_inputs`.
    gone: no layer.
    """

    loaded: LoadedModel
    scope: Scope
    blocks: Sequence[MaskedBlock]
    groups: list[list[list[str]]]
    gone: Sequence[int] = ()

    def round_(self, index: int) -> None:
        """Nothing: its weights are made in the model's own type."""

    @property
    def errors(self) -> Sequence[BlockErrors]:
        """Average errors of each block's projections."""
        return LazySequence(len(self.blocks), lambda index: self.blocks[index].average_errors)

    def alone(self) -> list[float]:
        """None: all blocks give as much."""
        return []

    def applied(self) -> AbstractContextManager[None]:
        """Inside, the loaded model is the sparse one; afterwards the dense one again."""
        changes = [
            lambda index=index, block=block: reweighted([block], [self.blocks[index].weights])
            for index, block in enumerate(self.loaded.projections(self.scope))
        ]
        return self.loaded.residency.changed(changes)

    @property
    def widths(self) -> list[int]:
        """Channels of each MLP: those of the dense one."""
        return [mlp.width for mlp in self.loaded.mlps]

    def reached(self) -> Reached:
        """What is zero, of every budget."""
        shape, mlp = self.loaded.shape, self.loaded.family.mlp
        zeros = [
            (name, int((weight == 0).sum()))
            for block in self.blocks
            for name, weight in block.weights.items()
        ]
        in_mlps, n = sum(n for name, n in zeros if name in mlp), sum(n for _, n in zeros)
        shares = in_mlps / shape.n_mlp, n / shape.n_block_weights, n / shape.n_matmul
        return Reached(channels=shares[0], weights=shares[1], bytes=0.0, macs=shares[2])

    @property
    def watched(self) -> list[list[str]]:
        """Of each block, the names of the projections whose inputs `passage_error` takes."""
        return [[names[0] for names in block] for block in self.groups]

    def passage_error(self, index: int, samples: list[Sample]) -> float:
        """Error of this block on samples of its watched projections' inputs."""
        block, masked = self.loaded.projections(self.scope)[index], self.blocks[index].weights
        return weight_passage_error(block, self.groups[index], samples, masked)


SparseModel = PrunedChannels | MaskedWeights
