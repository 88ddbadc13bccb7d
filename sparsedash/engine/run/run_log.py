"""Log of one run: seconds of each stage, what was cached, warnings, and progress."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sparsedash.schema.progress import OnStep, Stage, Step
from sparsedash.storage.local_machine import is_overloaded


@dataclass(eq=False)
class SinglePass:
    """Progress of a single pass over the blocks, reported instead of that of its stages.

    task_share: of a block's work, that of one task. Calibration moves the progress within a task.
    """

    step: Step
    task_share: float
    is_over: bool = False

    def at(self, block: int, n_tasks_done: int) -> Step:
        """The progress from now on: so many tasks of this block are done."""
        self.step = replace(self.step, done=block, ahead=n_tasks_done * self.task_share)
        return self.step

    def progress(self, step: Step) -> Step:
        """Progress to report instead of a stage's step."""
        if step.stage != "calibrate":
            return self.step
        # The calibration counts all blocks.
        share = min(1.0, max(0.0, step.share * self.step.total - self.step.done))
        return replace(self.step, ahead=self.step.ahead + share * self.task_share)


class RunLog:
    """Log of one run: seconds of each stage, what was cached, warnings, progress."""

    def __init__(self, on_step: OnStep) -> None:
        self.seconds: dict[str, float] = {}
        self.cached: dict[str, None] = {}
        self.warnings: dict[str, None] = {}
        self.busy = False
        self._on_step = on_step
        self._point: int | None = None
        self._quantised = False
        self._single_pass: SinglePass | None = None
        self._warned_topics: set[str] = set()
        self._last: Step | None = None
        self._stage: Stage | None = None
        self._since = 0.0

    def on_step(self, step: Step) -> None:
        """Report progress, and on which sparse model."""
        if self._single_pass is None or self._single_pass.is_over:
            step = replace(step, point=self._point, quantised=self._quantised)
        else:
            step = self._single_pass.progress(step)
        self._last = step
        self._on_step(step)

    def repeat(self) -> None:
        """Report the last progress again, so that the work can be stopped."""
        if self._last is not None:
            self._on_step(self._last)

    @contextmanager
    def at_point(self, number: int | None, quantised: bool = False) -> Iterator[None]:
        """Inside, progress is that of the sparse model with this number; None: of the dense one."""
        outer = (self._point, self._quantised)
        self._point = number
        self._quantised = quantised
        try:
            yield
        finally:
            self._point, self._quantised = outer

    @contextmanager
    def in_single_pass(self, single_pass: SinglePass) -> Iterator[None]:
        """Inside, progress is that of the single pass until it is over."""
        self._single_pass = single_pass
        try:
            yield
        finally:
            self._single_pass = None

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Add the time inside to a stage's seconds, but that of another stage inside."""
        outer = self._stage
        self._enter(stage)
        try:
            yield
        finally:
            self._enter(outer)

    def _enter(self, stage: Stage | None) -> None:
        """Count time as this stage's from now on."""
        time_s = time.perf_counter()
        if self._stage is not None:
            self.seconds[self._stage] = (
                self.seconds.get(self._stage, 0.0) + time_s - self._since
            )
            # At the end of each stage: other work must have slowed it down.
            self.busy = self.busy or is_overloaded()
        self._stage = stage
        self._since = time_s

    def note_cached(self, what: str) -> None:
        """Note, once, that this was read from the store."""
        self.cached[what] = None

    def warn(self, line: str | None, topic: str = "") -> None:
        """Add a warning, once; of a topic only the first. None is no warning."""
        if not line or topic in self._warned_topics:
            return
        self.warnings[line] = None
        if topic:
            self._warned_topics.add(topic)
