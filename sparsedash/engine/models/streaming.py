"""Reads a model without bringing its weights into memory: they stay in safetensors files, in the type it runs in."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsedash.engine.models.checkpoint import UNREADABLE, first_line, refuse_no_numbers, weight_files
from sparsedash.engine.models.loading import LoadedModel, Source, read_whole
from sparsedash.engine.models.residency import Streamed
from sparsedash.engine.models.unpacking import unpacked
from sparsedash.schema import notes
from sparsedash.schema.errors import ModelError
from sparsedash.schema.hashing import digest
from sparsedash.schema.settings import Dtype
from sparsedash.storage.store import Store

SCRATCH = "scratch"
"""Folder of the data folder for weights that are put aside. What is there has no name: it goes with its process."""

_SHARD_BYTES = 2**30
_NOT_COPIED = (".safetensors", ".bin", ".index.json")


def stream(source: Source, dtype: Dtype, store: Store) -> LoadedModel:
    """The dense model with its weights in their files; see `residency`. It runs on the processor.

    Where the files hold another type, a copy in this one is made in the data folder, once. Raises ModelError.
    """
    in_dtype = replace(source, folder=_folder_in(source, dtype, store))
    loaded = read_whole(in_dtype, dtype)
    residency = Streamed(loaded.model, loaded.blocks, store.folder / SCRATCH)
    finite = notes.finite(_as_they_are(weight_files(in_dtype.folder, source.reference)), dtype)
    if store.recall(finite) is None:
        # All of them are read for it: once, while the files stay as they are.
        refuse_no_numbers(source.reference, loaded.model, residency.drop)
        store.remember(finite, "")
    return replace(loaded, residency=residency)


def _folder_in(source: Source, dtype: Dtype, store: Store) -> Path:
    wanted, files = getattr(torch, dtype), weight_files(source.folder, source.reference)
    if all(file.suffix == ".safetensors" and _is_in(file, wanted) for file in files):
        return source.folder
    name = f"{digest(source.identity)[:16]}-{dtype}"
    return unpacked(name, partial(_recast, source, files, wanted), store)


def _as_they_are(files: list[Path]) -> str:
    """What tells these files from others, and from themselves after a change, without reading them."""
    seen = [(str(file.resolve()), file.stat()) for file in sorted(files)]
    return digest([(path, stat.st_size, stat.st_mtime_ns) for path, stat in seen])


def _is_in(file: Path, dtype: torch.dtype) -> bool:
    return all(tensor.dtype == dtype for _, tensor in _tensors(file) if tensor.is_floating_point())


def _recast(source: Source, files: list[Path], dtype: torch.dtype, folder: Path) -> None:
    """Write the weights in this type into the folder, a gigabyte at a time, and copy all other files."""
    held: dict[str, Tensor] = {}
    shards: dict[str, str] = {}

    def write() -> None:
        name = f"model-{len(set(shards.values())) + 1:05}.safetensors"
        save_file(held, folder / name, metadata={"format": "pt"})
        shards.update(dict.fromkeys(held, name))
        held.clear()

    try:
        for file in files:
            for name, tensor in _tensors(file):
                held[name] = tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True).contiguous()
                if sum(own.nbytes for own in held.values()) >= _SHARD_BYTES:
                    write()
        if held:
            write()
        index = {"metadata": {}, "weight_map": shards}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        for file in source.folder.iterdir():
            if file.is_file() and not file.name.endswith(_NOT_COPIED):
                shutil.copyfile(file, folder / file.name)
    except (OSError, SafetensorError) as error:
        reason = f"{source.reference} could not be written in {dtype}: {first_line(error)}."
        raise ModelError(reason, "See whether the disk is full.") from error


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file by name, each read when it is touched. Raises ModelError for a file that is damaged."""
    try:
        if file.suffix == ".bin":
            weights: dict[str, Any] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
            yield from weights.items()
            return
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dict
                yield name, opened.get_tensor(name)
    except UNREADABLE as error:
        raise ModelError(f"{file.name} could not be read: {first_line(error)}", "Fetch the model again.") from error
