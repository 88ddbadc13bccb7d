"""Products of bfloat16 numbers on processors that multiply single precision faster.

Not every processor has units for bfloat16, and some that have them are slower with them. Either way a product is summed
in single precision and rounded once at its end, so the numbers differ by the order of the sum alone.
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

from sparsedash.schema.settings import Dtype

_ROWS = 192
"""Inputs from which on it pays to widen a weight for them."""

_PIECE = 2**22
"""Values of a weight that are widened at once: all of a large one would take as much memory again, twice."""

_FASTER = 1.3
"""So much faster must single precision be, that a noisy measurement does not decide otherwise the next time."""

_TRIAL, _TRIALS = (256, 512, 512), 9

_switch: Any = getattr(torch.backends.mkldnn, "matmul", None)
"""Says by which units a product in single precision is made; an older torch cannot be told."""

_widens: ContextVar[bool] = ContextVar("widens", default=False)
"""Whether what runs now is inside `fastest_products`, and that makes a difference."""


@contextmanager
def fastest_products(dtype: Dtype) -> Iterator[None]:
    """Inside, linear layers with weights of this type multiply in the way that is fastest on this machine."""
    if not are_widened(dtype):
        yield
        return
    before = _widens.set(True)
    try:
        with _Widened():
            yield
    finally:
        _widens.reset(before)


def are_widened(dtype: Dtype) -> bool:
    """Whether the fastest way for such numbers is that of single precision."""
    return dtype == "bfloat16" and float32_is_faster()


def same_products() -> AbstractContextManager[object]:
    """To be entered where what holds now is lost: torch goes the way back, and blocks again, without such modes."""
    return _Widened() if _widens.get() else nullcontext()


@contextmanager
def bfloat16_units() -> Iterator[None]:
    """Inside, products in single precision go through the processor's units for bfloat16, where that is faster.

    For factors whose numbers are bfloat16 ones: any other would be rounded to them. What is summed stays in single
    precision, which a product of bfloat16 tensors does not give on a processor.
    """
    if not units_are_faster():
        yield
        return
    with _units():
        yield


@contextmanager
def torch_threads(n: int | None = None) -> Iterator[None]:
    """Inside, torch works with so many threads, where a number is given; afterwards with as many as before."""
    before = torch.get_num_threads()
    try:
        if n is not None:
            torch.set_num_threads(n)
        yield
    finally:
        torch.set_num_threads(before)


@cache
def float32_is_faster() -> bool:
    """Whether this machine's products in single precision are clearly faster than in bfloat16; measured once.

    By the processor's time of one thread, the best of some: a run that goes on in another process, beside other work,
    must find the same.
    """
    left, right = torch.rand(_TRIAL[0], _TRIAL[1]), torch.rand(_TRIAL[2], _TRIAL[1])
    pairs = (left, right), (left.bfloat16(), right.bfloat16())
    with torch_threads(1):
        taken: list[list[float]] = [[_seconds(*pair) for pair in pairs] for _ in range(_TRIALS)]
    single, half = (min(own) for own in zip(*taken, strict=True))
    return bool(_FASTER * single < half)


@cache
def units_are_faster() -> bool:
    """Whether units for bfloat16 make a product in single precision clearly faster; measured as above."""
    if _switch is None:
        return False
    factor = torch.rand(_TRIAL[2], _TRIAL[1]).bfloat16().float()
    with torch_threads(1):
        taken = []
        for _ in range(_TRIALS):
            plain = _seconds(factor, factor)
            with _units():
                taken.append((plain, _seconds(factor, factor)))
    plain, by_units = (min(own) for own in zip(*taken, strict=True))
    return bool(_FASTER * by_units < plain)


@contextmanager
def _units() -> Iterator[None]:
    # Of the whole process: what runs in other threads meanwhile is rounded as well.
    before, _switch.fp32_precision = _switch.fp32_precision, "bf16"
    try:
        yield
    finally:
        _switch.fp32_precision = before


@torch.inference_mode()
def _seconds(left: Tensor, right: Tensor) -> float:
    begun = time.thread_time()
    nn.functional.linear(left, right)
    return time.thread_time() - begun


class _Widened(TorchFunctionMode):
    """Lets linear layers multiply in single precision, where weights are bfloat16 ones that need no gradient."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is nn.functional.linear and not kwargs and _is_worth_it(*args[:2]):
            return _Product.apply(*args)  # type: ignore[no-untyped-call]
        if func is torch.addmm and not kwargs and _is_worth_it(args[1], args[2].t()):
            return _Product.apply(args[1], args[2].t(), args[0])  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def _is_worth_it(inputs: Tensor, weight: Tensor) -> bool:
    return (
        weight.dtype == inputs.dtype == torch.bfloat16
        and weight.device.type == "cpu"
        and not weight.requires_grad
        and inputs.numel() >= _ROWS * inputs.shape[-1]
    )


class _Product(torch.autograd.Function):
    """inputs (..., n), weight (m, n), bias (m,) or none: (..., m). The gradient is that of the inputs alone."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(gradient, weight.t(), None), None, None


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """inputs (..., n) times the transpose of weight (m, n), plus bias (m,), piece by piece of the outputs."""
    rows = inputs.reshape(-1, inputs.shape[-1]).float()
    outputs = inputs.new_empty(len(rows), len(weight))
    n_at_once = min(len(weight), max(1, _PIECE // weight.shape[1]))
    wide = rows.new_empty(n_at_once, weight.shape[1])
    for start in range(0, len(weight), n_at_once):
        own = slice(start, start + n_at_once)
        piece = weight[own]
        product = rows @ wide[: len(piece)].copy_(piece).t()
        outputs[:, own] = product if bias is None else product.add_(bias[own])
    return outputs.reshape(*inputs.shape[:-1], len(weight))
