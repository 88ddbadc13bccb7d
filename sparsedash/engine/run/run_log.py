"""The log of one run: seconds of each stage, what came from the store, and warnings for a person."""

import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version

import sparsedash
from sparsedash.schema.progress import OnStep, Stage, Step


class RunLog:
    """What one run took, and what a person should know about it.

    seconds: spent in each stage. cached: what was read from the store instead of computed. warnings: for a person.
    point: the sparse model that is made or asked, as in Step; set by whoever goes through them.
    """

    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step
        self.point: int | None = None
        self.seconds: dict[str, float] = {}
        self.cached: list[str] = []
        self.warnings: list[str] = []

    def on_step(self, step: Step) -> None:
        """Tell how far the work is, and on which sparse model."""
        self._on_step(replace(step, point=self.point))

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Add what happens inside to the seconds of a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started

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


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts in bytes, Linux in kilobytes.
    return peak if sys.platform == "darwin" else peak * 1024
