"""A sparse model made of the dense one, in one of two shapes: channels gone from its MLPs, or single weights at zero.

Both shapes answer the same questions, and all but `applied` are asked while the loaded model is the dense one.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.weight_counts import n_matmul_weights, weights_per_channel
from sparsedash.engine.pruning.layer import Sample
from sparsedash.engine.pruning.patterns import matmul_ratio, mlp_sparsity
from sparsedash.engine.pruning.reconstruction_error import LayerErrors, passage_errors
from sparsedash.engine.pruning.surgery import PrunedMlp, pruned, reweighted
from sparsedash.engine.pruning.unstructured import weight_passage_errors
from sparsedash.schema.method_settings import Scope

Samples = Callable[[int], list[Sample] | None]
"""What the watched projections of a block are given, one sample each; None where the store has no room for them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PrunedChannels:
    """A model whose MLPs have fewer channels. loaded: what it is made of. narrowed: what each MLP becomes."""

    loaded: LoadedModel
    narrowed: list[PrunedMlp]
    errors: LayerErrors

    def applied(self) -> AbstractContextManager[None]:
        """Inside it the loaded model is the sparse one, and the dense one again after it."""
        both = zip(self.loaded.mlps, self.narrowed, strict=True)
        return self.loaded.residency.changed([partial(pruned, [mlp], [narrow]) for mlp, narrow in both])

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
        return [[self.loaded.family.out] for _ in self.narrowed]

    def passage_errors(self, samples: Samples) -> list[float]:
        """What each block loses on these samples of the watched projections' inputs."""
        return passage_errors(self.loaded.mlps, samples, self.narrowed)


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskedWeights:
    """A model of the same shape with zeros among its weights.

    loaded: what it is made of. scope: which projections have zeros. masked: their new weights (out, in), by name, of
    each block. groups: of each block, the names of all projections, those together that are given the same.
    """

    loaded: LoadedModel
    scope: Scope
    masked: list[dict[str, Tensor]]
    groups: list[list[list[str]]]
    errors: LayerErrors

    def applied(self) -> AbstractContextManager[None]:
        """Inside it the loaded model is the sparse one, and the dense one again after it."""
        both = zip(self.loaded.projections(self.scope), self.masked, strict=True)
        return self.loaded.residency.changed([partial(reweighted, [block], [masked]) for block, masked in both])

    @property
    def widths(self) -> list[int]:
        """Channels that each MLP has: all that it had."""
        return [mlp.width for mlp in self.loaded.mlps]

    def shares_gone(self) -> tuple[float, float]:
        """What is gone of the MLPs, and of all Linear and Conv layers, output head included."""
        family, total = self.loaded.family, n_matmul_weights(self.loaded.model)
        n_mlp = sum(part.weight.numel() for block in self.loaded.projections("mlp") for part in block.values())
        zeros = [(name, int((weight == 0).sum())) for block in self.masked for name, weight in block.items()]
        in_mlps = sum(n for name, n in zeros if name in family.mlp)
        return in_mlps / n_mlp, sum(n for _, n in zeros) / total

    @property
    def watched(self) -> list[list[str]]:
        """Of each block, the names of the projections whose inputs tell what is lost on other text."""
        return [[names[0] for names in block] for block in self.groups]

    def passage_errors(self, samples: Samples) -> list[float]:
        """What each block loses on these samples of the watched projections' inputs."""
        return weight_passage_errors(self.loaded.projections(self.scope), self.groups, samples, self.masked)


SparseModel = PrunedChannels | MaskedWeights
