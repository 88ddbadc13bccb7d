"""What this machine has for its programs."""

import os
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

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
