"""One MLP as pruning sees it: its weights and calibration statistics; and sequences of layers computed lazily."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import torch
from torch import Tensor

from sparsedash.engine.pruning.linalg import energy, submatrix
from sparsedash.engine.pruning.surgery import Mlp, inner_weights, out_weight


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """Tokens to measure a fit on. inputs: (t, m) float32. weights: (t,) float32, how much each counts."""

    inputs: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, eq=False, kw_only=True)
class Statistics:
    """What calibration keeps about the inner activations x of one MLP.

    second_moment: (m, m) float32, weighted mean of x x^T over the tokens; its diagonal (m,) alone where they are too
    few for more. mean: (m,) float32, weighted as well. held_out: tokens that are in neither of them. n_tokens: how
    many are.
    """

    second_moment: Tensor
    mean: Tensor
    held_out: Sample
    n_tokens: int

    @property
    def is_whole(self) -> bool:
        """Whether all of the second moment is known."""
        return self.second_moment.ndim == 2

    @property
    def mean_squares(self) -> Tensor:
        """(m,), of each channel: the diagonal of the second moment."""
        return self.second_moment.diagonal() if self.is_whole else self.second_moment


NO_STATISTICS = Statistics(
    second_moment=torch.empty(0),
    mean=torch.empty(0),
    held_out=Sample(inputs=torch.empty(0), weights=torch.empty(0)),
    n_tokens=0,
)
"""In place of statistics that nothing looks at."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """One MLP as the saliencies and the compensations see it: its weights and its statistics.

    out_weight: (d, m). out_bias: (d,) or None. inner_weights: (m, d) each. known: of its inner activations.
    seed: differs from block to block, for whatever is drawn by lot.
    mask_gradients: (s, m), for each of s sequences the derivative of its loss by each channel's mask; None where the
    saliency does not ask for it.
    """

    out_weight: Tensor
    out_bias: Tensor | None
    inner_weights: list[Tensor]
    known: Statistics
    seed: int
    mask_gradients: Tensor | None = None

    @property
    def width(self) -> int:
        """Inner channels, m."""
        return self.out_weight.shape[1]

    @property
    def mean(self) -> Tensor:
        """(m,), of the inner activations."""
        return self.known.mean

    def mean_square(self, weight: Tensor, bias: Tensor | None = None) -> float:
        """Mean over the calibration tokens of ||A x + b||^2, for a map A (n, m), b (n,) of the inner activations."""
        found = energy(weight, self.known.second_moment)
        if bias is not None:
            found += float(2 * bias @ (weight @ self.mean) + bias @ bias)
        return found

    def moment(self, order: Tensor | None = None) -> Tensor:
        """(m, m) float32 that a fit of the out-projection minimises over, its channels in this order.

        The second moment; the covariance where the layer has a bias, which then takes up the means.
        """
        channels = torch.arange(self.width) if order is None else order
        return self.moment_of(channels, channels)

    def moment_of(self, rows: Tensor, columns: Tensor) -> Tensor:
        """These rows and columns of `moment` (rows, columns), without making all of it: it may have gigabytes."""
        return self.part(rows, columns) if self.out_bias is None else self.covariance_of(rows, columns)

    def covariance_of(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(rows, columns) float32, of the inner activations over the calibration tokens."""
        return self.part(rows, columns).addr_(self.mean[rows], self.mean[columns], alpha=-1)

    def part(self, rows: Tensor, columns: Tensor) -> Tensor:
        """These rows and columns of the second moment, (rows, columns)."""
        return submatrix(self.known.second_moment, rows, columns)


@dataclass(frozen=True, eq=False, kw_only=True)
class CalibrationData:
    """What calibration left of the blocks, asked for one block at a time by its index.

    statistics: of the MLP's inner activations. inputs: of what all projections are given, with the names of those that
    are given the same; asked only where single weights go. mask_gradients: see Layer; asked only where the saliency
    needs it. sensitivities: what the model loses with one unit of mean squared error at each block's output; asked only
    where the allocation needs it.
    """

    statistics: Callable[[int], Statistics]
    inputs: Callable[[int], list[tuple[list[str], Statistics]]]
    mask_gradients: Callable[[int], Tensor]
    sensitivities: Callable[[], list[float]]


def layer_of(mlp: Mlp, known: Statistics, seed: int = 0, mask_gradients: Tensor | None = None) -> Layer:
    """One MLP with its statistics, on the CPU; what is computed with in float32."""
    bias = mlp.out.bias
    return Layer(
        # A copy: how a product rounds depends on where in memory its factors lie, and a file's tensors lie anywhere.
        out_weight=out_weight(mlp).detach().to("cpu", torch.float32, copy=True),
        out_bias=None if bias is None else bias.detach().float().cpu(),
        inner_weights=[weight.detach().cpu() for weight in inner_weights(mlp)],
        known=known,
        seed=seed,
        mask_gradients=mask_gradients,
    )


Item = TypeVar("Item")


class LazySequence(Sequence[Item]):
    """So many parts, each made once, when it is first asked for. make: by its number; what raises is asked again."""

    def __init__(self, n_parts: int, make: Callable[[int], Item]) -> None:
        self._n_parts, self._make = n_parts, make
        self._made: dict[int, Item] = {}

    def __len__(self) -> int:
        return self._n_parts

    def __iter__(self) -> Iterator[Item]:
        """Every part; Sequence's own would take an IndexError from `make` for the end."""
        return (self[index] for index in range(self._n_parts))

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        """The part, made now where it is not there yet."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        number = range(self._n_parts)[index]
        if number not in self._made:
            self._made[number] = self._make(number)
        return self._made[number]

    def replace(self, index: int, part: Item) -> None:
        """From now on this is the part."""
        self._made[range(self._n_parts)[index]] = part
