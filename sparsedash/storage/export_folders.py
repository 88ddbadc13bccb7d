"""Folders of exports: written whole or not at all, found again after a move, and what killed exports left.

A folder is written beside its place under a name of its own, and renamed at the end. The next export to the same place
deletes what a killed process left there.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparsedash.schema.errors import ExportError
from sparsedash.schema.exports import EXPORTS, Export
from sparsedash.storage.disk_space import megabytes

RECIPE = "recipe.json"
"""Lies beside exported files, and names their export; the engine writes it."""

_MAX_RECIPE_BYTES = 64 * 1024 * 1024

UNFINISHED = ".sparsedash-unfinished-"
"""How the name begins of a folder that is being written or deleted."""

_LOCK = "lock"
_YOUNG_S = 60.0
"""A folder may be so old before its lock is there."""

_MARGIN_BYTES = 50_000_000


def require_new(folder: Path) -> None:
    """Raise ExportError where something has this name, or nothing can be made there."""
    if folder.exists() or folder.is_symlink():
        raise ExportError(f"{folder} exists, and nothing is written into it.", "Name another folder, or delete it.")
    if folder.name in ("", ".", ".."):
        raise ExportError(f"{folder} is no name of a new folder.", "Name one that does not exist.")


def require_room(folder: Path, n_bytes: int) -> None:
    """Raise ExportError unless so many bytes, and some more, are free where the folder is to lie."""
    free = shutil.disk_usage(_existing(folder)).free
    if free < n_bytes + _MARGIN_BYTES:
        raise ExportError(
            f"The files take {megabytes(n_bytes)}, and {megabytes(free)} are free where {folder} is to lie.",
            "Free some space, choose a form or numbers that take less, or name another folder.",
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside this one, which takes its name at the end; deleted where anything is raised.

    Raises ExportError where something has that name by then, and OSError where nothing can be written.
    """
    require_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder.parent))
    try:
        held = beside / f"{_LOCK}-held"
        with FileLock(held):
            # Named as the lock only once it is held: a lock that is free says that its process has ended.
            held.replace(beside / _LOCK)
            inside = beside / "files"
            # Under the usual umask nobody but its owner may write there.
            inside.mkdir(mode=0o775)
            yield inside
            _take_name(inside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _take_name(inside: Path, folder: Path) -> None:
    """Rename, which replaces nothing: only an empty folder would give way, and a whole one is never empty."""
    require_new(folder)
    try:
        os.rename(inside, folder)  # noqa: PTH104 - Path.rename says less about what it would replace
    except OSError as error:
        if folder.exists() or folder.is_symlink():
            raise ExportError(
                f"{folder} was made by somebody else meanwhile, and is left as it is.", "Name another folder."
            ) from error
        raise


def delete_folder(folder: Path) -> None:
    """Delete a folder, renamed first so that no half of it stands under its name. Raises OSError."""
    gone = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder.parent))
    try:
        if folder.is_dir() and not folder.is_symlink():
            folder.rename(gone / "deleted")
    finally:
        shutil.rmtree(gone, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Delete what killed exports have left in this folder."""
    for left in unfinished(parent):
        if not is_written(left):
            shutil.rmtree(left, ignore_errors=True)


def unfinished(parent: Path) -> list[Path]:
    """What is being written in this folder, and what killed exports have left there."""
    return sorted(parent.glob(f"{UNFINISHED}*/"))


def is_written(left: Path) -> bool:
    """Whether a process is still at it: it holds the lock inside, or has not come to make it."""
    lock = left / _LOCK
    try:
        if not left.name.startswith(UNFINISHED):
            return False
        if not lock.exists():
            return time.time() - left.stat().st_mtime < _YOUNG_S
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        # Deleted by somebody else meanwhile, or not ours to look into.
        return False


def located(export: Export, data_dir: Path) -> Export:
    """The export with the folder where it lies now: a data folder may have been moved with the exports in it."""
    here = data_dir / EXPORTS / Path(export.folder).name
    return replace(export, folder=str(here)) if not export.settings.to and here.is_dir() else export


def export_key_of(folder: Path) -> str:
    """The key of the export that this folder says it is. Raises ExportError where it says none."""
    file = folder / RECIPE
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_RECIPE_BYTES)
        document: Any = json.loads(text)
        key = document["export"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ExportError(
            f"{folder} holds no {RECIPE} that can be read.", "Name a folder that `sparsedash export` has made."
        ) from error
    if not isinstance(key, str):
        raise ExportError(f"{file} names no export.", "Name a folder that `sparsedash export` has made.")
    return key


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
