"""A file that is written whole or not at all, and only in the place of a regular one."""

import secrets
from contextlib import suppress
from pathlib import Path

from sparsedash.schema.errors import SettingsError, StoreError
from sparsedash.storage.local_paths import local_path

MAX_NAME_BYTES = 255
"""Of a file's name, on every file system that a run is likely to write to."""


def writable_file(path: Path, field: str) -> Path:
    """Where a file with this path is to be written, `~` and links followed.

    Raises SettingsError with the name of the field where none can be: its folder is not there or may not be written to,
    or something else than a regular file has its name.
    """
    try:
        found = local_path(str(path)).resolve()
        if not found.parent.is_dir():
            raise SettingsError(field, str(path), "a file in a folder that exists")
        if not _may_stand(found) or len(found.name.encode(errors="replace")) > MAX_NAME_BYTES:
            raise SettingsError(field, str(path), "a new file or a regular one, not a folder, a pipe or a device")
        # Whether a folder may be written to is known for sure by doing it.
        beside = _beside(found)
        beside.touch(mode=0o600, exist_ok=False)
        beside.unlink()
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingsError(field, str(path), f"a file in a folder that may be written to ({_why(error)})") from error
    return found


def write_whole(path: Path, text: str) -> None:
    """Write the text under another name beside the path and rename it, so that nobody ever reads half of it.

    Raises StoreError where that fails, or where something has come to stand there that is no regular file; then nothing
    is left behind.
    """
    beside = _beside(path)
    try:
        beside.write_text(text, encoding="utf-8")
        if not _may_stand(path):
            raise StoreError(f"{path} is no regular file any more, and was left as it is.", "Name another file.")
        beside.replace(path)
    except OSError as error:
        raise StoreError(f"{path} could not be written: {_why(error)}.", "See whether the disk is full.") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _may_stand(path: Path) -> bool:
    """Whether the path is free or names a regular file."""
    return path.is_file() or not (path.exists() or path.is_symlink())


def _beside(path: Path) -> Path:
    """A name of this call alone, and short, whatever the length of the path's own."""
    return path.with_name(f".{secrets.token_hex(8)}.unfinished")


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
