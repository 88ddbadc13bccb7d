"""A folder that appears under its name only when it is whole: written beside it, looked at, renamed.

What a killed process leaves has a name of its own, and is swept by the next export to the same place.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sparsedash.schema.errors import ExportError
from sparsedash.storage.disk_space import megabytes

_UNFINISHED = ".sparsedash-unfinished-"
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
    _sweep(folder.parent)
    beside = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder.parent))
    try:
        lock = FileLock(beside / _LOCK)
        with lock:
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


def _sweep(parent: Path) -> None:
    """Remove what killed exports have left: whoever lives holds the lock inside."""
    for left in parent.glob(f"{_UNFINISHED}*"):
        with suppress(OSError, Timeout):
            if time.time() - left.stat().st_mtime > _YOUNG_S:
                with FileLock(left / _LOCK, timeout=0):
                    shutil.rmtree(left, ignore_errors=True)


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
