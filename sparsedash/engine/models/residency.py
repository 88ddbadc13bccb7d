"""Residency of a model's weights while it runs: all in memory, or streamed from their files block
by block.

Streamed weights are views of mapped safetensors files: the system reads what is touched, and is
told at every block that the next one comes soon and the one before is not needed any more. Numbers
are the same, to the bit.
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
    MUCH,
    free_in_words,
    freed_bytes,
    give_back_freed,
    mapped_files,
    mode_in,
)

Change = Callable[[], AbstractContextManager[None]]
"""Gives the `with` inside which one block has other weights."""


class Resident:
    """All weights are in memory."""

    streamed = False

    def drop(self) -> None:
        """Give back freed memory where it is much; the next step would only ask for a little
        again.
        """
        if freed_bytes() > MUCH:
            give_back_freed()

    def offload(self, tensor: Tensor) -> Tensor:
        """The tensor, kept where there is room for as many numbers as the model has."""
        return tensor

    def offload_all(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """As `offload`, for tensors of one type that are needed equally long."""
        return list(tensors)

    @contextmanager
    def changed(self, changes: Sequence[Change]) -> Iterator[None]:
        """Inside, every block has the weights of its change. changes: one for each block."""
        with ExitStack() as all_blocks:
            for change in changes:
                all_blocks.enter_context(change())
            yield


class Streamed:
    """Weights stay in their files, and held numbers in nameless files. Only the block that runs is
    changed.
    """

    streamed = True

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], scratch: Path) -> None:
        """scratch: folder for held numbers. Weights that are no views of a file are moved there."""
        self._scratch = scratch
        self._held: list[tuple[StorageWeakRef, int, int]] = []
        self._weights: list[Tensor] = []
        self._changes: Sequence[Change] = ()
        self._there: int | None = None
        self._inside: int | None = None
        self._current = ExitStack()
        files = mapped_files()
        for parameter in model.parameters():
            storage = parameter.untyped_storage()
            begin, end = storage.data_ptr(), storage.data_ptr() + storage.nbytes()
            if not any(first <= begin and end <= last for first, last in files):
                # Few, if any: what a family's code computes from what it reads; all, where no
                # system tells.
                parameter.data = self.offload(parameter.data)
        # The dense weights, which outlive every change.
        self._weights = list(model.parameters())
        self._dense = [list(block.parameters()) for block in blocks]
        for index, block in enumerate(blocks):
            # No hook: one would be called as well where something else stands in for the block's
            # forward.
            block.forward = self._entering(index, block.forward)

    def _entering(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def entering(*args: Any, **kwargs: Any) -> Any:
            if index != self._inside:
                self._enter(index)
            return forward(*args, **kwargs)

        return entering

    def _enter(self, index: int) -> None:
        """Bring a block in, with its change, in place of the last one; once for all models that run
        it.
        """
        self._leave()
        if index != self._there:
            self.drop()
        if self._changes:
            self._current.enter_context(self._changes[index]())
        self._there = self._inside = index
        for parameter in self._dense[index + 1] if index + 1 < len(self._dense) else ():
            _advise(parameter.data_ptr(), parameter.nbytes, _NEEDED_SOON)

    def drop(self) -> None:
        """Give back the memory of everything that was read; it is read again when it is touched."""
        self._let_go()
        give_back_freed()

    def offload(self, tensor: Tensor) -> Tensor:
        """The same numbers in a nameless file, gone with its last use. Raises ModelError when the
        disk is full.
        """
        if not tensor.numel():
            return tensor
        tensor = tensor.detach().cpu()
        try:
            storage = _new_mapping(self._scratch, tensor.nbytes)
        except OSError as error:
            reason = f"{error.strerror}. {free_in_words(error, self._scratch)}".strip()
            message = f"Data that does not fit into memory could not be written: {reason}"
            raise ModelError(message, "Free some space.") from error
        held: Tensor = torch.empty(0, dtype=tensor.dtype).set_(storage, 0, tensor.shape)  # type: ignore[call-overload]
        held.copy_(tensor)
        known = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        self._held.append((known, storage.data_ptr(), storage.nbytes()))
        self._let_go()
        return held

    def offload_all(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """As `offload`, in one file."""
        held = self.offload(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        pieces = torch.split(held, [tensor.numel() for tensor in tensors])
        return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]

    @contextmanager
    def changed(self, changes: Sequence[Change]) -> Iterator[None]:
        """As Resident's; outside of a block's own run its weights are the dense ones."""
        self._leave()
        self._changes = changes
        try:
            yield
        finally:
            self._leave()
            self._changes = ()

    def _leave(self) -> None:
        self._current.close()
        self._inside = None

    def _let_go(self) -> None:
        """Drop the pages of all mapped files."""
        for parameter in self._weights:
            _advise(parameter.data_ptr(), parameter.nbytes, _NOT_NEEDED)
        # Where a held tensor was, other memory may lie by now.
        self._held = [each for each in self._held if not each[0].expired()]  # type: ignore[no-untyped-call]
        for _, address, n_bytes in self._held:
            _advise(address, n_bytes, _NOT_NEEDED)


WeightResidency = Resident | Streamed


def _new_mapping(folder: Path, n_bytes: int) -> torch.UntypedStorage:
    """Memory that is a new nameless file in this folder; Python's own mmap would keep thousands of
    files open.
    """
    folder.mkdir(mode=mode_in(folder.parent, 0o700), exist_ok=True)
    with NamedTemporaryFile(dir=folder, delete=False) as file:
        try:
            os.truncate(file.fileno(), n_bytes)
            mapped = torch.UntypedStorage.from_file(file.name, shared=True, nbytes=n_bytes)
        finally:
            # Nameless from here on: a kill leaves nothing.
            Path(file.name).unlink()
        assert isinstance(mapped, torch.UntypedStorage)
        # A full disk must show now: when a mapped page cannot be written, the process ends.
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        return mapped


_NOT_NEEDED: int | None = getattr(mmap, "MADV_DONTNEED", None)
_NEEDED_SOON: int | None = getattr(mmap, "MADV_WILLNEED", None)
_madvise = ctypes.CDLL(None, use_errno=True).madvise if _NOT_NEEDED is not None else None


def _advise(address: int, n_bytes: int, advice: int | None) -> None:
    """Advise the system on all pages of these bytes of a mapped file: to drop them, or to read them
    meanwhile.
    """
    if _madvise is not None and advice is not None:
        begin = address - address % mmap.PAGESIZE
        _madvise(
            ctypes.c_void_p(begin), ctypes.c_size_t(address + n_bytes - begin), ctypes.c_int(advice)
        )
