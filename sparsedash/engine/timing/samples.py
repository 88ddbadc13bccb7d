"""One sample of each kind of work: reading passages, writing tokens after them, bringing weights into memory."""

import copy
import gc
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from sparsedash.engine.timing.contenders import Contender
from sparsedash.engine.timing.rounds import Sample

_STATM = Path("/proc/self/statm")

Pair = tuple[Contender, Contender]
"""The dense model and the sparse one."""


def prefill_sample(model: Any, pair: Pair, ids: Tensor) -> Sample:
    """Reads these passages (batch, tokens) and answers at the last token of each."""

    def sample(is_dense: bool) -> float:
        _chosen(pair, is_dense).enter_()
        return _seconds(lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1), ids.device)

    return sample


def decode_sample(model: Any, pair: Pair, ids: Tensor, n_tokens: int) -> Sample:
    """Writes so many tokens after these passages (batch, tokens), the same ones whatever the model would write.

    The passages are read once by either model; each sample writes on from a copy of what it kept of them, and the copy
    is not timed.
    """
    kept: dict[bool, Any] = {}
    written = ids[:, -1:]

    def sample(is_dense: bool) -> float:
        _chosen(pair, is_dense).enter_()
        if is_dense not in kept:
            kept[is_dense] = model(input_ids=ids, use_cache=True, logits_to_keep=1).cache
        cache = copy.deepcopy(kept[is_dense])

        def write() -> None:
            for _ in range(n_tokens):
                model(input_ids=written, cache=cache, use_cache=True, logits_to_keep=1)

        return _seconds(write, ids.device)

    return sample


@dataclass(frozen=True, eq=False, kw_only=True)
class Loading:
    """sample: the time of bringing one model's weights into memory. resident: bytes that this takes of it, measured; 0
    where the system does not tell.
    """

    sample: Sample
    resident: Callable[[bool], int]


@contextmanager
def load_sample(pair: Pair, folder: Path) -> Iterator[Loading]:
    """Inside, brings all weights of one model from a file into memory, and onto the GPU where they are there.

    The files have no name, so that nothing of them stays whatever happens to this process. They were written just now:
    what is timed is reading from the system's cache, not from the disk.
    """
    with ExitStack() as opened:
        files = [opened.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in pair]
        for contender, file in zip(pair, files, strict=True):
            for weight in contender.weights:
                file.write(_bytes_of(weight.detach().cpu()))

        def sample(is_dense: bool) -> float:
            contender, file = _chosen(pair, is_dense), files[0 if is_dense else 1]
            return _seconds(lambda: _read(contender, file), contender.weights[0].device)

        def resident(is_dense: bool) -> int:
            contender, file = _chosen(pair, is_dense), files[0 if is_dense else 1]
            device = contender.weights[0].device
            gc.collect()
            before = _in_use(device)
            held = _read(contender, file)
            return max(0, _in_use(held.device) - before)

        yield Loading(sample=sample, resident=resident)


def _in_use(device: torch.device) -> int:
    """Bytes of the GPU that tensors take, or of memory that this process takes; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def _read(contender: Contender, file: BinaryIO) -> Tensor:
    """All weights in one piece: many small ones would be given new memory or old as the allocator pleases."""
    file.seek(0)
    place = torch.empty(sum(weight.nbytes for weight in contender.weights), dtype=torch.uint8)
    file.readinto(_bytes_of(place))  # type: ignore[attr-defined]
    return place.to(contender.weights[0].device)


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _chosen(pair: Pair, is_dense: bool) -> Contender:
    dense, sparse = pair
    return dense if is_dense else sparse


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that the work takes, to the end of what it left on the GPU; without pauses to collect garbage."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        _finish(device)
        started = time.perf_counter()
        result = work()
        _finish(device)
        seconds = time.perf_counter() - started
    finally:
        if collecting:
            gc.enable()
    del result
    return seconds


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
