"""Files of ours in the data folder, opened so that what lies in their place can neither hang us nor be written to."""

import os
import stat
from pathlib import Path
from typing import IO, Literal

from sparsedash.schema.errors import StoreError

_FLAGS = {"rb": os.O_RDONLY, "ab": os.O_WRONLY | os.O_CREAT | os.O_APPEND}


def open_own(path: Path, mode: Literal["rb", "ab"]) -> IO[bytes]:
    """The open file. Raises StoreError where it cannot be one, FileNotFoundError where there is none to be read."""
    try:
        refuse_other_kinds(path)
        # Never waits: the opening of a pipe would, for somebody at its other end.
        number = os.open(path, _FLAGS[mode] | os.O_NONBLOCK | os.O_CLOEXEC, _mode_in(path.parent, 0o600))
    except OSError as error:
        if mode == "rb" and isinstance(error, FileNotFoundError):
            raise
        raise StoreError(f"{path} cannot be opened: {error.strerror}.", "See who may use the data folder.") from error
    file = os.fdopen(number, mode)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        file.close()
        raise _in_the_way(path, "no file")
    return file


def refuse_other_kinds(path: Path) -> None:
    """Raise StoreError where something lies that is no file, links followed."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise _in_the_way(path, "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket")


def make_folder(path: Path) -> None:
    """Make a folder for its owner only, or for the group of the folder around it. Raises StoreError where that cannot
    be.
    """
    try:
        path.mkdir(mode=_mode_in(path.parent, 0o700), exist_ok=True)
    except FileExistsError as error:
        raise StoreError(f"{path} is in the way: a folder belongs there.", "Move it away and try again.") from error
    except OSError as error:
        raise StoreError(f"The folder {path} cannot be made: {error.strerror}.", "Is the disk full?") from error


def _mode_in(folder: Path, mode: int) -> int:
    """As `storage.local_paths.mode_in`."""
    return mode | mode >> 3 if folder.stat().st_mode & 0o020 else mode


def _in_the_way(path: Path, what: str) -> StoreError:
    return StoreError(f"{path} is {what}: a file of this program belongs there.", "Move it away and try again.")
