"""The experts of a mixture: what they compute, and the model without some of them.

Transformers' classes for experts keep the weights of all in one tensor, with the first axis for the
expert, and say by attributes how (`transformers.integrations.moe`). Removing some is judged with
their logits of the router at minus infinity, which equals a model made without them.

Dimensions: d hidden width, m inner width of an expert, t tokens, e experts, k kept ones.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from torch.overrides import TorchFunctionMode

from sparsedash.engine.pruning.layer import Layer, uncentred_statistics
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, pruned
from sparsedash.schema.model_shape import ExpertsLayout


@dataclass(frozen=True, eq=False)
class KeptExperts:
    """The experts that are left of one mixture.

    kept: (k,) int64, ascending. outs: (k, d, c), their refitted out-projections; None where those
    are dense's. channels: (k, c) int64, the inner channels that are left of each, ascending; None
    where all are. shared: the shared expert, where it is narrower as well. use: share of the dense
    router's choices that went to each expert. n_few_tokens: of the kept ones that were not
    refitted, as too few tokens reach them. lost, lost_without, lost_held_out: share of the experts'
    output that is lost: on calibration text, on it without the refit, and on text kept out of the
    fit; None where nothing was kept out.
    """

    kept: Tensor
    outs: Tensor | None = None
    channels: Tensor | None = None
    shared: PrunedMlp | None = None
    use: tuple[float, ...] = ()
    n_few_tokens: int = 0
    lost: float = 0.0
    lost_without: float = 0.0
    lost_held_out: float | None = None


@dataclass(frozen=True, eq=False)
class Experts:
    """The experts of one decoder block."""

    block: nn.Module
    layout: ExpertsLayout

    @property
    def module(self) -> Any:
        """The module of all experts."""
        return self.block.get_submodule(self.layout.path)

    @property
    def router(self) -> nn.Module:
        """The module whose weight (e, d) has a row for each expert."""
        return self.block.get_submodule(self.layout.router)

    @property
    def shared(self) -> Mlp | None:
        """The shared expert that is as wide by the same key; None where there is none such."""
        shared = self.layout.shared
        if shared is None:
            return None
        inner: list[Any] = [self.block.get_submodule(name) for name in shared.inner]
        out: Any = self.block.get_submodule(shared.out)
        return Mlp(tuple(inner), out, shared.fused)

    def activations(self, number: int, hidden: Tensor) -> Tensor:
        """Inner activations (t, m) of one expert. hidden: (t, d)."""
        module = self.module
        bias = (
            getattr(module, f"{self._inner_name}_bias")[number]
            if module.has_bias
            else None
        )
        inner = linear(hidden, self.inner_weight(number), bias)
        activations: Tensor = (
            module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
        )
        return activations

    @property
    def _inner_name(self) -> str:
        return "gate_up_proj" if self.module.has_gate else "up_proj"

    def inner_weight(self, number: int) -> Tensor:
        """The projection into the inner width of one expert: (2 * m, d) with a gate, else (m, d)."""
        weight: Tensor = getattr(self.module, self._inner_name)[number]
        return weight.T if self.module.is_transposed else weight

    def out_weight(self, number: int) -> Tensor:
        """The out-projection (d, m) of one expert."""
        weight: Tensor = self.module.down_proj[number]
        return weight.T if self.module.is_transposed else weight

    def out_bias(self, number: int) -> Tensor | float:
        """Its bias (d,); 0 where there is none."""
        bias: Tensor | float = (
            self.module.down_proj_bias[number] if self.module.has_bias else 0.0
        )
        return bias

    def layer(self, number: int, inputs: Tensor, seed: int) -> Layer:
        """One expert as the saliencies see it. inputs: (n, m), its activations times its gates."""
        rows = self.inner_weight(number).float().cpu()
        inner = [rows]
        if self.module.has_gate:
            halves = (
                rows.chunk(2)
                if self.module.is_concatenated
                else (rows[::2], rows[1::2])
            )
            inner = list(halves)
        return Layer(
            out_weight=self.out_weight(number)
            .detach()
            .to("cpu", torch.float32, copy=True),
            out_bias=None,
            inner_weights=inner,
            statistics=uncentred_statistics(inputs),
            seed=seed,
        )

    def sliced(self, narrow: KeptExperts) -> dict[str, Tensor]:
        """The tensors of a block with the kept experts alone, by their names in the block."""
        tensors = {}
        for name, axis in self.layout.tensors.items():
            tensor = tensor_of(self.block, name)
            # A router may have further rows, of shared experts.
            others = torch.arange(self.layout.n, tensor.shape[axis])
            kept = torch.cat([narrow.kept, others]).to(tensor.device)
            tensors[name] = tensor.index_select(axis, kept)
        if narrow.channels is not None:
            for name, axis in self.layout.inner.items():
                tensors[name] = self._narrowed(tensors[name], axis, narrow.channels)
        if narrow.outs is not None:
            name = f"{self.layout.path}.down_proj"
            tensors[name] = self._stored(narrow.outs).to(tensors[name])
        if narrow.shared is not None and self.shared is not None and self.layout.shared:
            out = self.shared.out.weight
            tensors[f"{self.layout.shared.out}.weight"] = narrow.shared.out_weight.to(
                out
            )
            for number, name in enumerate(self.layout.shared.inner):
                weight, bias = narrow.shared.inner_part(self.shared, number)
                tensors[f"{name}.weight"] = weight
                if bias is not None:
                    tensors[f"{name}.bias"] = bias
        return tensors

    def _narrowed(self, tensor: Tensor, axis: int, channels: Tensor) -> Tensor:
        """The entries of these channels of every expert; of gate and up those of both."""
        width = self.layout.width
        entries = channels.to(tensor.device)
        if tensor.shape[axis] == 2 * width and self.module.is_concatenated:
            entries = torch.cat([entries, entries + width], dim=1)
        elif tensor.shape[axis] == 2 * width:
            entries = torch.stack([2 * entries, 2 * entries + 1], dim=2).flatten(1)
        shape = [len(entries)] + [1] * (tensor.dim() - 1)
        shape[axis] = entries.shape[1]
        return torch.take_along_dim(tensor, entries.view(shape), dim=axis)

    @contextmanager
    def without(self, narrow: KeptExperts) -> Iterator[None]:
        """Inside, the router chooses among the kept experts, which are as narrow as they are left."""
        gone = torch.ones(self.layout.n, dtype=torch.bool)
        gone[narrow.kept] = False
        with ExitStack() as stack:
            if bool(gone.any()):
                self._hide(gone, stack)
            if narrow.shared is not None and self.shared is not None:
                stack.enter_context(pruned([self.shared], [narrow.shared]))
            if narrow.channels is not None:
                # All experts stay: each tensor of the module has another of its kind in its place.
                for name, tensor in self.sliced(narrow).items():
                    if name.startswith(f"{self.layout.path}."):
                        self._exchange(name, tensor, stack)
            elif narrow.outs is not None:
                outs = self.module.down_proj.detach().clone()
                outs[narrow.kept] = self._stored(narrow.outs).to(outs)
                self._exchange(f"{self.layout.path}.down_proj", outs, stack)
            yield

    def _exchange(self, name: str, tensor: Tensor, stack: ExitStack) -> None:
        """Put a tensor in the place of a parameter or buffer of the block until the stack closes."""
        owner_name, _, own_name = name.rpartition(".")
        owner = self.block.get_submodule(owner_name)
        before = getattr(owner, own_name)
        if isinstance(before, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=False)
        setattr(owner, own_name, tensor)
        stack.callback(setattr, owner, own_name, before)

    def _hide(self, gone: Tensor, stack: ExitStack) -> None:
        """Minus infinity in the router's logits and in what else chooses by it."""
        router = self.router
        forward = router.forward
        weight = router.get_parameter("weight")
        hidden_rows = pad(gone, (0, len(weight) - len(gone))).to(weight.device)
        router.forward = partial(_routed_without, forward, weight, hidden_rows)
        stack.callback(delattr, router, "forward")
        for name, axis in self.layout.tensors.items():
            tensor = tensor_of(self.block, name)
            is_bias = (
                not name.startswith(f"{self.layout.path}.") and tensor is not weight
            )
            if is_bias and tensor.shape.numel() == tensor.shape[axis]:
                hidden = tensor.detach().clone()
                hidden.movedim(axis, 0)[: self.layout.n][
                    gone.to(tensor.device)
                ] = -torch.inf
                self._exchange(name, hidden, stack)

    def _stored(self, outs: Tensor) -> Tensor:
        """Out-projections (k, d, m) as the module stores them."""
        return outs.transpose(1, 2) if self.module.is_transposed else outs


def sliced_tensors(
    mixtures: Mapping[int, Experts], narrowed: Mapping[int, KeptExperts], blocks: str
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model with what is left of its experts, by their names in the model.

    mixtures, narrowed: by block. blocks: path from the model to their list.
    """
    for index, mixture in mixtures.items():
        for name, tensor in mixture.sliced(narrowed[index]).items():
            yield f"{blocks}.{index}.{name}", tensor


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer, by its path."""
    owner, _, own_name = name.rpartition(".")
    tensor: Tensor = getattr(module.get_submodule(owner), own_name)
    return tensor


def _routed_without(
    forward: Callable[..., Any], weight: Tensor, gone: Tensor, *args: Any, **kwargs: Any
) -> Any:
    with _MinusInfinity(weight, gone):
        return forward(*args, **kwargs)


class _MinusInfinity(TorchFunctionMode):
    """Inside, products with a router's weight (e, d) are minus infinity for experts that are gone.

    Routers differ in what they do with the logits, and whether they cast the weight; not in that.
    """

    def __init__(self, weight: Tensor, gone: Tensor) -> None:
        super().__init__()
        self._weights = [weight]
        self._gone = gone

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        read = [
            value
            for value in (*args, *(kwargs or {}).values())
            if isinstance(value, Tensor)
        ]
        if not isinstance(result, Tensor) or not any(
            self._is_weight(value) for value in read
        ):
            return result
        if len(read) == 1:
            # Cast or transposed.
            self._weights.append(result)
            return result
        return result.masked_fill(self._gone, -torch.inf)

    def _is_weight(self, value: Tensor) -> bool:
        return any(value is weight for weight in self._weights)
