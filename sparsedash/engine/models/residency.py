"""Residency of a model's weights while it runs: all in memory, or streamed from their files block by block.

Little else in the engine asks which it is. Streamed weights are views of mapped safetensors files: the system reads
what is touched, and is told at every block that the next one comes soon and that the one before is not needed any more.
Numbers are the same, to the bit.
"""

import ctypes
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from sparsedash.schema.errors import ModelError
from sparsedash.storage.local_machine import MUCH, free_in_words, freed_bytes, give_back_freed, mapped_files, mode_in

Change = Callable[[], AbstractContextManager[None]]
"""Gives the `with` inside which one block has other weights."""


class Resident:
    """All weights are in memory."""

    streamed = False

    def drop(self) -> None:
        """Give back freed memory where it is much; the next step would only ask for a little again."""
        if freed_bytes() > MUCH:
            give_back_freed()

    def hold(self, tensor: Tensor) -> Tensor:
        """The tensor, kept where there is room for as many numbers as the model has."""
        return tensor

    def hold_all(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """As `hold`, for tensors of one type that are needed equally long."""
        return list(tensors)

    @contextmanager
    def changed(self, changes: Sequence[Change]) -> Iterator[None]:
        """Inside, every block has the weights of its change. changes: one for each block."""
        with ExitStack() as all_blocks:
            for change in changes:
                all_blocks.enter_context(change())
            yield


class Streamed:
    """Weights stay in their files, and so do held numbers, in nameless files.

    A block is changed when it is about to run, and changed back when another one is.
    """

    streamed = True

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], scratch: Path) -> None:
        """scratch: folder for held numbers. Weights that are no views of a file are moved there."""
        self._scratch, self._blocks = scratch, list(blocks)
        self._held: WeakSet[mmap.mmap] = WeakSet()
        self._weights: list[Tensor] = []
        self._changes: Sequence[Change] = ()
        self._there: nn.Module | None = None
        self._inside: nn.Module | None = None
        self._current = ExitStack()
        files = mapped_files()
        for parameter in model.parameters():
            storage = parameter.untyped_storage()
            begin, end = storage.data_ptr(), storage.data_ptr() + storage.nbytes()
            if not any(first <= begin and end <= last for first, last in files):
                # Few, if any: what a family's code computes from what it reads; all, where no system tells.
                parameter.data = self.hold(parameter.data)
        # The dense weights, which outlive every change.
        self._weights = list(model.parameters())
        self._dense = [list(block.parameters()) for block in blocks]
        for index, block in enumerate(blocks):
            # No hook: one would be called as well where something else stands in for the block's forward.
            block.forward = self._entering(index, block)

    def _entering(self, index: int, block: nn.Module) -> Callable[..., Any]:
        forward = block.forward

        @wraps(forward)
        def entering(*args: Any, **kwargs: Any) -> Any:
            if block is not self._inside:
                self._enter(index)
            return forward(*args, **kwargs)

        return entering

    def _enter(self, index: int) -> None:
        """Bring a block in, with its change, in the place of the one that ran last.

        Several models may run it one after another: what was read of it stays there for all of them.
        """
        self._leave()
        block = self._blocks[index]
        if block is not self._there:
            self.drop()
        if self._changes:
            self._current.enter_context(self._changes[index]())
        self._there = self._inside = block
        for parameter in self._dense[index + 1] if index + 1 < len(self._dense) else ():
            _advise(parameter, _NEEDED_SOON)

    def drop(self) -> None:
        """Give back the memory of everything that was read; it is read again when it is touched."""
        self._let_go()
        give_back_freed()

    def hold(self, tensor: Tensor) -> Tensor:
        """The same numbers in a file of their own, which is gone when nothing uses them.

        Raises ModelError when the disk is full.
        """
        if not tensor.numel():
            return tensor
        tensor = tensor.detach().cpu()
        try:
            mapped = _new_mapping(self._scratch, tensor.nbytes)
        except OSError as error:
            raise ModelError(
                f"What does not fit into memory could not be put aside: {error.strerror}. "
                f"{free_in_words(error, self._scratch)}".strip(),
                "Free some space.",
            ) from error
        held = torch.frombuffer(mapped, dtype=tensor.dtype).view(tensor.shape).copy_(tensor)
        self._held.add(mapped)
        self._let_go()
        return held

    def hold_all(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """As `hold`, in one file."""
        held = self.hold(torch.cat([tensor.reshape(-1) for tensor in tensors]))
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
            _advise(parameter, _NOT_NEEDED)
        if _NOT_NEEDED is not None:
            for mapped in self._held:
                mapped.madvise(_NOT_NEEDED)


WeightResidency = Resident | Streamed


def _new_mapping(folder: Path, n_bytes: int) -> mmap.mmap:
    """Memory that is a new file without a name in this folder."""
    folder.mkdir(mode=mode_in(folder.parent, 0o700), exist_ok=True)
    with TemporaryFile(dir=folder) as file:
        # A full disk must show now: when a mapped page cannot be written, the process ends.
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        else:
            os.truncate(file.fileno(), n_bytes)
        return mmap.mmap(file.fileno(), n_bytes)


_NOT_NEEDED: int | None = getattr(mmap, "MADV_DONTNEED", None)
_NEEDED_SOON: int | None = getattr(mmap, "MADV_WILLNEED", None)
_madvise = ctypes.CDLL(None, use_errno=True).madvise if _NOT_NEEDED is not None else None


def _advise(weight: Tensor, advice: int | None) -> None:
    """Advise the system on all pages of a weight in a mapped file: to drop them, or to read them meanwhile."""
    if _madvise is not None and advice is not None:
        begin = weight.data_ptr() - weight.data_ptr() % mmap.PAGESIZE
        end = weight.data_ptr() + weight.nbytes
        _madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), ctypes.c_int(advice))
