"""Which workers are alive: each holds a lock on a file, which the kernel releases the moment the worker is gone.

`flock` of Linux and macOS. Lock files stay when they are free: whoever removes one invites two holders.
"""

import fcntl
import time
from pathlib import Path
from typing import IO

_RETRY_S = 0.02


def job_lock(folder: Path, job_id: int) -> Path:
    """The lock a worker holds while it runs this job."""
    return folder / "jobs" / f"{job_id}.lock"


def slot_lock(folder: Path, slot: int) -> Path:
    """The lock a worker holds for life; it keeps a second worker out of the slot."""
    return folder / "workers" / f"slot-{slot}.lock"


def hold(path: Path, wait_s: float = 0.5) -> IO[bytes] | None:
    """The open file that holds the lock until it is closed, or None when somebody else has it.

    wait_s: how long to try; more than 0, because `is_held` takes the lock for a moment.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    file = path.open("ab")
    deadline = time.monotonic() + wait_s
    while not _try(file, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            file.close()
            return None
        time.sleep(_RETRY_S)
    return file


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        return not _try(file, fcntl.LOCK_SH)


def _try(file: IO[bytes], operation: int) -> bool:
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
