"""What this process has freed and the C library keeps for the next time; by glibc, elsewhere as the system does it."""

import ctypes
import os

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
