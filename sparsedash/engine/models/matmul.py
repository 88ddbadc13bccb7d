"""Bfloat16 matrix products computed in float32, on processors where that is faster.

Not every processor has bfloat16 units, and some that have them are slower with them. Either way a
product is summed in float32 and rounded once at its end: only the order of the sum differs.
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

MIN_ROWS = 192
"""Input rows from which converting a weight for them pays."""

MIN_ROWS_WITH_COPY = 32
"""The same where a float32 copy exists, which has twice the bytes to read."""

_CHUNK = 2**22
"""Weight values converted at a time: a large weight as a whole would take as much memory twice."""

_MIN_SPEEDUP = 1.3
"""How many times as fast float32 must be, so that noise does not decide otherwise next time."""


@contextmanager
def bf16_matmul_in_fp32(dtype: Dtype) -> Iterator[None]:
    """Inside, linear layers with weights of this type multiply in the fastest way here."""
    if not uses_fp32_matmul(dtype):
        yield
        return
    mode = _Fp32Matmul()
    token = _active.set(mode)
    try:
        with mode:
            yield
    finally:
        _active.reset(token)


def uses_fp32_matmul(dtype: Dtype) -> bool:
    """True if products of this type are faster in float32."""
    return dtype == "bfloat16" and float32_is_faster()


def keep_fp32_copies(model: nn.Module, room: int = WIDE_BYTES) -> None:
    """Copy all weights to float32 for `bf16_matmul_in_fp32`, if `room` bytes hold them."""
    mode = _active.get()
    weights = list(model.parameters())
    n_bytes = sum(weight.numel() for weight in weights) * torch.float32.itemsize
    if mode is None or n_bytes > room:
        return
    for weight in weights:
        if weight.dim() == 2 and weight.device.type == "cpu":
            mode.copies[weight] = weight.detach().float()


@contextmanager
def use_fp32_copies_for_small_batches() -> Iterator[None]:
    """Inside, copies serve fewer rows. Not for answers, which must equal a streamed model's."""
    mode = _active.get()
    if mode is None:
        yield
        return
    before = mode.min_rows
    mode.min_rows = MIN_ROWS_WITH_COPY
    try:
        yield
    finally:
        mode.min_rows = before


def current_matmul_mode() -> AbstractContextManager[object]:
    """The mode to enter again in a backward pass or a recomputed block, where torch leaves it."""
    return _active.get() or nullcontext()


@contextmanager
def torch_threads(n: int | None) -> Iterator[None]:
    """Inside, torch uses this number of threads; None: as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def default_torch_modes(device: torch.device) -> Iterator[None]:
    """Torch's defaults for inference mode, gradients, autocast and default type."""
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
    """True if float32 products are clearly faster here than bfloat16 ones; measured once.

    CPU time of one thread, the best of nine: a run that resumes beside other work must find the
    same.
    """
    factor = torch.rand(512, 512, generator=torch.Generator().manual_seed(0))
    with torch_threads(1):
        trials = [(_seconds(factor), _seconds(factor.bfloat16())) for _ in range(9)]
    float32_s = min(seconds for seconds, _ in trials)
    bfloat16_s = min(seconds for _, seconds in trials)
    return _MIN_SPEEDUP * float32_s < bfloat16_s


@torch.inference_mode()
def _seconds(factor: Tensor) -> float:
    start = time.thread_time()
    nn.functional.linear(factor, factor)
    return time.thread_time() - start


class _Fp32Matmul(TorchFunctionMode):
    """Computes linear layers with bfloat16 weights in float32, from min_rows input rows on.

    copies: float32 weights by the weight as it is stored.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies = WeakIdKeyDictionary()
        self.min_rows = MIN_ROWS

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is nn.functional.linear and not kwargs:
            inputs, stored, *biases = args
            bias = biases[0] if biases else None
            weight = stored
        elif func is torch.addmm and not kwargs:
            # GPT-2's Conv1D.
            bias, inputs, stored = args
            weight = stored.t()
        else:
            return func(*args, **(kwargs or {}))
        n_rows = inputs.numel() // max(1, inputs.shape[-1])
        in_bfloat16 = weight.dtype == inputs.dtype == torch.bfloat16
        if n_rows < self.min_rows or not in_bfloat16 or weight.device.type != "cpu":
            return func(*args)
        learns = inputs.requires_grad or weight.requires_grad
        copy = None if learns else self.copies.get(stored)  # type: ignore[no-untyped-call]
        if copy is not None:
            return _linear(
                inputs,
                weight,
                bias,
                copy if weight is stored else copy.t(),
            )
        if n_rows < MIN_ROWS:
            return func(*args)
        return _Linear.apply(inputs, weight, bias)  # type: ignore[no-untyped-call]


_active: ContextVar[_Fp32Matmul | None] = ContextVar("fp32 matmul", default=None)
"""The mode inside `bf16_matmul_in_fp32`, where it makes a difference."""


class _Linear(torch.autograd.Function):
    """inputs (..., n), weight (m, n), bias (m,) or None: (..., m)."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        ctx.save_for_backward(weight, inputs if weight.requires_grad else None)
        return _linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, inputs = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1]).float()
        gradients: list[Tensor | None] = [None, None, None]
        if ctx.needs_input_grad[0]:
            gradients[0] = _linear(gradient, weight.t(), None)
        if ctx.needs_input_grad[1]:
            gradients[1] = (rows.t() @ inputs.reshape(len(rows), -1).float()).to(
                weight.dtype
            )
        if ctx.needs_input_grad[2]:
            gradients[2] = rows.sum(dim=0).to(weight.dtype)
        return tuple(gradients)


def _linear(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, copy: Tensor | None = None
) -> Tensor:
    """inputs (..., n) @ weight (m, n)^T + bias (m,), in chunks of the outputs.

    copy: the weight in float32, if there is one. The sums are the same.
    """
    rows = inputs.reshape(-1, inputs.shape[-1]).float()
    outputs = inputs.new_empty(len(rows), len(weight))
    chunk = min(len(weight), max(1, _CHUNK // weight.shape[1]))
    buffer = rows.new_empty(chunk if copy is None else 0, weight.shape[1])
    for start in range(0, len(weight), chunk):
        columns = slice(start, start + chunk)
        part = (
            buffer[: len(weight[columns])].copy_(weight[columns])
            if copy is None
            else copy[columns]
        )
        product = rows @ part.t()
        outputs[:, columns] = product if bias is None else product.add_(bias[columns])
    return outputs.reshape(*inputs.shape[:-1], len(weight))
