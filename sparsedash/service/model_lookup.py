"""Look up a model by its reference before it is loaded: family, shape, and why it cannot be pruned.

From notes of earlier runs, from its config or GGUF header, or from the catalog. The hub is asked
only when a user asks for it, and only for config.json.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from sparsedash.catalog.config_checks import config_problem
from sparsedash.catalog.gguf_names import gguf_problem
from sparsedash.catalog.gguf_reader import opened_gguf
from sparsedash.catalog.model_sizes import listed_shape
from sparsedash.jobs.local_runner import child_environment
from sparsedash.schema import store_keys
from sparsedash.schema.errors import ModelError
from sparsedash.schema.model_shape import ModelShape
from sparsedash.storage.file_hashes import fingerprint
from sparsedash.storage.local_machine import file_stamp, path_kind
from sparsedash.storage.model_folders import model_config
from sparsedash.storage.shape_notes import (
    LookedUp,
    known_shape,
    looked_up,
    note_look_up,
)
from sparsedash.storage.store import Store
from sparsedash.storage.trials import trial_problem

_FETCHING = "sparsedash.engine.models.hub"
_INSPECTING = "sparsedash.engine.models.look_up"
_MAX_SECONDS = 60
_TOO_MUCH = "describes a model that takes too much memory or time to look up"
_TIMEOUT_S = 30.0
_READ = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja")


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """Facts known of a model before it is loaded.

    family: its model_type. shape: None where it was not looked up yet. problem: why it cannot be
    pruned; empty if it can, as far as is known.
    """

    family: str
    shape: ModelShape | None
    problem: str = ""


def named_model(reference: str, store: Store) -> NamedModel | None:
    """Family and shape from an earlier run here, its config or the catalog; None if unknown."""
    identity = store.recall(
        store_keys.model_identity_note(reference, fingerprint(reference))
    )
    shape = known_shape(store, identity) if identity else None
    config = None if shape else model_config(reference)
    if config is None:
        shape = shape or listed_shape(reference)
        return None if shape is None else NamedModel(family=shape.family, shape=shape)
    family = str(config.get("model_type", ""))[:40]
    if problem := config_problem(config, reference):
        return NamedModel(family=family, shape=None, problem=problem)
    note = looked_up(store, config) or LookedUp(shape=listed_shape(reference))
    return NamedModel(family=family, shape=note.shape, problem=note.problem)


def inspect_config(reference: str, store: Store) -> None:
    """Find out the structure of a model whose config is on this machine, so that `named_model`
    knows it. In a process with limits, some seconds the first time.
    """
    config = model_config(reference)
    if config is None or config_problem(config, reference) or looked_up(store, config):
        return
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(config), encoding="utf-8")
        answer = trial_problem(
            _INSPECTING, str(file), seconds=_MAX_SECONDS, too_much=_TOO_MUCH
        )
    try:
        note = msgspec.json.decode(answer, type=LookedUp)
    except msgspec.MsgspecError:
        note = LookedUp(problem=f"The config of {reference} {answer[:300]}.")
    note_look_up(store, config, note)


def fetch_config(reference: str, *, with_token: bool) -> None:
    """Fetch a hub model's config.json, a few kilobytes, so that `named_model` knows it.

    with_token: whether to send the hub the token of this machine's user. Raises ModelError.
    """
    answer = look_up([reference], with_token=with_token).get(reference, {})
    if "message" in answer:
        raise ModelError(answer["message"], answer.get("advice", ""))


def look_up(names: Sequence[str], *, with_token: bool) -> dict[str, dict[str, str]]:
    """The hub's answers about these names, see `engine.models.hub`. Raises ModelError."""
    option = [] if with_token else ["--no-token"]
    command = [sys.executable, "-P", "-m", _FETCHING, *option, "--", *names]
    try:
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
            env=child_environment(),
        )
        return msgspec.json.decode(
            done.stdout.splitlines()[-1], type=dict[str, dict[str, str]]
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"The hub did not answer within {_TIMEOUT_S:.0f} seconds.",
            "Try again later.",
        ) from error
    except (
        subprocess.CalledProcessError,
        OSError,
        IndexError,
        msgspec.MsgspecError,
    ) as error:
        raise ModelError(
            f"{names[0]} could not be looked up on the hub.",
            "Start the run and see its log.",
        ) from error


def gguf_file_problem(path: Path) -> str:
    """The reason this .gguf file cannot be read, by its header; empty if it can."""
    if path_kind(path) != "file":
        return f"{path} is no regular file. Name the .gguf file itself."
    try:
        stamp = file_stamp(path)
    except OSError as error:
        return f"{path} could not be read: {error.strerror}."
    return _header_problem(path, stamp)


@lru_cache(maxsize=8)
def _header_problem(path: Path, _stamp: str) -> str:
    try:
        reader = opened_gguf(path)
    except ModelError as error:
        return str(error)
    problem = gguf_problem(reader.values, (tensor.name for tensor in reader.tensors))
    return (
        f"{path.name} could not be read as a GGUF model: {problem}." if problem else ""
    )


def folder_problem(folder: Path) -> str:
    """The reason the model in this folder cannot be pruned, by its config; empty if it can."""
    if path_kind(folder / "config.json") != "file":
        return f"{folder} holds no config.json. Name the folder that save_pretrained() wrote."
    config = model_config(str(folder))
    if config is None:
        return f"config.json of {folder} is not a JSON object that can be read. Fetch or save the model again."
    # A pipe or a device would be read for ever.
    odd = [
        path.name
        for path in folder.iterdir()
        if path.suffix in _READ and path_kind(path) != "file"
    ]
    if odd:
        return (
            f"{min(odd)} in {folder} is no regular file. Fetch or save the model again."
        )
    return config_problem(config, folder)
