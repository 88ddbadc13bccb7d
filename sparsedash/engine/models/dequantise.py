"""Unpacks a .gguf file into the data folder as safetensors, once."""

import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import torch
from safetensors import SafetensorError

from sparsedash.catalog.gguf_names import gguf_problem
from sparsedash.catalog.gguf_reader import opened_gguf, quantised_type, quick_gguf
from sparsedash.engine.models.checkpoint import (
    UNREADABLE,
    first_line,
    read_model,
    refuse_impossible,
    refuse_no_numbers,
    refuse_oversized,
)
from sparsedash.engine.models.content_hash import file_hash
from sparsedash.engine.models.gguf_model import GgufModel
from sparsedash.engine.models.modules import family_named
from sparsedash.engine.models.unpacking import unpacked
from sparsedash.schema import notes
from sparsedash.schema.errors import ModelError
from sparsedash.storage.store import Store

_VERSION = 2
"""Of what is made of a file: raise it where the same file gives other numbers or other tokens."""


def dequantised(file: Path, store: Store) -> Path:
    """The folder that holds this file's model in FP32 with its tokenizer; see `unpacked`.

    Raises ModelError when the .gguf file cannot be read.
    """
    name = f"{file.stem}-{file_hash(file, store)[:16]}-{_VERSION}"
    return unpacked(name, lambda folder: _write(file, folder), store)


def source_type(file: Path, store: Store) -> str:
    """The type of a quantised file, see `quantised_type`; read once, then noted."""
    name = notes.source_type(file_hash(file, store))
    known = store.recall(name)
    if known is None:
        known = quantised_type(opened_gguf(file))
        store.remember(name, known)
    return known


def _write(file: Path, folder: Path) -> None:
    reader = opened_gguf(file)
    if problem := gguf_problem(reader.values, (tensor.name for tensor in reader.tensors)):
        raise ModelError(f"{file.name} could not be read as a GGUF model: {problem}.")
    said = GgufModel(reader)
    try:
        config = said.config()
        family_named(config.model_type)
        refuse_impossible(config, file.name)
        refuse_oversized(file.name, config, file.stat().st_size, "gguf")
        # In a folder of its own: nothing that lies beside the file is read.
        with tempfile.TemporaryDirectory(prefix="sparsedash-") as empty, quick_gguf():
            (Path(empty) / file.name).symlink_to(file.resolve())
            tokenizer = said.tokenizer(empty, file.name)
        weights = said.weights(config)
    except UNREADABLE as error:
        raise ModelError(
            f"{file.name} could not be read as a GGUF model: {first_line(error).rstrip('.')}.",
            "Name another file of this model.",
        ) from error
    with redirect_stderr(StringIO()):
        model = read_model(file.name, config, torch.float32, pretrained_model_name_or_path=None, state_dict=weights)
    refuse_no_numbers(file.name, model)
    try:
        # Its own bar would tear the shell's.
        with redirect_stderr(StringIO()):
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:
        reason = f"{file.name} could not be unpacked: {first_line(error)}."
        raise ModelError(reason, "See whether the disk is full.") from error
