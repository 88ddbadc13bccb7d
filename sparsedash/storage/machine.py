"""What this machine has for its programs."""

import os
from pathlib import Path

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
