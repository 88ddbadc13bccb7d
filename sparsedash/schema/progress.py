"""Progress of long work: its stages and steps, cancellation, and parts that resume from a
checkpoint.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal, NamedTuple, TypeVar

Stage = Literal[
    "start",
    "load",
    "text",
    "calibrate",
    "prune",
    "heal",
    "quantise",
    "walk",
    "evaluate",
    "answer",
    "read",
    "continue",
    "diverge",
    "time",
    "write",
    "prove",
    "verify",
]
"""Stages of a job in their order; `start` imports the engine, `text` reads text or generates it,
`walk` is a single pass that calibrates, prunes and evaluates at each block before the next one is
read.
"""

STAGE_TITLES: dict[Stage, str] = {
    "start": "Starting the engine",
    "load": "Loading the model",
    "text": "Preparing text",
    "calibrate": "Calibrating",
    "prune": "Pruning",
    "heal": "Healing",
    "quantise": "Quantising",
    "walk": "Processing block by block",
    "evaluate": "Evaluating",
    "answer": "Answering tasks",
    "read": "Reading the prompt",
    "continue": "Writing continuations",
    "diverge": "Comparing token by token",
    "time": "Timing both models in turn",
    "write": "Writing the files",
    "prove": "Loading the files in a fresh process",
    "verify": "Verifying checksums",
}


class StageTime(NamedTuple):
    """Seconds that a job spent in a stage, for one sparse model or for none, before it went on to
    the next.
    """

    stage: Stage
    point: int | None
    seconds: float


_SLOWEST = 1e-9


@dataclass(frozen=True)
class Step:
    """Progress within a stage: made by the engine, completed by the worker, read by the pages.

    done, total: in `unit`: "tokens", "passages", "questions", "batches", "steps", "blocks",
    "megabytes". message: one line for a person, such as which model is being evaluated. n_right: of
    the `done` passages, those with the whole last word right; None in other stages. Passages are
    read in a shuffled order, chunk by chunk (the first 256; longest first within a chunk), so that
    done and n_right are nearly a fair sample of the total. ahead: work beyond `done`, in units;
    negative where work is left on the done ones. point: index in the run's `points` of the sparse
    model that is made or evaluated, in a walk the last of them; None for the dense one.
    quantised: whether that model is a quantised one.

    Of the worker: rate: units a second. stage_times: time so far, stage by stage in order, the present
    one last; a stage that comes again is listed again. texts: what each model of a prompt wrote so
    far; foreign text. machine: of a cluster.
    n_machines: that work on it at the same time; stage_times has the time of all.
    """

    stage: Stage
    done: int
    total: int
    _: KW_ONLY
    unit: str = "steps"
    message: str = ""
    n_right: int | None = None
    ahead: float = 0.0
    point: int | None = None
    quantised: bool = False
    rate: float | None = None
    stage_times: tuple[StageTime, ...] = ()
    texts: tuple[str, ...] = ()
    machine: str = ""
    n_machines: int = 1

    @property
    def worked(self) -> float:
        """Work that is done, in units."""
        return self.done + self.ahead

    @property
    def share(self) -> float:
        """Share of the stage, 0 to 1."""
        return min(1.0, max(0.0, self.worked / self.total)) if self.total > 1 else 0.0

    @property
    def remaining_s(self) -> float | None:
        """Seconds to the end of the stage at its present rate; None when that is unknown."""
        if not self.rate or self.rate < _SLOWEST or self.total <= 0:
            return None
        return max(0.0, (self.total - self.worked) / self.rate)


STARTING = Step("start", 0, 0)


OnStep = Callable[[Step], None]
"""Called between batches and blocks. May raise `Cancelled`; callers keep nothing half-done."""


def ignore_steps(step: Step) -> None:
    """The callback that does nothing."""


def ignore(*_: object) -> None:
    """The callback for parts or texts that does nothing."""


OnPart = Callable[[int, int], None]
"""Called between parts of a piece of work with those that are done and all. May raise
`Cancelled`.
"""


def begin_parts(step: Step, on_step: OnStep) -> OnPart:
    """Report the step; the callback that reports its parts."""
    on_step(step)
    return lambda done, total: on_step(replace(step, done=done, total=total))


OnText = Callable[..., None]
"""Called with the texts that models have written so far, two or more, before the step that counts
them.
"""


T = TypeVar("T")

Checkpointed = Callable[[int, Callable[[], T]], T]
"""One numbered part of long work: from an earlier attempt's checkpoint, or made by calling the
second argument.
"""


def without_checkpoint(index: int, make: Callable[[], T]) -> T:
    """The part made now, without a checkpoint."""
    return make()
