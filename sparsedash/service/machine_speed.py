"""The speed of this machine, measured once by a small process: the front may not import torch."""

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace

import msgspec

from sparsedash.catalog.cost_model import Speeds
from sparsedash.jobs.local_runner import child_environment
from sparsedash.schema import store_keys
from sparsedash.storage.derived_notes import note_derived, recalled
from sparsedash.storage.store import Store

_SPEED_MODULE = "sparsedash.engine.comparison.machine_rates"
_VALID_S = 600.0
_POLL_S = 0.2


class MachineSpeed:
    """The speed of this machine, once measured. One measuring process at a time.

    busy: whether jobs run here. An old measurement then stays: another would disturb them, and be
    of a busy machine.
    """

    def __init__(self, store: Store, busy: Callable[[], bool] = lambda: False) -> None:
        self._store = store
        self._busy = busy
        self._measuring: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def known(self) -> Speeds | None:
        """The measured speeds; None until they are measured, which this begins.

        An old measurement holds until the next one ends; one of another machine with the
        same data folder does not count. A measurement that fails is not repeated.
        """
        name = store_keys.machine_speed_note(platform.node(), os.cpu_count() or 1)
        noted = recalled(self._store, name, Speeds)
        if noted is not None and (
            0.0 <= time.time() - noted.at < _VALID_S or self._busy()
        ):
            return noted
        with self._lock:
            if self._measuring is None:
                command = [
                    sys.executable,
                    "-P",
                    "-m",
                    _SPEED_MODULE,
                    str(self._store.folder),
                ]
                self._measuring = subprocess.Popen(  # noqa: S603
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env=child_environment(),
                )
            elif (
                self._measuring.poll() == 0
                and self._measuring.stdout
                and not self._measuring.stdout.closed
            ):
                with suppress(msgspec.MsgspecError):
                    speeds = msgspec.json.decode(
                        self._measuring.communicate()[0], type=Speeds
                    )
                    self._measuring = None
                    noted = replace(speeds, at=time.time())
                    note_derived(self._store, name, asdict(noted))
        return noted

    def measured(self) -> Speeds | None:
        """The speeds, measured now if necessary, in some seconds; None where that fails."""
        while (speeds := self.known()) is None and self.is_measuring():
            time.sleep(_POLL_S)
        return speeds or self.known()

    def is_measuring(self) -> bool:
        """Whether the measuring process has not ended yet."""
        with self._lock:
            return self._measuring is not None and self._measuring.poll() is None

    def close(self) -> None:
        """End a measurement that is under way."""
        with self._lock:
            if self._measuring is not None:
                with self._measuring as process:
                    process.kill()
