"""Why a model on this machine cannot be pruned, by its files' names and what stands before its weights."""

import json
from functools import lru_cache
from pathlib import Path

from sparsedash.catalog.families import config_problem
from sparsedash.catalog.gguf_names import gguf_problem
from sparsedash.catalog.gguf_reader import opened_gguf
from sparsedash.schema.errors import ModelError
from sparsedash.storage.local_paths import kind_of
from sparsedash.storage.model_configs import MAX_CONFIG_BYTES

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
