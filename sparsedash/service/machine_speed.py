"""How fast this machine multiplies matrices: measured once by a small process of its own, then read from the store.

The front may not import torch, and a measurement in the server would make its pages wait; numpy asks the same kind of
library for the same products.
"""

import os
import platform
import subprocess
import sys
import threading
import time

import numpy as np

from sparsedash.schema import notes
from sparsedash.storage.store import Store

_TOKENS, _HIDDEN, _WIDTH = 2048, 576, 1536
"""The shapes of the built-in model's largest product over one batch."""

_BURSTS, _BURST_S, _PAUSE_S = 8, 0.1, 0.2
"""Spread over some seconds: the page that asks for the measurement keeps the machine busy while it opens."""

_OLD_S = 600.0


class MachineSpeed:
    """The speed of this machine as far as it is known. One measuring process at a time; nothing waits for it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._measuring: subprocess.Popen[str] | None = None
        self._failed = False
        self._lock = threading.Lock()

    def known(self) -> float | None:
        """Multiply-adds times two, per second, on all cores; None until it was measured, which this begins.

        It takes some seconds. What was measured long ago, when the machine may have been busy, is measured anew
        meanwhile; what was measured on another machine with the same data folder does not count.
        """
        name = notes.machine_speed(platform.node(), os.cpu_count() or 1)
        noted, _, then = (self._store.recall(name) or "").partition(" at ")
        known, age_s = _number(noted), time.time() - (_number(then) or 0.0)
        if known is None or not 0.0 <= age_s < _OLD_S:
            measured = self._measured()
            if measured is not None:
                known = measured
                self._store.remember(name, f"{measured} at {time.time()}")
        return known

    def is_measuring(self) -> bool:
        """Whether the measuring process has not ended yet."""
        with self._lock:
            return self._measuring is not None and self._measuring.poll() is None

    def _measured(self) -> float | None:
        """What the process has printed; begins it where there is none, unless one has failed."""
        with self._lock:
            if self._measuring is None and not self._failed:
                command = [sys.executable, "-m", __name__]
                quiet = subprocess.DEVNULL
                self._measuring = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True)  # noqa: S603
            if self._measuring is None or self._measuring.poll() is None:
                return None
            printed, _ = self._measuring.communicate()
            self._measuring = None
            found = _number(printed)
            self._failed = found is None
            return found

    def close(self) -> None:
        """End a measurement that is under way."""
        with self._lock:
            if self._measuring is not None:
                self._measuring.kill()
                self._measuring.communicate()
                self._measuring = None


def measure(bursts: int = _BURSTS) -> float:
    """Multiply-adds times two, per second, of float32 products on all cores: what the fastest quarter of them reach."""
    random = np.random.default_rng(0)
    left = random.random((_TOKENS, _HIDDEN), dtype=np.float32)
    right = random.random((_HIDDEN, _WIDTH), dtype=np.float32)
    out = left @ right  # the first one wakes the library's threads
    taken: list[float] = []
    for _ in range(bursts):
        burst_ends = time.perf_counter() + _BURST_S
        while (begun := time.perf_counter()) < burst_ends:
            np.matmul(left, right, out=out)
            taken.append(time.perf_counter() - begun)
        time.sleep(_PAUSE_S)
    return 2.0 * _TOKENS * _HIDDEN * _WIDTH / sorted(taken)[len(taken) // 4]


def _number(text: str) -> float | None:
    """A speed that can be divided by, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 1e6 < value < 1e18 else None


if __name__ == "__main__":
    sys.stdout.write(f"{measure()}\n")
