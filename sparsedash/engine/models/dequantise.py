"""Unpacks a .gguf file into the data folder as safetensors, once."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from sparsedash.engine.models.checkpoint import (
    UNREADABLE,
    first_line,
    read_model,
    refuse_impossible,
    refuse_no_numbers,
    refuse_oversized,
)
from sparsedash.engine.models.content_hash import file_hash
from sparsedash.engine.models.gguf_reader import GgufReader, quantised_type, quick_gguf
from sparsedash.engine.models.modules import family_named
from sparsedash.engine.models.unpacking import unpacked
from sparsedash.schema import notes
from sparsedash.schema.errors import ModelError
from sparsedash.storage.store import Store


def dequantised(file: Path, store: Store) -> Path:
    """The folder that holds this file's model in FP32 with its tokenizer; see `unpacked`.

    Raises ModelError when the .gguf file cannot be read.
    """
    return unpacked(f"{file.stem}-{file_hash(file, store)[:16]}", lambda folder: _write(file, folder), store)


def source_type(file: Path, store: Store) -> str:
    """The type of a quantised file, see `quantised_type`; read once, then noted."""
    name = notes.source_type(file_hash(file, store))
    known = store.recall(name)
    if known is None:
        known = quantised_type(opened_gguf(file))
        store.remember(name, known)
    return known


def _write(file: Path, folder: Path) -> None:
    opened_gguf(file)
    # The conversion's own bar would tear the shell's.
    with _alone(file) as where, quick_gguf(), redirect_stderr(StringIO()):
        try:
            config = AutoConfig.from_pretrained(**where, trust_remote_code=False, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False, local_files_only=True)
        except UNREADABLE as error:
            raise _unreadable(file, error) from error
        family_named(config.model_type)
        refuse_impossible(config, file.name)
        refuse_oversized(file.name, config, file.stat().st_size, "gguf")
        model = read_model(file.name, config, torch.float32, **where)
        refuse_no_numbers(file.name, model)
        # A model read from GGUF refuses to be saved while it remembers that it was quantised.
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        try:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        except SafetensorError as error:
            reason = f"{file.name} could not be unpacked: {first_line(error)}."
            raise ModelError(reason, "See whether the disk is full.") from error


@contextmanager
def _alone(file: Path) -> Iterator[dict[str, str]]:
    """The file's place as `from_pretrained` takes it, in a folder of its own: nothing that lies beside it is read."""
    with tempfile.TemporaryDirectory(prefix="sparsedash-") as empty:
        (Path(empty) / file.name).symlink_to(file.resolve())
        yield {"pretrained_model_name_or_path": empty, "gguf_file": file.name}


def opened_gguf(file: Path) -> GgufReader:
    """The file's keys and tensors. Raises ModelError unless all of them can be read and lie within it."""
    try:
        return GgufReader(file)
    except UNREADABLE as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{file.name} could not be read as a GGUF model: {first_line(error)}",
        "The file must be whole, and its architecture one that transformers can read from GGUF.",
    )
