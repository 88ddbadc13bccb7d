"""This machine: paths, the place of the data folder, disk space, atomic writes of result files,
memory.
"""

import ctypes
import errno
import os
import re
import resource
import secrets
import shutil
import stat
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from sparsedash.schema.errors import SettingsError, StoreError

Kind = Literal["file", "folder", "other", "nothing"]
"""other: a pipe, a device or a socket, which would be read for ever."""

MIN_FREE_BYTES = 200_000_000
"""With less than this a job would soon fail."""

RESULT_FORMAT = "sparsedash.run/1"
"""The "format" at the beginning of a result file."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("No space left", "database or disk is full")
"""Of safetensors and of SQLite, which hide the number of the error."""

_LOOKED_AT_BYTES = 4096
_OURS = re.compile(rb'\s*\{\s*"format"\s*:\s*"sparsedash\.|sparsedash-run ')
"""The beginning of a result file, and of a run file."""


def local_path(name: str | Path) -> Path:
    """The path with `~` expanded; unchanged for an unknown user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def path_kind(path: Path) -> Kind:
    """The kind of file at a path, links followed; "nothing" also for an impossible name."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "nothing"
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "other"


def file_stamp(path: Path) -> str:
    """Size and times of a file, links followed, which show that it may have changed. Raises
    OSError.

    A program can set back the time of writing, but not that of the last change.
    """
    state = path.stat()
    return f"{state.st_size}:{state.st_mtime_ns}:{state.st_ctime_ns}"


def mode_in(folder: Path, mode: int) -> int:
    """The owner's `mode` for something new in this folder, and its group's if that is shared."""
    shared = folder.stat().st_mode & 0o020
    return mode | mode >> 3 if shared else mode


def lies_below(path: Path, folders: Collection[str]) -> bool:
    """Whether a path, with all that lies directly in it, is in one of these folders once every link
    is followed.

    Nothing is opened. `..` is refused, wherever it leads.
    """
    roots = list(map(os.path.realpath, folders))
    if ".." in path.parts:
        return False
    try:
        paths = [path, *path.iterdir()] if path_kind(path) == "folder" else [path]
        for real in map(Path, map(os.path.realpath, paths)):
            if not any(map(real.is_relative_to, roots)):
                return False
    except (OSError, ValueError):
        return False
    return True


def data_folder() -> Path:
    """The folder that SPARSEDASH_DATA_DIR names, else our own among the user's application data."""
    if named := os.environ.get("SPARSEDASH_DATA_DIR"):
        return local_path(named)
    return (
        local_path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "sparsedash"
    )


class FolderSize(NamedTuple):
    """Bytes of all files, and the newest time of writing (epoch seconds); 0 without files."""

    n_bytes: int
    written_at: float


def folder_size(folder: Path) -> FolderSize:
    """The size of a folder and all in it, by the file system; no link is followed.

    0 for one that cannot be read.
    """
    n_bytes = 0
    written_at = 0.0
    for parent, _, names in os.walk(folder):
        for name in names:
            # Files may be deleted meanwhile.
            with suppress(OSError):
                file = Path(parent, name).lstat()
                if stat.S_ISREG(file.st_mode):
                    n_bytes += file.st_size
                    written_at = max(written_at, file.st_mtime)
    return FolderSize(n_bytes, written_at)


def require_job_room(folder: Path) -> None:
    """Raise StoreError unless the folder is writable and has room for the results of a job."""
    free = free_bytes(folder)
    if free is None or not os.access(folder, os.W_OK):
        raise StoreError(f"The data folder {folder} cannot be written to.")
    if free < MIN_FREE_BYTES:
        raise StoreError(
            f"Only {megabytes(free)} are free for the data folder {folder}; at least "
            f"{megabytes(MIN_FREE_BYTES)} are needed.",
            "Free some space, for example on the settings page.",
        )


def free_bytes(folder: Path) -> int | None:
    """Free bytes on the folder's disk; None if unknown."""
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return None


def is_full(error: BaseException | None) -> bool:
    """Whether this error, or its cause, is a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(words in str(error) for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def free_in_words(error: BaseException, folder: Path | None) -> str:
    """Free space in the folder of the file that the error names, or else in this folder."""
    file = getattr(error, "filename", None)
    if isinstance(file, str):
        folder = Path(file).parent
    free = None if folder is None else free_bytes(folder)
    return "" if free is None else f"{megabytes(free)} are free for {folder}."


def megabytes(n_bytes: int) -> str:
    """ "1,234 MB"."""
    return f"{n_bytes / 1e6:,.0f} MB"


def writable_file(path: Path, field: str) -> Path:
    """The path of a new result file, `~` and links followed.

    Raises SettingsError with the name of the field when it cannot be written, or another thing has
    this name that is neither empty nor a result of ours.
    """
    with suppress(OSError, ValueError, RuntimeError):
        target = local_path(path).resolve()
        if target.parent.is_dir() and os.access(target.parent, os.W_OK):
            if not target.exists():
                return target
            if target.is_file():
                with target.open("rb") as file:
                    start = file.read(_LOOKED_AT_BYTES)
                if not start or _OURS.match(start):
                    return target
    allowed = "a new file, an empty one or an earlier result of this program, in a folder that exists and is writable"
    raise SettingsError(field, str(path), allowed, "Name another file.")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Atomic write, text as UTF-8, by renaming a new file.

    Raises StoreError on failure; nothing is left behind.
    """
    beside = path.with_name(f".{secrets.token_hex(8)}.unfinished")
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        beside.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(
            f"{path} could not be written: {reason}.", "See whether the disk is full."
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


_SELF = Path("/proc/self")
_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Of this process's container, by the two versions of the kernel's interface."""


def memory_bytes() -> int:
    """Memory of the machine, or the limit of this container."""
    n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in _LIMITS:
        with suppress(OSError, ValueError):
            # "max" without a limit.
            n_bytes = min(n_bytes, int(limit.read_text(encoding="ascii")))
    return n_bytes


_CPU = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}


def multiplies_bfloat16(cpu: Path = _CPU) -> bool:
    """Whether the processor has instructions for products in bfloat16; False where it does not say."""
    with suppress(OSError, ValueError):
        return not _BFLOAT16_FLAGS.isdisjoint(cpu.read_text(encoding="ascii").split())
    return False


_BUSY_LOAD = 1.25
"""Threads that run or wait for each processor on a busy machine; a run alone has at most one."""


def is_overloaded() -> bool:
    """Whether more threads than there are processors wanted to run over the last minute."""
    return os.getloadavg()[0] > _BUSY_LOAD * (os.cpu_count() or 1)


def mapped_files() -> list[tuple[int, int]]:
    """Address ranges of the weight files this process maps; [] where that is unknown."""
    with suppress(OSError):
        maps = (_SELF / "maps").read_text(encoding="utf-8", errors="replace")
        ranges = re.findall(r"^(\w+)-(\w+) .*\.safetensors$", maps, re.MULTILINE)
        return [(int(begin, 16), int(end, 16)) for begin, end in ranges]
    return []


def forget_peak_memory() -> None:
    """Restart `peak_memory_bytes`, if the system can."""
    with suppress(OSError):
        (_SELF / "clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes() -> int:
    """Peak memory of this process since `forget_peak_memory`, or since its start."""
    with suppress(OSError):
        status = (_SELF / "status").read_text(encoding="ascii")
        if peak_kb := re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE):
            return int(peak_kb[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts in bytes, other systems in kilobytes.
    return peak if sys.platform == "darwin" else peak * 1024


_KEPT_BYTES = 256 * 2**20
_MAX_BYTES = 32 * 2**20
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

WORTH_RETURNING_BYTES = 2 * _KEPT_BYTES
"""Freed bytes that are worth returning to the system: twice what stays at the end of the heap
anyway.
"""


class _Counts(ctypes.Structure):
    """`struct mallinfo2`."""

    _fields_ = (("numbers", ctypes.c_size_t * 10),)


_FREE = 8
"""The place of the free bytes on the heap."""

_library = ctypes.CDLL(None) if os.name == "posix" else None
_mallopt, _trim, _mallinfo = (
    getattr(_library, name, None) for name in ("mallopt", "malloc_trim", "mallinfo2")
)
if _mallinfo is not None:
    _mallinfo.restype = _Counts


def keep_freed() -> None:
    """Keep tensors of up to 32 MB on the heap, and up to 256 MB of free memory at its end (glibc
    only).

    A forward pass allocates and frees tensors all the time, and the system clears every new page
    (`benchmarks/freed_memory.py` at 49c381f5). Settings of the environment are not overruled.
    """
    if _mallopt and not any(
        name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ
    ):
        _mallopt(_M_MMAP_THRESHOLD, _MAX_BYTES)
        _mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def freed_bytes() -> float:
    """Free bytes on the heap, returned to the system or not; infinite if unknown."""
    return float(_mallinfo().numbers[_FREE]) if _mallinfo is not None else float("inf")


def give_back_freed() -> None:
    """Return free memory to the system: there may be gigabytes of it, in pieces."""
    if _trim is not None:
        _trim(0)
