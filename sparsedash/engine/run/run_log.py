"""The log of one run: seconds of each stage, what came from the store, and warnings for a person."""

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import sparsedash
from sparsedash.schema.progress import OnStep, Stage, Step
from sparsedash.storage.machine import forget_peak_memory, peak_memory_bytes
from sparsedash.storage.upkeep.folder_sizes import folder_size


class RunLog:
    """What one run took, and what a person should know about it.

    folder: the data folder. seconds: spent in each stage. cached: what was read from the store instead of computed.
    warnings: for a person. point: the sparse model that is made or asked, as in Step; set by whoever goes through them.
    walk: how far a walk is in which everything is done at each block, which is told then in place of anything else.
    """

    def __init__(self, on_step: OnStep, folder: Path) -> None:
        self._on_step, self._folder = on_step, folder
        self.point: int | None = None
        self.walk: Step | None = None
        self.seconds: dict[str, float] = {}
        self.cached: list[str] = []
        self.warnings: list[str] = []
        self._stored_before = 0
        self._stage: Stage | None = None
        self._since = 0.0

    def begin(self) -> None:
        """From now on the memory and the disk that are taken count as this run's."""
        forget_peak_memory()
        self._stored_before = folder_size(self._folder).n_bytes

    @property
    def peak_bytes(self) -> int:
        """The most memory that this process has held since the run began, its earlier models' included."""
        return peak_memory_bytes()

    @property
    def disk_bytes(self) -> int:
        """By how much the data folder has grown since the run began; 0 where more was deleted."""
        return max(0, folder_size(self._folder).n_bytes - self._stored_before)

    def on_step(self, step: Step) -> None:
        """Tell how far the work is, and on which sparse model."""
        self._on_step(self.walk or replace(step, point=self.point))

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Add what happens inside to the seconds of a stage; what is timed inside as another counts as that alone."""
        outer = self._enter(stage)
        try:
            yield
        finally:
            self._enter(outer)

    def _enter(self, stage: Stage | None) -> Stage | None:
        """From now on time counts as this stage's; returns whose it was until now."""
        now, before = time.perf_counter(), self._stage
        if before is not None:
            self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._stage, self._since = stage, now
        return before

    def note_cached(self, what: str) -> None:
        """Write down, once, that this was read from the store."""
        if what not in self.cached:
            self.cached.append(what)

    def warn(self, line: str | None) -> None:
        """Write down a line for a person, once; None is no line."""
        if line and line not in self.warnings:
            self.warnings.append(line)


def versions() -> dict[str, str]:
    """What numbers can depend on: this program, Python, torch, transformers."""
    return {
        "sparsedash": sparsedash.__version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
