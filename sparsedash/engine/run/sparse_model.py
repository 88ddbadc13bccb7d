"""A sparse model made of the dense one, in one of two shapes: channels gone from its MLPs, or single weights at zero.

Both shapes answer the same questions. Its blocks are made when they are first asked for, each by itself where the
method allows it. All but `applied` is asked while the loaded model is the dense one.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.weight_counts import n_matmul_weights, weights_per_channel
from sparsedash.engine.pruning.layer import Sample
from sparsedash.engine.pruning.lazily import Lazily
from sparsedash.engine.pruning.patterns import matmul_ratio, mlp_sparsity
from sparsedash.engine.pruning.reconstruction_error import BlockErrors, passage_error
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, pruned, reweighted
from sparsedash.engine.pruning.unstructured import MaskedBlock, weight_passage_error
from sparsedash.schema.method_settings import Scope


@dataclass(frozen=True, eq=False, kw_only=True)
class PrunedChannels:
    """A model whose MLPs have fewer channels.

    loaded: what it is made of. narrowed: what each MLP becomes. errors: what each of them loses. sensitivities: see
    CalibrationData; gives none where the method does not ask for them.
    """

    loaded: LoadedModel
    narrowed: Lazily[PrunedMlp]
    errors: Sequence[BlockErrors]
    sensitivities: Callable[[], list[float]]

    def made(self, index: int) -> PrunedMlp:
        """What this block becomes."""
        return self.narrowed[index]

    def round_(self, index: int) -> None:
        """From now on keep this block in the type that the model runs in, for which it is rounded in any case."""
        narrow, dtype = self.narrowed[index], self.loaded.mlps[index].out.weight.dtype
        if narrow.out_weight.dtype != dtype:
            rounded = replace(narrow, out_weight=narrow.out_weight.to(dtype))
            self.narrowed.replace(index, rounded.held(self.loaded.residency.hold))

    def applied(self) -> AbstractContextManager[None]:
        """Inside it the loaded model is the sparse one, and the dense one again after it."""

        def narrow(index: int, mlp: Mlp) -> AbstractContextManager[None]:
            return pruned([mlp], [self.narrowed[index]])

        changes = [partial(narrow, index, mlp) for index, mlp in enumerate(self.loaded.mlps)]
        return self.loaded.residency.changed(changes)

    @property
    def widths(self) -> list[int]:
        """Channels that each MLP has."""
        return [len(narrow.kept) for narrow in self.narrowed]

    def shares_gone(self) -> tuple[float, float]:
        """What is gone of the MLPs, and of all Linear and Conv layers, output head included."""
        mlps, total = self.loaded.mlps, n_matmul_weights(self.loaded.model)
        dense, per_channel = [mlp.width for mlp in mlps], [weights_per_channel(mlp) for mlp in mlps]
        return mlp_sparsity(dense, self.widths), matmul_ratio(dense, self.widths, per_channel, total)

    @property
    def watched(self) -> list[list[str]]:
        """Of each block, the names of the projections whose inputs tell what is lost on other text."""
        return [[self.loaded.family.out]] * len(self.narrowed)

    def passage_error(self, index: int, samples: list[Sample]) -> float:
        """What this block loses on samples of its watched projections' inputs."""
        return passage_error(self.loaded.mlps[index], self.narrowed[index], samples[0])


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskedWeights:
    """A model of the same shape with zeros among its weights.

    loaded: what it is made of. scope: which projections have zeros. masked: what each block's become. groups: of each
    block, the names of all projections, those together that are given the same.
    """

    loaded: LoadedModel
    scope: Scope
    masked: Sequence[MaskedBlock]
    groups: list[list[list[str]]]

    def made(self, index: int) -> MaskedBlock:
        """What this block becomes."""
        return self.masked[index]

    def round_(self, index: int) -> None:
        """Nothing: they are of the model's own type as they are made."""

    @property
    def errors(self) -> Sequence[BlockErrors]:
        """What the projections of each block lose on average."""
        return Lazily(len(self.masked), lambda index: self.masked[index].average_errors)

    def sensitivities(self) -> list[float]:
        """None: all blocks give as much."""
        return []

    def applied(self) -> AbstractContextManager[None]:
        """Inside it the loaded model is the sparse one, and the dense one again after it."""

        def mask(index: int, block: dict[str, nn.Linear]) -> AbstractContextManager[None]:
            return reweighted([block], [self.masked[index].weights])

        projections = self.loaded.projections(self.scope)
        return self.loaded.residency.changed([partial(mask, index, block) for index, block in enumerate(projections)])

    @property
    def widths(self) -> list[int]:
        """Channels that each MLP has: all that it had."""
        return [mlp.width for mlp in self.loaded.mlps]

    def shares_gone(self) -> tuple[float, float]:
        """What is gone of the MLPs, and of all Linear and Conv layers, output head included."""
        family, total = self.loaded.family, n_matmul_weights(self.loaded.model)
        n_mlp = sum(part.weight.numel() for block in self.loaded.projections("mlp") for part in block.values())
        zeros = [(name, int((weight == 0).sum())) for block in self.masked for name, weight in block.weights.items()]
        in_mlps = sum(n for name, n in zeros if name in family.mlp)
        return in_mlps / n_mlp, sum(n for _, n in zeros) / total

    @property
    def watched(self) -> list[list[str]]:
        """Of each block, the names of the projections whose inputs tell what is lost on other text."""
        return [[names[0] for names in block] for block in self.groups]

    def passage_error(self, index: int, samples: list[Sample]) -> float:
        """What this block loses on samples of its watched projections' inputs."""
        block, masked = self.loaded.projections(self.scope)[index], self.masked[index].weights
        return weight_passage_error(block, self.groups[index], samples, masked)


SparseModel = PrunedChannels | MaskedWeights
