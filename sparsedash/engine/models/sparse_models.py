"""Sparse models of a run: narrower MLPs, or single weights at zero, with one interface.

All but `applied` is called while the loaded model is the dense one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter

import torch
from torch import Tensor

from sparsedash.catalog.budgets import reached
from sparsedash.engine.models.decoder_blocks import skipping
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.compensation import BlockErrors, passage_error
from sparsedash.engine.pruning.experts import KeptExperts
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
from sparsedash.schema.model_shape import KeptParts
from sparsedash.schema.records import Healed, Quantised, Reached


@dataclass(frozen=True, eq=False, kw_only=True)
class PrunedChannels:
    """A model whose MLPs have fewer channels, or that has fewer layers or experts.

    experts: those left of each block; empty where none is removed. errors: of the MLPs, or of the
    experts, before healing and quantising. block_losses: loss of the model by the cut of each block
    alone, where measured. others: parameters outside the MLPs that are not the dense ones, by name:
    norms of a healed model, all of a quantised one.
    """

    loaded: LoadedModel
    blocks: LazySequence[PrunedMlp]
    errors: Sequence[BlockErrors]
    block_losses: Callable[[], list[float]]
    removed_layers: Sequence[int] = ()
    experts: Sequence[KeptExperts] = ()
    others: Mapping[str, Tensor] = field(default_factory=dict)
    healed: Healed | None = None
    quantised: Quantised | None = None

    @classmethod
    def dense(cls, loaded: LoadedModel) -> "PrunedChannels":
        """The loaded model with all its channels."""
        blocks = [
            PrunedMlp(torch.arange(mlp.width), out_weight(mlp)) for mlp in loaded.mlps
        ]
        return cls(
            loaded=loaded,
            blocks=LazySequence(len(blocks), blocks.__getitem__),
            errors=(),
            block_losses=list,
        )

    def round_(self, index: int) -> None:
        """Round this block to the model's own type, in which it runs in any case.

        Only after its errors were computed: they are of the unrounded weights.
        """
        narrow = self.blocks[index]
        dtype = self.loaded.mlps[index].out.weight.dtype
        if narrow.out_weight.dtype != dtype:
            rounded = replace(narrow, out_weight=narrow.out_weight.to(dtype))
            self.blocks.replace(index, rounded.moved_to(self.loaded.residency.offload))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the loaded model is the sparse one; afterwards the dense one again."""
        loaded = self.loaded
        mlps = loaded.mlps
        mixtures = loaded.experts if self.experts else {}

        @contextmanager
        def narrowed(index: int) -> Iterator[None]:
            with ExitStack() as stack:
                stack.enter_context(pruned([mlps[index]], [self.blocks[index]]))
                if index in mixtures:
                    stack.enter_context(mixtures[index].without(self.experts[index]))
                yield

        changes = [partial(narrowed, index) for index in range(len(mlps))]
        with (
            reparametrised(loaded.model, self.others),
            loaded.residency.changed(changes),
            skipping(loaded.model.base_model, loaded.blocks, self.removed_layers),
        ):
            yield

    def with_weights(
        self, blocks: Sequence[PrunedMlp], others: Mapping[str, Tensor]
    ) -> "PrunedChannels":
        """The same model with these weights."""
        return replace(
            self,
            blocks=LazySequence(len(blocks), blocks.__getitem__),
            others=others,
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each MLP; 0 where there is none or the whole layer is gone."""
        return tuple(len(narrow.kept) for narrow in self.blocks)

    @property
    def kept(self) -> KeptParts:
        """The parts kept of the dense model."""
        return KeptParts(
            widths=self.widths,
            removed_layers=tuple(sorted(self.removed_layers)),
            experts=self._kept_experts,
            expert_widths=self._kept_expert_widths,
        )

    @property
    def _kept_experts(self) -> tuple[int, ...]:
        """Number of experts kept in each block; empty if all of them stay."""
        counts = tuple(len(narrow.kept) for narrow in self.experts)
        return () if counts == self.loaded.shape.experts else counts

    @property
    def _kept_expert_widths(self) -> tuple[int, ...]:
        """Channels of the experts of each block; empty where all of them stay."""
        if all(narrow.channels is None for narrow in self.experts):
            return ()
        widths = []
        for narrow in self.experts:
            widths.append(0 if narrow.channels is None else narrow.channels.shape[1])
        return tuple(widths)

    def reached(self) -> Reached:
        """The share removed of every budget.

        Bytes of a quantised file are compared with the dense one's in 16 bits.
        """
        shares = reached(self.loaded.shape, self.kept)
        if self.quantised is None:
            return shares
        n_bytes = self.quantised.n_bytes / self.quantised.dense_bytes
        return replace(shares, bytes=max(0.0, 1 - n_bytes))

    @property
    def watched(self) -> list[list[str]]:
        """Names of the projections of each block whose inputs `passage_error` takes."""
        return [[layout.out] if layout else [] for layout in self.loaded.structure.mlps]

    def passage_error(
        self,
        index: int,
        samples: list[Sample],
    ) -> float:
        """Error of this block on samples of the inputs of its `watched` projections."""
        if not samples:
            return 0.0
        return passage_error(self.loaded.mlps[index], self.blocks[index], samples[0])


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskedWeights:
    """A model of the same shape with zeros among a scope's weights. groups: see `shared_inputs`."""

    loaded: LoadedModel
    scope: Scope
    blocks: Sequence[MaskedBlock]
    groups: list[list[list[str]]]
    removed_layers: Sequence[int] = ()
    experts: Sequence[KeptExperts] = ()

    def round_(self, index: int) -> None:
        """Do nothing: the weights have the model's own type already."""

    @property
    def errors(self) -> Sequence[BlockErrors]:
        """Average errors of each block's projections."""
        return LazySequence(
            len(self.blocks), lambda index: self.blocks[index].average_errors
        )

    def block_losses(self) -> list[float]:
        """None: every block gives as much."""
        return []

    def applied(self) -> AbstractContextManager[None]:
        """Inside, the loaded model is the sparse one; afterwards the dense one again."""
        projections = self.loaded.projections(self.scope)

        def masked(index: int) -> AbstractContextManager[None]:
            return reweighted([projections[index]], [self.blocks[index].weights])

        changes = [partial(masked, index) for index in range(len(projections))]
        return self.loaded.residency.changed(changes)

    @property
    def kept(self) -> KeptParts:
        """All of the dense model."""
        return self.loaded.shape.whole

    def reached(self) -> Reached:
        """The share of zeros, of every budget."""
        shape = self.loaded.shape
        n_zeros = n_mlp_zeros = 0
        for block, layout in zip(self.blocks, self.loaded.structure.mlps, strict=True):
            for name, weight in block.weights.items():
                n = int((weight == 0).sum())
                n_zeros += n
                if layout and name in layout.paths:
                    n_mlp_zeros += n
        return Reached(
            channels=n_mlp_zeros / shape.n_mlp if shape.n_mlp else 0.0,
            weights=n_zeros / shape.n_block_weights,
            bytes=0.0,
            macs=n_zeros / shape.n_matmul,
        )

    @property
    def watched(self) -> list[list[str]]:
        """Names of the projections of each block whose inputs `passage_error` takes."""
        return [list(map(itemgetter(0), block)) for block in self.groups]

    def passage_error(
        self,
        index: int,
        samples: list[Sample],
    ) -> float:
        """Error of this block on samples of the inputs of its `watched` projections."""
        block = self.loaded.projections(self.scope)[index]
        return weight_passage_error(
            block,
            self.groups[index],
            samples,
            self.blocks[index].weights,
        )


SparseModel = PrunedChannels | MaskedWeights
