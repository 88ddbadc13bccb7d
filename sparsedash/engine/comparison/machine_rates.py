"""Rates of this machine, printed by a process of its own: matrix products and disk reads.

python -m sparsedash.engine.comparison.machine_rates FOLDER
"""

import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from sparsedash.engine.models.matmul import bf16_matmul_in_fp32
from sparsedash.schema.settings import Dtype

_TOKENS = 2048
_HIDDEN = 576
_WIDTH = 1536
"""The shapes of the built-in model's largest product over one batch."""

_BURSTS = 8
_BURST_S = 0.1
_PAUSE_S = 0.2
"""Spread over some seconds: the page that starts the measurement keeps the machine busy while it
opens.
"""

_BLOCK_BYTES = 2**24
_N_BLOCKS = 8
_ROOM = 4
"""Free space that the disk measurement needs, as a multiple of what it writes."""


def measure_machine(folder: Path, bursts: int = _BURSTS) -> dict[str, float]:
    """Rates per second of `float32` and `bfloat16` products and of reading from `disk`.

    Products in multiply-adds times two, on all cores; disk in bytes, 0 where it cannot be measured.
    """
    return {
        "float32": _products("float32", bursts),
        "bfloat16": _products("bfloat16", bursts),
        "disk": _disk_rate(folder),
    }


@torch.inference_mode()
def _products(dtype: Dtype, bursts: int) -> float:
    """Rate of the fastest quarter of the products, multiplied as in a run."""
    inputs, weight = (
        torch.rand(n, _HIDDEN).to(getattr(torch, dtype)) for n in (_TOKENS, _WIDTH)
    )
    seconds: list[float] = []
    with bf16_matmul_in_fp32(dtype):
        nn.functional.linear(
            inputs, weight
        )  # the first one wakes the library's threads
        for _ in range(bursts):
            burst_ends = time.perf_counter() + _BURST_S
            while (begun := time.perf_counter()) < burst_ends:
                nn.functional.linear(inputs, weight)
                seconds.append(time.perf_counter() - begun)
            time.sleep(_PAUSE_S)
    return 2.0 * _TOKENS * _HIDDEN * _WIDTH / sorted(seconds)[len(seconds) // 4]


def _disk_rate(folder: Path) -> float:
    """Rate of reading a file that was written, and then dropped from the system's cache."""
    with (
        suppress(OSError, AttributeError),
        tempfile.TemporaryFile(dir=folder, buffering=0) as file,
    ):
        state = os.fstatvfs(file.fileno())
        if state.f_bavail * state.f_frsize < _ROOM * _N_BLOCKS * _BLOCK_BYTES:
            return 0.0
        for _ in range(_N_BLOCKS):
            # Incompressible, as weights are.
            file.write(os.urandom(_BLOCK_BYTES))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        begun = time.perf_counter()
        n_bytes = 0
        while read := file.read(_BLOCK_BYTES):
            n_bytes += len(read)
        return n_bytes / (time.perf_counter() - begun)
    return 0.0


if __name__ == "__main__":
    json.dump(measure_machine(Path(sys.argv[1])), sys.stdout)
