"""Lock files that show which workers are alive, and the other files of a data folder's jobs.

A living worker holds a lock (`flock`), which the kernel releases the moment it is gone. Lock files
stay when they are
free: deleting one would allow two holders.
"""

import fcntl
import os
import time
from pathlib import Path
from typing import IO, Literal

from sparsedash.schema.errors import StoreError

_RETRY_S = 0.02


_ADVICE = "See whether the disk is full, and who may use the data folder."


def open_own(path: Path, mode: Literal["rb", "ab"]) -> IO[bytes]:
    """Open a file of the data folder, for its owner only, or for the group that shares the folder.

    Raises FileNotFoundError when there is nothing to read, StoreError for any other failure.
    """
    try:
        return open(
            path,
            mode,
            opener=lambda name, flags: os.open(
                name, flags, _mode_in(path.parent, 0o600)
            ),
        )
    except OSError as error:
        if mode == "rb" and isinstance(error, FileNotFoundError):
            raise
        raise StoreError(
            f"{path} cannot be opened: {error.strerror}.", _ADVICE
        ) from error


def make_folder(path: Path) -> None:
    """Make a folder for its owner only, or for the group of the folder around it. Raises StoreError
    on failure.
    """
    try:
        path.mkdir(mode=_mode_in(path.parent, 0o700), exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"The folder {path} cannot be made: {error.strerror}.", _ADVICE
        ) from error


def open_log(path: Path) -> IO[bytes]:
    """Open a log to append to it; its folder is made. Raises StoreError."""
    make_folder(path.parent)
    return open_own(path, "ab")


def _mode_in(folder: Path, mode: int) -> int:
    """As `storage.local_machine.mode_in`."""
    return mode | mode >> 3 if folder.stat().st_mode & 0o020 else mode


def job_lock(folder: Path, job_id: int) -> Path:
    """The lock that a worker holds while it runs this job."""
    return folder / "jobs" / f"{job_id}.lock"


def slot_lock(folder: Path, slot: int) -> Path:
    """The lock that a worker holds for life; it keeps a second worker out of the slot."""
    return folder / "workers" / f"slot-{slot}.lock"


def cluster_lock(folder: Path) -> Path:
    """The lock that a server holds while a cluster takes runs; then no worker of this machine
    does.
    """
    return folder / "workers" / "cluster.lock"


def hold_lock(path: Path, wait_s: float = 0.5) -> IO[bytes] | None:
    """The open file that holds the lock until it is closed, or None when another process has it.

    wait_s: how long to try; more than 0, since `is_lock_held` takes the lock for a moment. Raises
    StoreError when it cannot be opened.
    """
    make_folder(path.parent)
    file = open_own(path, "ab")
    deadline = time.monotonic() + wait_s
    while not _try(file, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            file.close()
            return None
        time.sleep(_RETRY_S)
    return file


def is_lock_held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        with open_own(path, "rb") as file:
            return not _try(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _try(file: IO[bytes], operation: int) -> bool:
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
