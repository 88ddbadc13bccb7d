"""Bfloat16 matrix products in single precision, on processors where that is faster.

Not every processor has units for bfloat16, and some that have them are slower with them. Either way
a product is summed in single precision and rounded once at its end, so the numbers differ by the
order of the sum alone.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from sparsedash.catalog.resources import WIDE_BYTES
from sparsedash.schema.settings import Dtype

_ROWS = 192
"""Inputs from which on it pays to widen a weight for them."""

_ROWS_BY_COPY = 32
"""The same for a weight that is there in single precision already, which is twice as much to
read.
"""

_PIECE = 2**22
"""Values of a weight that are widened at once: all of a large one would take as much memory again,
twice.
"""

_FASTER = 1.3
"""So much faster must single precision be, that a noisy measurement does not decide otherwise the
next time.
"""

_TRIAL, _TRIALS = (512, 512), 9


@contextmanager
def bf16_matmul_in_fp32(dtype: Dtype) -> Iterator[None]:
    """Inside, linear layers with weights of this type multiply in the way that is fastest on this
    machine.
    """
    if not uses_fp32_matmul(dtype):
        yield
        return
    before = _widens.set(mode := _Widened())
    try:
        with mode:
            yield
    finally:
        _widens.reset(before)


def uses_fp32_matmul(dtype: Dtype) -> bool:
    """Whether the fastest way for such numbers is that of single precision."""
    return dtype == "bfloat16" and float32_is_faster()


def keep_fp32_copies(model: nn.Module, room: int = WIDE_BYTES) -> None:
    """Keep copies of all weights in single precision inside `bf16_matmul_in_fp32`, if `room` bytes
    hold them.
    """
    mode, weights = _widens.get(), list(model.parameters())
    if (
        mode is not None
        and sum(weight.numel() for weight in weights) * torch.float32.itemsize <= room
    ):
        for weight in weights:
            if weight.dim() == 2 and weight.device.type == "cpu":
                mode.copies[weight] = weight.detach().float()


@contextmanager
def use_fp32_copies_for_small_batches() -> Iterator[None]:
    """Inside, copies serve few inputs as well. Not for answers, which are to be those of a streamed
    model.
    """
    mode = _widens.get() or _Widened()
    before, mode.fewest = mode.fewest, _ROWS_BY_COPY
    try:
        yield
    finally:
        mode.fewest = before


def current_matmul_mode() -> AbstractContextManager[object]:
    """The mode of now, to be entered again: torch leaves it in backward passes and recomputed
    blocks.
    """
    return _widens.get() or nullcontext()


@contextmanager
def torch_threads(n: int | None = None) -> Iterator[None]:
    """Inside, torch uses this number of threads, where one is given; afterwards the number it had
    before.
    """
    before = torch.get_num_threads()
    try:
        if n is not None:
            torch.set_num_threads(n)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def default_torch_modes(device: torch.device) -> Iterator[None]:
    """As torch computes by default, whatever modes the caller is in: inference, autocast, another
    default type.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            yield
    finally:
        torch.set_default_dtype(before)


@cache
def float32_is_faster() -> bool:
    """Whether this machine's products in single precision are clearly faster than in bfloat16;
    measured once.

    CPU time of one thread, the best of some: a run that resumes beside other work must find the
    same.
    """
    factor = torch.rand(_TRIAL, generator=torch.Generator().manual_seed(0))
    with torch_threads(1):
        taken = [(_seconds(factor), _seconds(factor.bfloat16())) for _ in range(_TRIALS)]
    single, half = (min(own) for own in zip(*taken, strict=True))
    return bool(_FASTER * single < half)


@torch.inference_mode()
def _seconds(factor: Tensor) -> float:
    """Of the product with itself."""
    begun = time.thread_time()
    nn.functional.linear(factor, factor)
    return time.thread_time() - begun


class _Widened(TorchFunctionMode):
    """Multiplies linear layers in single precision, where weights are bfloat16.

    copies: weights in single precision, as they are stored. fewest: inputs from which on it is
    done.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies, self.fewest = WeakIdKeyDictionary(), _ROWS

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is nn.functional.linear and not kwargs:
            inputs, stored, bias = *args[:2], args[2] if len(args) > 2 else None
            weight = stored
        elif func is torch.addmm and not kwargs:
            bias, inputs, stored = args
            weight = stored.t()
        else:
            return func(*args, **(kwargs or {}))
        n_rows = inputs.numel() // max(1, inputs.shape[-1])
        plain = weight.dtype == inputs.dtype == torch.bfloat16 and weight.device.type == "cpu"
        if n_rows < self.fewest or not plain:
            return func(*args)
        copy = None if inputs.requires_grad or weight.requires_grad else self.copies.get(stored)  # type: ignore[no-untyped-call]
        if copy is not None:
            return _product(inputs, weight, bias, copy if weight is stored else copy.t())
        if n_rows < _ROWS:
            return func(*args)
        return _Product.apply(inputs, weight, bias)  # type: ignore[no-untyped-call]


_widens: ContextVar[_Widened | None] = ContextVar("widens", default=None)
"""The mode inside `bf16_matmul_in_fp32`, where it makes a difference."""


class _Product(torch.autograd.Function):
    """inputs (..., n), weight (m, n), bias (m,) or none: (..., m)."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(weight, inputs if weight.requires_grad else None)
        return _product(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight, inputs), (of_inputs, of_weight, of_bias) = ctx.saved_tensors, ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1]).float()
        found = _product(gradient, weight.t(), None) if of_inputs else None
        learned = rows.t() @ inputs.reshape(len(rows), -1).float() if of_weight else None
        return (
            found,
            None if learned is None else learned.to(weight.dtype),
            rows.sum(dim=0).to(weight.dtype) if of_bias else None,
        )


def _product(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, copy: Tensor | None = None
) -> Tensor:
    """inputs (..., n) times the transpose of weight (m, n), plus bias (m,), piece by piece of the
    outputs.

    copy: the weight in single precision, where it is there already. The sums are the same.
    """
    rows = inputs.reshape(-1, inputs.shape[-1]).float()
    outputs = inputs.new_empty(len(rows), len(weight))
    n_at_once = min(len(weight), max(1, _PIECE // weight.shape[1]))
    wide = rows.new_empty(n_at_once if copy is None else 0, weight.shape[1])
    for start in range(0, len(weight), n_at_once):
        own = slice(start, start + n_at_once)
        piece = wide[: len(weight[own])].copy_(weight[own]) if copy is None else copy[own]
        product = rows @ piece.t()
        outputs[:, own] = product if bias is None else product.add_(bias[own])
    return outputs.reshape(*inputs.shape[:-1], len(weight))
