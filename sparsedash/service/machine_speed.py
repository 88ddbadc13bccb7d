"""How fast this machine multiplies matrices and reads its disk: measured once by a small process of its own, then read
from the store.

The front may not import torch, and a measurement in the server would make its pages wait.
"""

import os
import platform
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import msgspec

from sparsedash.schema import notes
from sparsedash.schema.settings import Dtype
from sparsedash.storage.store import Store

_MEASURING = "sparsedash.engine.timing.machine_speed"
_OLD_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """float32, bfloat16: multiply-adds times two, per second, of products of such numbers on all cores. disk: bytes
    that are read per second; 0 where that could not be measured.
    """

    float32: float
    bfloat16: float
    disk: float = 0.0

    def of(self, dtype: Dtype) -> float:
        """The speed of products of this type of number."""
        return self.float32 if dtype == "float32" else self.bfloat16


class MachineSpeed:
    """The speed of this machine as far as it is known. One measuring process at a time; nothing waits for it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._measuring: subprocess.Popen[str] | None = None
        self._failed = False
        self._lock = threading.Lock()

    def known(self) -> Speeds | None:
        """What was measured; None until it was, which this begins.

        It takes some seconds. What was measured long ago, when the machine may have been busy, is measured anew
        meanwhile; what was measured on another machine with the same data folder does not count.
        """
        name = notes.machine_speed(platform.node(), os.cpu_count() or 1)
        noted = _noted(self._store.recall(name) or "")
        known = None if noted is None else noted.speeds
        if noted is None or not 0.0 <= time.time() - noted.at < _OLD_S:
            measured = self._measured()
            if measured is not None:
                known = measured
                self._store.remember(name, msgspec.json.encode(_Noted(measured, time.time())).decode())
        return known

    def is_measuring(self) -> bool:
        """Whether the measuring process has not ended yet."""
        with self._lock:
            return self._measuring is not None and self._measuring.poll() is None

    def _measured(self) -> Speeds | None:
        """What the process has printed; begins it where there is none, unless one has failed."""
        with self._lock:
            if self._measuring is None and not self._failed:
                command = [sys.executable, "-m", _MEASURING, str(self._store.folder)]
                quiet = subprocess.DEVNULL
                self._measuring = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True)  # noqa: S603
            if self._measuring is None or self._measuring.poll() is None:
                return None
            printed, _ = self._measuring.communicate()
            self._measuring = None
            found = _speeds(printed)
            self._failed = found is None
            return found

    def close(self) -> None:
        """End a measurement that is under way."""
        with self._lock:
            if self._measuring is not None:
                self._measuring.kill()
                self._measuring.communicate()
                self._measuring = None


@dataclass(frozen=True)
class _Noted:
    speeds: Speeds
    at: float


def _noted(text: str) -> _Noted | None:
    try:
        noted = msgspec.json.decode(text, type=_Noted)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return noted if _are_speeds(noted.speeds) else None


def _speeds(text: str) -> Speeds | None:
    """Speeds that can be divided by, or None."""
    try:
        found = msgspec.json.decode(text, type=Speeds)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return found if _are_speeds(found) else None


def _are_speeds(found: Speeds) -> bool:
    return all(1e6 < speed < 1e18 for speed in (found.float32, found.bfloat16)) and 0.0 <= found.disk < 1e18
