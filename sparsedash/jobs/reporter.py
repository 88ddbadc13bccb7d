"""Progress from the worker of one job to the job table, and requests to stop the other way."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sparsedash.jobs.job import BETWEEN_TEXTS, Job, Taken
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.errors import Cancelled, StoreError, encodable
from sparsedash.schema.progress import STAGE_TITLES, Step

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
    """The `OnStep` of one job. Writes at most five times a second, and raises Cancelled when the job is to stop."""

    def __init__(self, table: JobTable, job: Job, stop: StopFlag, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = table
        self._job = job
        self._stop = stop
        self._clock = clock
        self._taken: list[Taken] = []
        self._begun_at = 0.0
        self._written_at = float("-inf")
        self._rate = Rate()
        self._texts = ("", "")

    def wrote(self, *texts: str) -> None:
        """The `OnText` of the job: the models' texts so far, written together with the next step."""
        left, *others = (encodable(text).replace(BETWEEN_TEXTS, "\u241e") for text in texts)
        self._texts = left, BETWEEN_TEXTS.join(others)

    def __call__(self, step: Step) -> None:
        """The `OnStep` of the job."""
        now = self._clock()
        if self._stop.requested:
            raise Cancelled
        if self._goes_on(step):
            if now - self._written_at < INTERVAL_S:
                return
            self._taken[-1] = Taken(step.stage, step.point, now - self._begun_at)
        else:
            self._begin(step, now)
        self._written_at = now
        with self._stop.holding_back():
            wanted = self._write(step, self._rate.after(now, step.done))
        if not wanted or self._stop.requested:
            raise Cancelled

    def _goes_on(self, step: Step) -> bool:
        return bool(self._taken) and self._taken[-1][:2] == (step.stage, step.point)

    def _begin(self, step: Step, now: float) -> None:
        which = "" if step.point is None else f", sparse model {step.point + 1}"
        log.info("%s%s.", STAGE_TITLES[step.stage], which)
        if self._taken:
            self._taken[-1] = self._taken[-1]._replace(seconds=now - self._begun_at)
        self._taken.append(Taken(step.stage, step.point, 0.0))
        self._begun_at, self._rate = now, Rate()

    def _write(self, step: Step, rate: float | None) -> bool:
        try:
            self._table.report(self._job, step, rate=rate, texts=self._texts, taken=self._taken)
            return self._table.wanted(self._job)
        except StoreError as error:
            # Hours of work are worth more than one line about them.
            log.warning("Progress could not be written: %s", error)
            return True


class Rate:
    """Units a second over the last half minute."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def after(self, now: float, done: int) -> float | None:
        """The rate including this sample; None from too few samples. A step backwards starts over."""
        samples = self._samples
        if samples and done < samples[-1][1]:
            samples.clear()
        samples.append((now, done))
        while now - samples[0][0] > _WINDOW_S and len(samples) > 2:
            samples.popleft()
        first_at, first = samples[0]
        if now - first_at < _SHORTEST_WINDOW_S or done <= first:
            return None
        return (done - first) / (now - first_at)
