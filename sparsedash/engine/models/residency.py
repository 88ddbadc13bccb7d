"""Placement of a model's weights while it runs: all in memory, or streamed from files block by block.

Streamed weights are views of mapped safetensors files: the system reads what is touched, and is
advised at every block to read the next one ahead and to drop the one before. Numbers are the same,
to the bit.
"""

import ctypes
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from sparsedash.schema.errors import ModelError
from sparsedash.storage.local_machine import (
    WORTH_RETURNING_BYTES,
    free_in_words,
    freed_bytes,
    give_back_freed,
    mapped_files,
    mode_in,
)

Change = Callable[[], AbstractContextManager[None]]
"""Makes the context inside which one block has other weights."""


class Resident:
    """All weights are in memory."""

    streamed = False

    def drop(self) -> None:
        """Return freed memory to the system, if it is much: the next step would ask for it again."""
        if freed_bytes() > WORTH_RETURNING_BYTES:
            give_back_freed()

    def offload(self, tensor: Tensor) -> Tensor:
        """The tensor, where there is room for as many numbers as the model has."""
        return tensor

    def offload_all(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """As `offload`, for tensors of one type that are needed equally long."""
        return list(tensors)

    @contextmanager
    def changed(self, changes: Sequence[Change]) -> Iterator[None]:
        """Inside, every block has the weights of its change. changes: one a block."""
        with ExitStack() as stack:
            for change in changes:
                stack.enter_context(change())
            yield


class Streamed:
    """Weights stay in their files, offloaded tensors in unnamed ones.

    Only the running block is changed.
    """

    streamed = True

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[nn.Module],
        scratch: Path,
    ) -> None:
        """scratch: folder for offloaded tensors. Weights that are no views of a file go there."""
        self._scratch = scratch
        self._offloaded: list[tuple[StorageWeakRef, int, int]] = []
        self._weights: list[Tensor] = []
        self._changes: Sequence[Change] = ()
        self._last: int | None = None
        self._running: int | None = None
        self._change = ExitStack()
        files = mapped_files()
        for parameter in model.parameters():
            storage = parameter.untyped_storage()
            start = storage.data_ptr()
            end = start + storage.nbytes()
            if not any(first <= start and end <= last for first, last in files):
                # What a family's code computes while reading; all, where mappings are not listed.
                parameter.data = self.offload(parameter.data)
        # The dense weights, which outlive every change.
        self._weights = list(model.parameters())
        self._blocks = [list(block.parameters()) for block in blocks]
        for index, block in enumerate(blocks):
            # No hook: a hook would also run where a stub replaces the block's forward.
            block.forward = self._streaming(index, block.forward)

    def _streaming(
        self,
        index: int,
        forward: Callable[..., Any],
    ) -> Callable[..., Any]:
        @wraps(forward)
        def streaming(*args: Any, **kwargs: Any) -> Any:
            if index != self._running:
                self._enter(index)
            return forward(*args, **kwargs)

        return streaming

    def _enter(self, index: int) -> None:
        """Bring a block in, with its change, in place of the last one."""
        self._leave()
        if index != self._last:
            self.drop()
        if self._changes:
            self._change.enter_context(self._changes[index]())
        self._last = self._running = index
        if index + 1 < len(self._blocks):
            for parameter in self._blocks[index + 1]:
                _advise(parameter.data_ptr(), parameter.nbytes, _WILL_NEED)

    def _leave(self) -> None:
        self._change.close()
        self._running = None

    def drop(self) -> None:
        """Drop the pages of everything that was read; touching them reads them again."""
        self._drop_pages()
        give_back_freed()

    def offload(self, tensor: Tensor) -> Tensor:
        """The same numbers in an unnamed file, deleted with the last view.

        Raises ModelError if the disk is full.
        """
        if not tensor.numel():
            return tensor
        tensor = tensor.detach().cpu()
        try:
            storage = _new_mapping(self._scratch, tensor.nbytes)
        except OSError as error:
            reason = f"{error.strerror}. {free_in_words(error, self._scratch)}".strip()
            message = (
                f"Data that does not fit into memory could not be written: {reason}"
            )
            raise ModelError(message, "Free some space.") from error
        mapped: Tensor = torch.empty(0, dtype=tensor.dtype).set_(
            storage,
            0,
            tensor.shape,
        )  # type: ignore[call-overload]
        mapped.copy_(tensor)
        reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        self._offloaded.append((reference, storage.data_ptr(), storage.nbytes()))
        self._drop_pages()
        return mapped

    def offload_all(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """As `offload`, in one file."""
        mapped = self.offload(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        parts = torch.split(mapped, [tensor.numel() for tensor in tensors])
        return [
            part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)
        ]

    @contextmanager
    def changed(self, changes: Sequence[Change]) -> Iterator[None]:
        """As Resident's; a block that does not run has its dense weights."""
        self._leave()
        self._changes = changes
        try:
            yield
        finally:
            self._leave()
            self._changes = ()

    def _drop_pages(self) -> None:
        for parameter in self._weights:
            _advise(parameter.data_ptr(), parameter.nbytes, _DONT_NEED)
        # Other memory may be mapped by now where a tensor was.
        self._offloaded = [entry for entry in self._offloaded if not entry[0].expired()]  # type: ignore[no-untyped-call]
        for _, address, n_bytes in self._offloaded:
            _advise(address, n_bytes, _DONT_NEED)


WeightResidency = Resident | Streamed


def _new_mapping(folder: Path, n_bytes: int) -> torch.UntypedStorage:
    """A mapped unnamed file in this folder; Python's mmap would keep thousands of files open."""
    folder.mkdir(mode=mode_in(folder.parent, 0o700), exist_ok=True)
    with NamedTemporaryFile(dir=folder, delete=False) as file:
        try:
            os.truncate(file.fileno(), n_bytes)
            storage = torch.UntypedStorage.from_file(
                file.name,
                shared=True,
                nbytes=n_bytes,
            )
        finally:
            # Unnamed from here on: a kill leaves nothing.
            Path(file.name).unlink()
        assert isinstance(storage, torch.UntypedStorage)
        # A full disk must show now: a mapped page that cannot be written ends the process.
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        return storage


_DONT_NEED: int | None = getattr(mmap, "MADV_DONTNEED", None)
_WILL_NEED: int | None = getattr(mmap, "MADV_WILLNEED", None)
_madvise = ctypes.CDLL(None, use_errno=True).madvise if _DONT_NEED is not None else None


def _advise(
    address: int,
    n_bytes: int,
    advice: int | None,
) -> None:
    """Advise the system on the pages of these bytes of a mapped file."""
    if _madvise is None or advice is None:
        return
    start = address - address % mmap.PAGESIZE
    n_bytes += address - start
    _madvise(ctypes.c_void_p(start), ctypes.c_size_t(n_bytes), ctypes.c_int(advice))
