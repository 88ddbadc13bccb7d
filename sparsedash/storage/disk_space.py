"""Whether the data folder can be written to and has room; and a full disk told from other errors."""

import errno
import shutil
import tempfile
from pathlib import Path

from sparsedash.schema.errors import StoreError

LEAST_FREE_BYTES = 200_000_000
"""With less than this a job would soon end half-way."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("No space left", "database or disk is full")
"""Of safetensors and of SQLite, which keep the number of the error to themselves."""


def require_room(folder: Path) -> None:
    """Raise StoreError unless the folder can be written to and has room for what jobs leave there."""
    try:
        free = shutil.disk_usage(folder).free
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        raise StoreError(f"The data folder {folder} cannot be written to: {error.strerror}.") from error
    if free < LEAST_FREE_BYTES:
        raise StoreError(
            f"Only {megabytes(free)} are free where the data folder {folder} lies; at least "
            f"{megabytes(LEAST_FREE_BYTES)} are needed.",
            "Free some space: the storage page says what takes it.",
        )


def free_bytes(folder: Path) -> int | None:
    """How much is free on the folder's disk; None where it does not tell."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def is_full(error: BaseException | None) -> bool:
    """Whether this error, or what it was raised for, is a disk without room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(words in str(error) for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def free_in_words(error: BaseException, folder: Path | None) -> str:
    """How much is free where the error came about: in the folder of the file that it names, or in this one."""
    named = getattr(error, "filename", None)
    where = Path(named).parent if isinstance(named, str) else folder
    if where is None:
        return ""
    try:
        return f"{megabytes(shutil.disk_usage(where).free)} are free where {where} lies."
    except OSError:
        return f"{where} cannot be reached any more."


def megabytes(n_bytes: int) -> str:
    """ "1,234 MB"."""
    return f"{n_bytes / 1e6:,.0f} MB"
