"""Loads a model streamed: its weights stay in their files and are read block by block."""

import json
import shutil
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sparsedash.engine.models.checkpoint_reading import (
    FLOAT_TYPES,
    refuse_no_numbers,
    refusing,
    stored_tensors,
    type_name,
    weight_files,
)
from sparsedash.engine.models.loading import LoadedModel, read_whole
from sparsedash.engine.models.locating import Source
from sparsedash.engine.models.model_conversion import converted_folder
from sparsedash.engine.models.residency import Streamed
from sparsedash.schema import store_keys
from sparsedash.schema.plain_values import digest
from sparsedash.schema.settings import Dtype
from sparsedash.storage.local_machine import file_stamp
from sparsedash.storage.model_folders import IDENTIFYING
from sparsedash.storage.store import Store

SCRATCH = "scratch"
"""Folder of the data folder for offloaded tensors: unnamed files, gone with their process."""

_SHARD_BYTES = 2**30


def stream_model(
    source: Source,
    dtype: Dtype,
    store: Store,
) -> LoadedModel:
    """The dense model, streamed from its files, on the CPU. Raises ModelError.

    If the files hold another type, a copy in this one is written to the data folder, once.
    """
    in_dtype = replace(source, folder=_folder_in(source, dtype, store))
    loaded = read_whole(in_dtype, dtype)
    residency = Streamed(loaded.model, loaded.blocks, store.folder / SCRATCH)
    files = weight_files(in_dtype.folder, source.reference)
    stamps = [(str(file.resolve()), file_stamp(file)) for file in files]
    note = store_keys.finite_note(digest(stamps), dtype)
    if store.recall(note) is None:
        # It reads all of them: once, while the files do not change.
        refuse_no_numbers(source.reference, loaded.model, residency.drop)
        store.remember(note, "")
    return replace(loaded, residency=residency)


def _folder_in(
    source: Source,
    dtype: Dtype,
    store: Store,
) -> Path:
    """The folder of the source, or one with a copy of its weights in this type."""
    files = weight_files(source.folder, source.reference)
    tensors = chain.from_iterable(map(stored_tensors, files))
    kinds = {type_name(tensor.dtype) for _, tensor in tensors}
    is_safe = all(file.suffix == ".safetensors" for file in files)
    if is_safe and kinds.intersection(FLOAT_TYPES) <= {dtype}:
        return source.folder
    name = f"{digest(source.identity)[:16]}-{dtype}"
    return converted_folder(
        name,
        partial(_recast, source, files, getattr(torch, dtype)),
        store,
    )


def _recast(
    source: Source,
    files: list[Path],
    dtype: torch.dtype,
    folder: Path,
) -> None:
    """Write the weights in this type, a gigabyte at a time, and copy all other files."""
    shard: dict[str, Tensor] = {}
    n_bytes = 0
    weight_map: dict[str, str] = {}
    n_shards = 0

    def write() -> None:
        nonlocal n_shards, n_bytes
        n_shards += 1
        name = f"model-{n_shards:05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
        shard.clear()
        n_bytes = 0

    with refusing(
        f"{source.reference} could not be written in {dtype}",
        "See whether the disk is full.",
    ):
        for name, tensor in chain.from_iterable(map(stored_tensors, files)):
            new_type = dtype if tensor.is_floating_point() else tensor.dtype
            shard[name] = tensor.to(new_type, copy=True).contiguous()
            n_bytes += shard[name].nbytes
            if n_bytes >= _SHARD_BYTES:
                write()
        if shard:
            write()
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(
            json.dumps(index), encoding="utf-8"
        )
        weights = (".safetensors", ".bin", ".index.json")
        for file in source.folder.iterdir():
            if file.suffix in IDENTIFYING and not file.name.endswith(weights):
                shutil.copyfile(file, folder / file.name)
