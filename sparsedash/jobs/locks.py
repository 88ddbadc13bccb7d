"""Which workers are alive: each holds a lock on a file, which the kernel releases the moment the worker is gone.

`flock` of Linux and macOS. Lock files stay when they are free: whoever removes one invites two holders.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from sparsedash.jobs.own_files import make_folder, open_own
from sparsedash.schema.errors import StoreError

_RETRY_S = 0.02
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ID_BYTES = 64


def job_lock(folder: Path, job_id: int) -> Path:
    """The lock a worker holds while it runs this job."""
    return folder / "jobs" / f"{job_id}.lock"


def slot_lock(folder: Path, slot: int) -> Path:
    """The lock a worker holds for life; it keeps a second worker out of the slot."""
    return folder / "workers" / f"slot-{slot}.lock"


def cluster_lock(folder: Path) -> Path:
    """The lock a server holds while machines of a cluster take runs; then no worker of this machine does."""
    return folder / "workers" / "cluster.lock"


def hold(path: Path, wait_s: float = 0.5) -> IO[bytes] | None:
    """The open file that holds the lock until it is closed, or None when somebody else has it.

    wait_s: how long to try; more than 0, because `is_held` takes the lock for a moment. The file then says since which
    start of the machine, and by which process. Raises StoreError where it cannot be one.
    """
    make_folder(path.parent)
    file = open_own(path, "ab")
    deadline = time.monotonic() + wait_s
    while not _try(file, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            file.close()
            return None
        time.sleep(_RETRY_S)
    _sign(file)
    return file


def outlived(path: Path) -> bool | None:
    """Whether the machine was started since somebody last took the lock; None where that cannot be said."""
    try:
        with open_own(path, "rb") as file:
            signed = file.read(_ID_BYTES).partition(b"\n")[0]
    except (FileNotFoundError, StoreError):
        return None
    now = _boot_id()
    return signed != now if signed and now else None


def holder(path: Path) -> int | None:
    """The process that holds the lock; None where none does, or it did not say."""
    try:
        with open_own(path, "rb") as file:
            signed = b"" if _try(file, fcntl.LOCK_SH) else file.read(2 * _ID_BYTES).partition(b"\n")[2]
    except (FileNotFoundError, StoreError):
        return None
    return int(signed) if signed.isdigit() else None


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock. Raises StoreError where the file cannot be one."""
    try:
        file = open_own(path, "rb")
    except FileNotFoundError:
        return False
    with file:
        return not _try(file, fcntl.LOCK_SH)


def _sign(file: IO[bytes]) -> None:
    # A lock without its sign is a lock all the same: the disk may be full.
    with suppress(OSError):
        file.truncate(0)
        file.write(_boot_id() + b"\n%d" % os.getpid())
        file.flush()


def _boot_id() -> bytes:
    """What Linux calls this start of the machine, or nothing. A clock can be set; this cannot."""
    try:
        return _BOOT_ID.read_bytes().strip()[:_ID_BYTES]
    except OSError:
        return b""


def _try(file: IO[bytes], operation: int) -> bool:
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
