"""A result that is written whole or not at all, and only where nothing or an earlier result stands."""

import re
import secrets
from contextlib import suppress
from pathlib import Path

from sparsedash.schema.errors import SettingsError, StoreError
from sparsedash.storage.local_paths import local_path

MAX_NAME_BYTES = 255
"""Of a file's name, on every file system that a run is likely to write to."""

RESULT_FORMAT = "sparsedash.run/1"
"""What a result begins with, as its "format": so that it can be told from any other file."""

_LOOKED_AT_BYTES = 4096
_OURS = re.compile(rb'\s*\{\s*(?:"format"\s*:\s*"sparsedash\.|"model"\s*:\s*\{\s*"reference"\s*:)|sparsedash-run ')
"""How a result begins, before it named its format with its model; and how the file of a run does."""

_INSTEAD = "Name a new file; only an empty one or an earlier result of this program is replaced."


def writable_file(path: Path, field: str) -> Path:
    """Where a file with this path is to be written, `~` and links followed.

    Raises SettingsError with the name of the field where none can be: its folder is not there, may not be written to or
    belongs to a data folder, or something has its name that is neither empty nor a result of ours.
    """
    try:
        found = local_path(str(path)).resolve()
        if not found.parent.is_dir():
            raise SettingsError(field, str(path), "a file in a folder that exists")
        if not _may_stand(found) or len(found.name.encode(errors="replace")) > MAX_NAME_BYTES:
            raise SettingsError(field, str(path), "a new file or a regular one, not a folder, a pipe or a device")
        _refuse_data_folder(found, field)
        if found.exists() and not _is_replaceable(found):
            raise SettingsError(
                field, str(path), "a new file, an empty one, or an earlier result of this program", "Name another file."
            )
        # Whether a folder may be written to is known for sure by doing it.
        beside = _beside(found)
        beside.touch(mode=0o600, exist_ok=False)
        beside.unlink()
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingsError(field, str(path), f"a file in a folder that may be written to ({_why(error)})") from error
    return found


def write_whole(path: Path, content: str | bytes) -> None:
    """Write the content, text as UTF-8, beside the path and rename it, so that nobody ever reads half of it.

    Raises StoreError where that fails, or where something has come to stand there meanwhile that `writable_file` would
    refuse; then nothing is left behind.
    """
    beside = _beside(path)
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        if not _may_stand(path):
            raise StoreError(f"{path} is no regular file any more, and was left as it is.", "Name another file.")
        if path.exists() and not _is_replaceable(path):
            raise StoreError(f"{path} is another file by now, and was left as it is.", _INSTEAD)
        beside.replace(path)
    except OSError as error:
        raise StoreError(f"{path} could not be written: {_why(error)}.", "See whether the disk is full.") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _may_stand(path: Path) -> bool:
    """Whether the path is free or names a regular file."""
    return path.is_file() or not (path.exists() or path.is_symlink())


def _is_replaceable(path: Path) -> bool:
    """Whether this regular file is empty or begins like a result of ours."""
    with path.open("rb") as file:
        start = file.read(_LOOKED_AT_BYTES)
    return not start or _OURS.match(start) is not None


def _refuse_data_folder(path: Path, field: str) -> None:
    for folder in path.parents:
        if (folder / "records" / "cache.db").exists():
            raise SettingsError(field, str(path), f"a file outside the data folder {folder}", "Name another folder.")


def _beside(path: Path) -> Path:
    """A name of this call alone, and short, whatever the length of the path's own."""
    return path.with_name(f".{secrets.token_hex(8)}.unfinished")


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
