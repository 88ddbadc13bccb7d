"""This machine: paths, the data folder's place, disk space, atomic writes of result files, memory."""

import ctypes
import errno
import os
import re
import resource
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from sparsedash.schema.errors import SettingsError, StoreError

Kind = Literal["file", "folder", "other", "nothing"]
"""other: a pipe, a device or a socket, which would be read for ever."""


def local_path(name: str) -> Path:
    """The path with `~` put in full; left as it is where nobody has that name."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def path_kind(path: Path) -> Kind:
    """What lies there, links followed; nothing as well where no file can have such a name."""
    try:
        # One look: a file that another process makes between two would be neither file nor folder, and yet be there.
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "nothing"
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def mode_in(folder: Path, mode: int) -> int:
    """The mode of what is made in this folder, where `mode` is its owner's: its group's too where the folder is."""
    shared = folder.stat().st_mode & 0o020
    return mode | mode >> 3 if shared else mode


def lies_below(path: Path, folders: Collection[str]) -> bool:
    """Whether a path, with all that lies directly in it, is in one of these folders once every link is followed.

    Nothing is opened. `..` is refused, whatever it would lead to.
    """
    if ".." in path.parts or "\0" in str(path):
        return False
    inner = list(path.iterdir()) if path_kind(path) == "folder" and _is_below(path, folders) else []
    return all(_is_below(each, folders) for each in (path, *inner))


def _is_below(path: Path, folders: Collection[str]) -> bool:
    try:
        whole = Path(os.path.realpath(path))
        return any(whole.is_relative_to(os.path.realpath(folder)) for folder in folders)
    except (OSError, ValueError):
        return False


def data_folder() -> Path:
    """The folder that SPARSEDASH_DATA_DIR names, else our own among the user's application data."""
    named = os.environ.get("SPARSEDASH_DATA_DIR")
    if named:
        return local_path(named)
    shared = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return local_path(shared) / "sparsedash"


def absolute_data_folder(folder: Path) -> Path:
    """The folder from the root on. Raises StoreError for a name that nobody means, before a folder is made of it."""
    expanded = local_path(str(folder))
    if expanded.parts[:1] and expanded.parts[0].startswith("~"):
        reason = f"nobody here is called {expanded.parts[0][1:]!r}"
    elif not all(part.strip() for part in expanded.parts) or any(ord(letter) < 32 for letter in str(expanded)):
        reason = "its name holds spaces alone, or signs that cannot be printed"
    else:
        return expanded.absolute()
    raise StoreError(
        f"The data folder {str(folder)!r} cannot be used: {reason}.",
        "Name another one with --data-dir or SPARSEDASH_DATA_DIR.",
    )


LEAST_FREE_BYTES = 200_000_000
"""With less than this a job would soon end half-way."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("No space left", "database or disk is full")
"""Of safetensors and of SQLite, which keep the number of the error to themselves."""


def require_job_room(folder: Path) -> None:
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


def write_atomically(path: Path, content: str | bytes) -> None:
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


class FolderSize(NamedTuple):
    """Files, their bytes, and when the newest was written, in seconds since the epoch; 0 where there is none."""

    n_files: int
    n_bytes: int
    written_at: float


def folder_size(folder: Path) -> FolderSize:
    """What lies in the folder and the folders in it; nothing where there is no folder, or where it may not be read."""
    n_files, n_bytes, written_at, todo = 0, 0, 0.0, [str(folder)]
    while todo:
        # Somebody may delete what is looked at.
        with suppress(OSError), os.scandir(todo.pop()) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    state = entry.stat(follow_symlinks=False)
                    n_files, n_bytes = n_files + 1, n_bytes + state.st_size
                    written_at = max(written_at, state.st_mtime)
    return FolderSize(n_files, n_bytes, written_at)


_SELF = Path("/proc/self")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of the container that this process runs in, by the two versions of the kernel's interface."""


def memory_bytes(limits: tuple[Path, ...] = _LIMITS) -> int:
    """Bytes of memory that there are, whatever else runs here; no more than this container may use."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in limits:
        try:
            text = limit.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        # "max", where there is no limit.
        found += [int(text)] if text.isdecimal() else []
    return min(found)


def mapped_files() -> list[tuple[int, int]]:
    """From where to where weight files lie in the addresses of this process; none where the system does not tell."""
    with suppress(OSError):
        lines = (_SELF / "maps").read_text(encoding="utf-8", errors="replace").splitlines()
        places = [line.partition(" ")[0].split("-") for line in lines if line.endswith(".safetensors")]
        return [(int(begin, 16), int(end, 16)) for begin, end in places]
    return []


def forget_peak_memory() -> None:
    """Let `peak_memory_bytes` count from now on, where the system can do that."""
    with suppress(OSError):
        (_SELF / "clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes() -> int:
    """The most memory that this process has held since it was last forgotten; where it cannot be, since it began."""
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB$", (_SELF / "status").read_text(encoding="ascii"), re.MULTILINE):
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts in bytes, other systems in kilobytes.
    return peak if sys.platform == "darwin" else peak * 1024


_KEPT_BYTES, _LARGEST_BYTES = 256 * 2**20, 32 * 2**20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

MUCH = 2 * _KEPT_BYTES
"""Bytes that were freed and are worth to be given back: twice what is kept at the end of the heap anyway."""


class _Counts(ctypes.Structure):
    """`struct mallinfo2`."""

    _fields_ = [
        ("arena", ctypes.c_size_t),
        ("ordblks", ctypes.c_size_t),
        ("smblks", ctypes.c_size_t),
        ("hblks", ctypes.c_size_t),
        ("hblkhd", ctypes.c_size_t),
        ("usmblks", ctypes.c_size_t),
        ("fsmblks", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    ]


_library = ctypes.CDLL(None) if os.name == "posix" else None
_mallopt, _trim, _mallinfo = (getattr(_library, name, None) for name in ("mallopt", "malloc_trim", "mallinfo2"))
if _mallinfo is not None:
    _mallinfo.restype = _Counts


def keep_freed() -> None:
    """Let tensors of up to 32 MB lie on the heap, and 256 MB that are free at its end stay until they are given back.

    A forward pass makes and frees tensors all the time, and the system clears every new page
    (benchmarks/freed_memory.py). Whoever has said how memory is kept is not overruled.
    """
    if _mallopt and not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        _mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
        _mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def freed_bytes() -> float:
    """What was freed and is still in the heap, given back or not; infinite, where no library tells."""
    return float(_mallinfo().fordblks) if _mallinfo is not None else float("inf")


def give_back_freed() -> None:
    """Let the system have what was freed: there may be gigabytes of it, in pieces."""
    if _trim is not None:
        _trim(0)
