"""Weight surgery: narrow the MLPs of a model, exactly as if masked, or replace weights, and undo it.

Dimensions: d hidden width, m inner width, k kept channels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Mlp:
    """One block's MLP: the projections into the inner width and the one out of it.

    Typed as Linear; may be GPT-2's Conv1D, which has the same attributes and a transposed weight.
    fused: number of equal parts in the rows of a single inner projection (gate and up: 2).
    """

    inner: tuple[nn.Linear, ...]
    out: nn.Linear
    fused: int = 1

    @property
    def width(self) -> int:
        """Inner channels, m."""
        return out_weight(self).shape[1]


@dataclass(frozen=True, eq=False)
class PrunedMlp:
    """The narrower MLP in place of a dense one.

    kept: (k,) int64, ascending; empty where the whole layer is gone. out_weight: (d, k). out_bias:
    (d,), or None to leave the bias as it is. lost: mean squared error of its output over the
    calibration tokens; None where it is not known. inner: of a healed one, the weight (fused * k,
    d) and the bias of each projection into the inner width; empty where those are the dense rows.
    """

    kept: Tensor
    out_weight: Tensor
    out_bias: Tensor | None = None
    lost: float | None = None
    inner: tuple[tuple[Tensor, Tensor | None], ...] = ()

    def moved_to(self, offload: Callable[[Tensor], Tensor]) -> "PrunedMlp":
        """The same with offloaded weights."""
        inner = tuple((offload(weight), bias) for weight, bias in self.inner)
        return replace(
            self,
            out_weight=offload(self.out_weight),
            inner=inner,
        )

    def inner_part(
        self,
        mlp: Mlp,
        number: int,
    ) -> tuple[Tensor, Tensor | None]:
        """Weight (fused * k, d) and bias of an inner projection, by number. mlp: the dense one."""
        if self.inner:
            return self.inner[number]
        module = mlp.inner[number]
        if len(self.kept) == mlp.width:
            return weight_of(module), module.bias
        rows = torch.cat(
            [self.kept + part * mlp.width for part in range(mlp.fused)]
        ).to(module.weight.device)
        bias = None if module.bias is None else module.bias.index_select(0, rows)
        return weight_of(module).index_select(0, rows), bias

    def change(
        self,
        weight: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Difference to a dense out-projection (d, m) and its bias (d,): an affine map."""
        difference = -weight
        difference[:, self.kept] += self.out_weight.to(difference)
        if self.out_bias is None:
            return difference, difference.new_zeros(len(difference))
        return difference, self.out_bias.to(difference) - (0 if bias is None else bias)


def out_weight(mlp: Mlp) -> Tensor:
    """The out-projection as (d, m), whichever way the module stores it."""
    return weight_of(mlp.out)


def inner_weights(mlp: Mlp) -> list[Tensor]:
    """Every projection into the inner width as (m, d); fused ones one by one."""
    parts = [weight_of(module).chunk(mlp.fused) for module in mlp.inner]
    return list(chain.from_iterable(parts))


def weights_per_channel(mlp: Mlp) -> int:
    """Weights that leave the network with one inner channel."""
    return out_weight(mlp).shape[0] + sum(
        weight.shape[1] for weight in inner_weights(mlp)
    )


def is_projection(module: nn.Module) -> bool:
    """True for a Linear and for GPT-2's Conv1D, which is one under another name."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def weight_of(module: nn.Linear) -> Tensor:
    """The weight as (out, in), whichever way the module stores it."""
    return _rows_out(module, module.weight)


Replacement = tuple[nn.Module, str, Tensor | None]
"""A module, the name of one of its parameters, and the new one, as the module stores it."""


@contextmanager
def replaced(replacements: Iterable[Replacement]) -> Iterator[None]:
    """Inside, modules have these parameters, on their own device and in their own type.

    replacements: each is requested after those before it were made. An `nn.Parameter` is used as
    it is.
    """
    before = list[Replacement]()
    try:
        for module, name, value in replacements:
            parameter = getattr(module, name)
            before.append((module, name, parameter))
            like = module.get_parameter("weight") if parameter is None else parameter
            if value is not None and not isinstance(value, nn.Parameter):
                value = value.to(like.device, like.dtype).contiguous()
                value = nn.Parameter(value, requires_grad=False)
            _set_(module, name, value)
        yield
    finally:
        # The very parameters: `keep_fp32_copies` finds its copies by them.
        for replacement in before:
            _set_(*replacement)


def reweighted(
    projections: list[dict[str, nn.Linear]], weights: list[dict[str, Tensor]]
) -> AbstractContextManager[None]:
    """Inside, the projections have these weights (out, in).

    Both name each block's projections; one without a new weight stays as it is.
    """

    def replacements() -> Iterator[Replacement]:
        for block, new_weights in zip(projections, weights, strict=True):
            for name, weight in new_weights.items():
                yield block[name], "weight", _rows_out(block[name], weight)

    return replaced(replacements())


def reparametrised(
    model: nn.Module, parameters: Mapping[str, Tensor]
) -> AbstractContextManager[None]:
    """Inside, the model has these parameters, by their names."""

    def replacements() -> Iterator[Replacement]:
        for name, parameter in parameters.items():
            module, _, own_name = name.rpartition(".")
            yield model.get_submodule(module), own_name, parameter

    return replaced(replacements())


def pruned(mlps: list[Mlp], narrowed: list[PrunedMlp]) -> AbstractContextManager[None]:
    """Inside, the model of these MLPs lacks the channels that are not kept."""

    def replacements() -> Iterator[Replacement]:
        for mlp, narrow in zip(mlps, narrowed, strict=True):
            for number, module in enumerate(mlp.inner):
                weight, bias = narrow.inner_part(mlp, number)
                yield module, "weight", _rows_out(module, weight)
                yield module, "bias", bias
            # Last: `mlp.width` tells where fused rows are.
            yield mlp.out, "weight", _rows_out(mlp.out, narrow.out_weight)
            yield (
                mlp.out,
                "bias",
                mlp.out.bias if narrow.out_bias is None else narrow.out_bias,
            )

    return replaced(replacements())


def is_transposed(module: nn.Module) -> bool:
    """True for GPT-2's Conv1D, whose weight is (in, out)."""
    # GPT-2's Conv1D stores (in, out) and names its output width nf; nothing else does.
    return hasattr(module, "nf")


def _rows_out(module: nn.Linear, weight: Tensor) -> Tensor:
    return weight.T if is_transposed(module) else weight


def _set_(
    module: nn.Module,
    name: str,
    value: Tensor | None,
) -> None:
    """Set a parameter of a module, and the widths that a projection states."""
    assert value is None or isinstance(value, nn.Parameter)
    module.register_parameter(name, value)
    if is_transposed(module):
        vars(module).update(
            zip(("nx", "nf"), module.get_parameter("weight").shape, strict=True)
        )
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
