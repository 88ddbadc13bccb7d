"""Progress from the worker of one job to the job table, and requests to stop the other way."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.errors import Cancelled, StoreError, encodable
from sparsedash.schema.progress import STAGE_TITLES, Step, Taken

log = logging.getLogger(__name__)

INTERVAL_S = 0.2
_WINDOW_S = 30.0
_SHORTEST_WINDOW_S = 0.5


class StopFlag:
    """Set by SIGTERM. Inside `raising`, the signal raises Cancelled at once, a single time."""

    def __init__(self) -> None:
        self.requested = False
        self._raise = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.requested = True
        if self._raise:
            self._raise = False
            raise Cancelled

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Let a request to stop interrupt this block at any point."""
        self._raise = True
        try:
            if self.requested:
                raise Cancelled
            yield
        finally:
            self._raise = False

    @contextmanager
    def holding_back(self) -> Iterator[None]:
        """Defer a request to stop to the end of this block."""
        kept, self._raise = self._raise, False
        try:
            yield
        finally:
            self._raise = kept and not self.requested


class Reporter:
    """The `OnStep` of one job. Writes at most five times a second, and raises Cancelled when the
    job is to stop.
    """

    def __init__(
        self, table: JobTable, job: Job, stop: StopFlag, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._table, self._job, self._stop, self._clock = table, job, stop, clock
        self._over: tuple[Taken, ...] = ()
        self._present: Step | None = None
        self._begun_at = 0.0
        self._written_at = float("-inf")
        self._samples: deque[tuple[float, float]] = deque()
        self._texts: tuple[str, ...] = ()

    def wrote(self, *texts: str) -> None:
        """The `OnText` of the job: the models' texts so far, written together with the next
        step.
        """
        self._texts = tuple(map(encodable, texts))

    def __call__(self, step: Step) -> None:
        """The `OnStep` of the job."""
        now, before = self._clock(), self._present
        if self._stop.requested:
            raise Cancelled
        if before is None or (before.stage, before.point) != (step.stage, step.point):
            which = "" if step.point is None else f", sparse model {step.point + 1}"
            log.info("%s%s.", STAGE_TITLES[step.stage], which)
            self._over += (
                () if before is None else (Taken(before.stage, before.point, now - self._begun_at),)
            )
            self._begun_at = now
            self._samples.clear()
        elif now - self._written_at < INTERVAL_S:
            return
        self._present, self._written_at = step, now
        taken = (*self._over, Taken(step.stage, step.point, now - self._begun_at))
        with self._stop.holding_back():
            try:
                self._table.report(
                    self._job,
                    replace(
                        step, rate=self._rate(now, step.worked), taken=taken, texts=self._texts
                    ),
                )
                wanted = self._table.wanted(self._job)
            except StoreError as error:
                # Hours of work are worth more than one line about them.
                log.warning("Progress could not be written: %s", error)
                wanted = True
        if not wanted or self._stop.requested:
            raise Cancelled

    def _rate(self, now: float, done: float) -> float | None:
        """Units a second over the last half minute; None from too few samples. A step backwards
        starts over.

        A step that has done no more tells nothing: the rate is up to the last one that has.
        """
        samples = self._samples
        if samples and done < samples[-1][1]:
            samples.clear()
        if not samples or done > samples[-1][1]:
            samples.append((now, done))
        now = samples[-1][0]
        while now - samples[0][0] > _WINDOW_S and len(samples) > 2:
            samples.popleft()
        seconds, n = now - samples[0][0], done - samples[0][1]
        return n / seconds if seconds >= _SHORTEST_WINDOW_S and n > 0 else None
