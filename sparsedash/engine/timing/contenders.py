"""Two models that share one set of modules and each have weights of their own, so that both are in memory at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsedash.engine.comparison.model_pair import RecordModel

Weights = dict[str, nn.Parameter | None]


@dataclass(frozen=True, eq=False)
class Contender:
    """One of two models. parts: every module with its parameters, and the widths that it states."""

    parts: list[tuple[nn.Module, Weights, dict[str, int]]]

    def enter_(self) -> None:
        """Make the modules this model: by reference, in about a millisecond for hundreds of them."""
        for module, weights, widths in self.parts:
            module._parameters.update(weights)
            vars(module).update(widths)

    @property
    def weights(self) -> list[nn.Parameter]:
        """All its weights, each once: what two modules share counts once."""
        own = {id(weight): weight for _, weights, _ in self.parts for weight in weights.values() if weight is not None}
        return list(own.values())

    @property
    def n_bytes(self) -> int:
        """Bytes of its weights."""
        return sum(weight.nbytes for weight in self.weights)


@contextmanager
def both_resident(dense: RecordModel, sparse: RecordModel, dtype: torch.dtype) -> Iterator[tuple[Contender, Contender]]:
    """Inside, the two as contenders in this dtype, neither of them masked; after it the loaded model is as before.

    The weights in which they differ are copied for both alike, so that neither has the better place in memory: weights
    as a file left them and weights that were just computed need not be read equally fast.
    """
    modules = list(dense.loaded.model.modules())
    kept = _parts(modules)
    with dense.active():
        of_dense = _parts(modules)
    with sparse.active():
        of_sparse = _parts(modules)
    shared = {id(w) for _, weights, _ in of_dense for w in weights.values()} & {
        id(w) for _, weights, _ in of_sparse for w in weights.values()
    }
    copied = _copies(shared, dtype)
    try:
        yield Contender(_recast(of_dense, copied)), Contender(_recast(of_sparse, copied))
    finally:
        Contender(kept).enter_()


def _parts(modules: list[nn.Module]) -> list[tuple[nn.Module, Weights, dict[str, int]]]:
    return [
        (module, dict(module._parameters), {name: value for name, value in vars(module).items() if type(value) is int})
        for module in modules
        if module._parameters
    ]


def _recast(
    parts: list[tuple[nn.Module, Weights, dict[str, int]]], copied: Callable[[Tensor], nn.Parameter]
) -> list[tuple[nn.Module, Weights, dict[str, int]]]:
    return [
        (module, {name: None if w is None else copied(w) for name, w in weights.items()}, widths)
        for module, weights, widths in parts
    ]


def _copies(shared: set[int], dtype: torch.dtype) -> Callable[[Tensor], nn.Parameter]:
    """Gives every weight in this dtype: a copy of what only one of the two has, the same for what both have."""
    made: dict[int, tuple[Tensor, nn.Parameter]] = {}

    def copied(weight: Tensor) -> nn.Parameter:
        if id(weight) not in made:
            stays = id(weight) in shared and weight.dtype == dtype
            new = weight if stays else weight.detach().to(dtype, copy=True)
            as_parameter = new if isinstance(new, nn.Parameter) else nn.Parameter(new, requires_grad=False)
            # The weight is held beside its copy, since an id says nothing once what had it is gone.
            made[id(weight)] = weight, as_parameter
        return made[id(weight)][1]

    return copied
