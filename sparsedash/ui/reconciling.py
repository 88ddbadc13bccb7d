"""The thread that keeps the jobs going for as long as the server lives, and whether it does."""

import logging
import threading
import time

from sparsedash.schema.errors import SparseDashError
from sparsedash.ui import frame
from sparsedash.ui.polling import RECONCILE_S

log = logging.getLogger(__name__)

LATE_S = 30.0
"""Without a whole round for so long, jobs are no longer looked after."""


class Reconciling:
    """Reconciles the job table about once a second, from `start` to `stop`."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="reconcile-jobs", daemon=True)
        self._done_at = time.monotonic()
        self._problem = ""

    def start(self) -> None:
        """Begin."""
        self._done_at = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """End after the present round."""
        self._stop.set()

    def trouble(self) -> str:
        """Why jobs are not looked after, in words; empty while they are."""
        if self._stop.is_set():
            return ""
        if not self._thread.is_alive():
            return "The thread that looks after the jobs is dead. Start the server again."
        late_s = time.monotonic() - self._done_at
        if late_s < LATE_S:
            return ""
        why = f": {self._problem}" if self._problem else "; its last round has not ended."
        return f"The jobs have not been looked after for {late_s:.0f} s{why}"

    def _go_on(self) -> None:
        while not self._stop.wait(RECONCILE_S):
            try:
                frame.backend().reconcile()
            except Exception as error:  # noqa: BLE001 - nobody else notices dead workers: the next round must come
                self._note(error)
            else:
                self._done_at, self._problem = time.monotonic(), ""

    def _note(self, error: Exception) -> None:
        problem = str(error) or type(error).__name__
        if problem != self._problem:
            log.warning("Jobs cannot be reconciled: %s", problem, exc_info=not isinstance(error, SparseDashError))
        self._problem = problem
