"""The half that knows torch: models, pruning, evaluation. Runs only in worker processes and in the shell."""

import ctypes
import os

# Two settings of the allocator of glibc, by their names there. Tensors of up to 32 MB lie on the heap, and 256 MB that
# are free at its end stay there until they are given back (`give_back_freed`): a forward pass makes and frees tensors
# all the time, and the system clears every new page (benchmarks/freed_memory.py). Whoever has said how memory is kept
# is not overruled.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
if _mallopt and not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
    _mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
    _mallopt(_M_TRIM_THRESHOLD, 256 * 2**20)

# Read when the hub's clients are imported: they tell the hub what was asked for, not what asked for it and how often.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")

# Read when torch is loaded: threads that wait for each other sleep after a while. They would spin for milliseconds,
# which halves the speed beside other work; so many turns cost nothing on an idle machine, where 1,000 cost 8 % of a
# forward pass. Whoever has said how they wait is not overruled.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
