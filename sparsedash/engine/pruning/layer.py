"""One MLP as pruning sees it: its weights and calibration statistics; and lazy sequences."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from sparsedash.engine.pruning.linalg import energy, submatrix
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, inner_weights, out_weight
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Checkpointed, ignore, without_checkpoint

Item = TypeVar("Item")


@dataclass(eq=False)
class LazySequence(Sequence[Item]):
    """Items that are computed on first use, and cached; an item that raised is computed again.

    make: an item from its index, without gradients. on_made: called after each with its index.
    """

    n_items: int
    make: Callable[[int], Item]
    checkpointed: Checkpointed[Item] = without_checkpoint
    on_made: Callable[[int], None] = ignore
    _items: dict[int, Item] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return self.n_items

    def __iter__(self) -> Iterator[Item]:
        """Every item; the default would take an IndexError from `make` for the end."""
        return (self[index] for index in range(self.n_items))

    @torch.no_grad()
    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        """The item, computed now if needed."""
        if index not in self._items:
            self._items[index] = self.checkpointed(index, partial(self.make, index))
            self.on_made(index)
        return self._items[index]

    def replace(self, index: int, item: Item) -> None:
        """Replace an item."""
        self._items[index] = item


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """Held-out tokens. inputs: (t, m) float32. weights: (t,) float32, of each token in means."""

    inputs: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, eq=False, kw_only=True)
class Statistics:
    """Calibration statistics of the inner activations x of one MLP.

    covariance: (m, m) float32, of x over the weighted tokens, or only its diagonal (m,) where the
    tokens are too few.
    mean: (m,) float32, weighted as well. held_out: tokens that are in neither. n_tokens: in both.
    The second moment is the covariance plus mean mean^T; the other way round a large mean would
    leave no digit of a variance.
    """

    covariance: Tensor
    mean: Tensor
    held_out: Sample
    n_tokens: int

    @property
    def is_whole(self) -> bool:
        """True if the whole covariance is known."""
        return self.covariance.ndim == 2

    @property
    def variances(self) -> Tensor:
        """Variances of the channels (m,): the diagonal of the covariance."""
        return self.covariance.diagonal() if self.is_whole else self.covariance

    @property
    def mean_squares(self) -> Tensor:
        """Mean squares of the channels (m,): the diagonal of the second moment."""
        return self.variances + self.mean.square()

    def energy(
        self,
        weight: Tensor,
        bias: Tensor | float = 0.0,
    ) -> float:
        """Mean over the calibration tokens of ||A x + b||^2, for a map A (n, m), b (n,). Needs the whole covariance."""
        at_mean = weight @ self.mean + bias
        return energy(weight, self.covariance) + float(
            at_mean.square().sum(dtype=torch.float64)
        )


NO_CHANNELS = Statistics(
    covariance=torch.empty(0, 0),
    mean=torch.empty(0),
    held_out=Sample(inputs=torch.empty(0, 0), weights=torch.empty(0)),
    n_tokens=0,
)
"""Of a block without an MLP."""

NO_STATISTICS = Statistics(
    covariance=torch.empty(0),
    mean=torch.empty(0),
    held_out=Sample(inputs=torch.empty(0), weights=torch.empty(0)),
    n_tokens=0,
)
"""Stand in for statistics that nothing reads."""


def uncentred_statistics(inputs: Tensor) -> Statistics:
    """Of channels whose means nothing absorbs: the second moment stands for the covariance.

    inputs: (n, m) float32.
    """
    moment = inputs.T @ inputs / max(1, len(inputs))
    mean = torch.zeros(inputs.shape[1])
    return replace(NO_STATISTICS, covariance=moment, mean=mean, n_tokens=len(inputs))


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """One MLP as the saliencies and the compensations see it: its weights and its statistics.

    out_weight: (d, m). out_bias: (d,) or None. inner_weights: (m, d) each. statistics: of its inner
    activations.
    seed: differs from block to block, for random draws. mask_gradients: (s, m), for each of s
    sequences the derivative of its loss by each channel's mask; None where the saliency does not
    need it.
    """

    out_weight: Tensor
    out_bias: Tensor | None
    inner_weights: list[Tensor]
    statistics: Statistics
    seed: int
    mask_gradients: Tensor | None = None

    @property
    def width(self) -> int:
        """Inner channels, m."""
        return self.out_weight.shape[1]

    @property
    def mean(self) -> Tensor:
        """(m,), of the inner activations."""
        return self.statistics.mean

    def moment(
        self,
        rows: Tensor | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """Rows and columns of the matrix (m, m) float32 that an out-projection is fitted to.

        The second moment; the covariance where the layer has a bias, which then absorbs the means.
        Without a copy of the rest, which may be gigabytes. Columns default to the rows.
        """
        rows = torch.arange(self.width) if rows is None else rows
        columns = rows if columns is None else columns
        part_of = self.second_moment if self.out_bias is None else self.covariance
        return part_of(rows, columns)

    def covariance(
        self,
        rows: Tensor,
        columns: Tensor,
    ) -> Tensor:
        """Rows and columns of the covariance of the inner activations, float32."""
        return submatrix(self.statistics.covariance, rows, columns)

    def second_moment(
        self,
        rows: Tensor,
        columns: Tensor,
    ) -> Tensor:
        """Rows and columns of the second moment of the inner activations, float32."""
        return self.covariance(rows, columns).addr_(self.mean[rows], self.mean[columns])


@dataclass(frozen=True, eq=False, kw_only=True)
class CalibrationData:
    """Calibration of a block, by its index.

    statistics: of the MLP's inner activations. inputs: of the inputs of all projections, with the
    names of those that share an input; only for single weights. mask_gradients: see Layer. curve:
    loss of the model, in nats, with each version of the block's MLP that the last argument makes.
    """

    statistics: Callable[[int], Statistics]
    inputs: Callable[[int], list[tuple[list[str], Statistics]]]
    mask_gradients: Callable[[int], Tensor]
    curve: Callable[[MethodSettings, int, Callable[[], list[PrunedMlp]]], list[float]]


def layer_of(
    mlp: Mlp,
    statistics: Statistics,
    seed: int = 0,
    mask_gradients: Tensor | None = None,
) -> Layer:
    """The layer of an MLP, on the CPU; float32 where it is computed with."""
    bias = mlp.out.bias
    return Layer(
        # A copy: how a product rounds depends on where in memory its factors lie, and a file's
        # tensors lie anywhere.
        out_weight=out_weight(mlp).detach().to("cpu", torch.float32, copy=True),
        out_bias=None if bias is None else bias.detach().float().cpu(),
        inner_weights=[weight.detach().cpu() for weight in inner_weights(mlp)],
        statistics=statistics,
        seed=seed,
        mask_gradients=mask_gradients,
    )
