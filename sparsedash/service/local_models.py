"""Why a model on this machine cannot be pruned, by its files' names and what stands before its weights."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sparsedash.catalog.families import FAMILIES
from sparsedash.catalog.gguf_names import gguf_problem
from sparsedash.catalog.gguf_reader import opened_gguf
from sparsedash.schema.errors import ModelError
from sparsedash.storage.local_paths import kind_of
from sparsedash.storage.model_configs import MAX_CONFIG_BYTES

_SIZES = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers"), 2_000),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads"), 10_000),
    **dict.fromkeys(("hidden_size", "n_embd"), 1_000_000),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim"), 10_000_000),
    "vocab_size": 100_000_000,
}
"""What a size may be at most, by its names in the families' configs; what is not said has the family's usual value."""


_READ = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja")


def gguf_file_problem(path: Path) -> str:
    """Why this .gguf file cannot be read, by its header; empty where nothing speaks against it."""
    if kind_of(path) != "file":
        return f"{path} is no regular file. Name the .gguf file itself."
    try:
        seen = path.stat()
    except OSError as error:
        return f"{path} could not be read: {error.strerror}."
    return _header_problem(path, seen.st_size, seen.st_mtime_ns)


@lru_cache(maxsize=8)
def _header_problem(path: Path, _size: int, _changed: int) -> str:
    try:
        reader = opened_gguf(path)
    except ModelError as error:
        return str(error)
    problem = gguf_problem(reader.values, (tensor.name for tensor in reader.tensors))
    return f"{path.name} could not be read as a GGUF model: {problem}." if problem else ""


def folder_problem(folder: Path) -> str:
    """Why the model in this folder cannot be pruned; empty where its config does not speak against it."""
    if kind_of(folder / "config.json") != "file":
        return f"{folder} holds no config.json. Name the folder that save_pretrained() wrote."
    try:
        with (folder / "config.json").open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        if len(text) > MAX_CONFIG_BYTES:
            return f"config.json of {folder} is larger than {MAX_CONFIG_BYTES // 2**20} MB, which no model's is."
        config = json.loads(text)
    except OSError as error:
        return f"config.json of {folder} could not be read: {error.strerror}."
    except (ValueError, RecursionError):
        return f"config.json of {folder} is not JSON that can be read. Fetch or save the model again."
    # A pipe or a device would be read for ever.
    odd = [path.name for path in folder.iterdir() if path.suffix in _READ and kind_of(path) != "file"]
    if odd:
        return f"{min(odd)} in {folder} is no regular file. Fetch or save the model again."
    if not isinstance(config, dict):
        return f"config.json of {folder} holds no JSON object. Fetch or save the model again."
    return config_problem(config, folder)


def config_problem(config: Mapping[str, Any], folder: Path | str) -> str:
    """Why a model with this config cannot be pruned; empty where nothing speaks against it. folder: its place."""
    family = config.get("model_type", "")
    if family == "":
        return f"config.json of {folder} has no model_type. Fetch or save the model again."
    if not isinstance(family, str) or family not in FAMILIES:
        return f"models of type {str(family)[:40]!r} cannot be pruned yet; possible: {', '.join(FAMILIES)}."
    if config.get("quantization_config") is not None:
        return (
            f"the weights in {folder} are quantised, and a sparse model is computed from full ones. "
            "Name the model that it was made from, or a GGUF file of it."
        )
    for name, most in _SIZES.items():
        value = config.get(name)
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            return f"config.json of {folder} says {name} = {str(value)[:40]}; possible: 1 to {most:,}."
    return ""
