"""How long work tells how far it is, how it is stopped, and how it goes on after an attempt that was broken off."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Literal, TypeVar

Stage = Literal[
    "start",
    "load",
    "text",
    "calibrate",
    "prune",
    "walk",
    "evaluate",
    "read",
    "continue",
    "diverge",
    "time",
    "write",
    "prove",
    "verify",
]
"""The parts of a job in the order they happen; `start` is importing the engine, `text` is reading text, or letting the
model write it, `walk` is calibrating, pruning and answering at each block before the next one is read.
"""

STAGE_TITLES: dict[Stage, str] = {
    "start": "Starting the engine",
    "load": "Loading the model",
    "text": "Preparing text",
    "calibrate": "Calibrating",
    "prune": "Pruning",
    "walk": "Going through the blocks once",
    "evaluate": "Evaluating",
    "read": "Reading the prompt",
    "continue": "Writing continuations",
    "diverge": "Comparing token by token",
    "time": "Timing both models in turn",
    "write": "Writing the files",
    "prove": "Loading the files in a fresh process",
    "verify": "Reading everything that carries a checksum",
}


@dataclass(frozen=True)
class Step:
    """How far work is.

    done, total: in the stage's own unit (`unit`: "tokens", "passages", "batches", "steps", "megabytes").
    message: one line for a person, such as which model is being evaluated.
    n_right: of the `done` passages of the record being evaluated, those with the whole last word right; None in any
    other stage. Passages are answered in a shuffled order, chunk by chunk (the first 256; longest first within a
    chunk), so that done and n_right are nearly a fair sample of the total. point: the place in the run's `points`, from
    0, of the sparse model that is made or asked, in a walk the last of them; None while it is the dense one.
    """

    stage: Stage
    done: int
    total: int
    _: KW_ONLY
    unit: str = "steps"
    message: str = ""
    n_right: int | None = None
    point: int | None = None


OnStep = Callable[[Step], None]
"""Called between batches and blocks. May raise `Cancelled`; callers keep nothing half-done."""


def ignore_steps(step: Step) -> None:
    """Progress for those who do not want any."""


OnText = Callable[..., None]
"""Called with the texts that models have written so far, two or more, before the step that counts them."""


def ignore_text(*texts: str) -> None:
    """Texts for those who want them only when they are whole."""


T = TypeVar("T")

Checkpointed = Callable[[int, Callable[[], T]], T]
"""Gives one part of long work, such as a block's, by its number: as an earlier attempt left it, or made now by calling
the second.
"""


def without_checkpoint(index: int, make: Callable[[], T]) -> T:
    """The part made now, and kept in memory only."""
    return make()
