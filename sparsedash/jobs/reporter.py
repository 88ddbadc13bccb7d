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
from sparsedash.schema.progress import STAGE_TITLES, StageTime, Step

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
        was_raising = self._raise
        self._raise = False
        try:
            yield
        finally:
            self._raise = was_raising and not self.requested


class Reporter:
    """The `OnStep` of one job: writes five times a second at most; raises Cancelled to stop it."""

    def __init__(
        self,
        table: JobTable,
        job: Job,
        stop: StopFlag,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._job = job
        self._stop = stop
        self._clock = clock
        self._over: tuple[StageTime, ...] = ()
        self._present: Step | None = None
        self._begun_at = 0.0
        self._written_at = float("-inf")
        self._samples: deque[tuple[float, float]] = deque()
        self._texts: tuple[str, ...] = ()

    def wrote(self, *texts: str) -> None:
        """The `OnText` of the job: the models' texts so far, written with the next step."""
        self._texts = tuple(map(encodable, texts))

    def __call__(self, step: Step) -> None:
        """The `OnStep` of the job."""
        now_s = self._clock()
        before = self._present
        if self._stop.requested:
            raise Cancelled
        if before is None or (before.stage, before.point) != (step.stage, step.point):
            which = "" if step.point is None else f", sparse model {step.point + 1}"
            log.info("%s%s.", STAGE_TITLES[step.stage], which)
            if before is not None:
                spent_s = now_s - self._begun_at
                self._over += (StageTime(before.stage, before.point, spent_s),)
            self._begun_at = now_s
            self._samples.clear()
        elif now_s - self._written_at < INTERVAL_S:
            return
        self._present = step
        self._written_at = now_s
        stage_times = (
            *self._over,
            StageTime(step.stage, step.point, now_s - self._begun_at),
        )
        with self._stop.holding_back():
            try:
                self._table.report(
                    self._job,
                    replace(
                        step,
                        rate=self._rate(now_s, step.worked),
                        stage_times=stage_times,
                        texts=self._texts,
                    ),
                )
                wanted = self._table.wanted(self._job)
            except StoreError as error:
                # Hours of work are worth more than one line about them.
                log.warning("Progress could not be written: %s", error)
                wanted = True
        if not wanted or self._stop.requested:
            raise Cancelled

    def _rate(self, now_s: float, done: float) -> float | None:
        """Units a second over the last half minute; None from too few samples.

        A step backwards starts over; a step without progress is ignored.
        """
        samples = self._samples
        if samples and done < samples[-1][1]:
            samples.clear()
        if not samples or done > samples[-1][1]:
            samples.append((now_s, done))
        last_s = samples[-1][0]
        while last_s - samples[0][0] > _WINDOW_S and len(samples) > 2:
            samples.popleft()
        seconds = last_s - samples[0][0]
        n = done - samples[0][1]
        return n / seconds if seconds >= _SHORTEST_WINDOW_S and n > 0 else None
