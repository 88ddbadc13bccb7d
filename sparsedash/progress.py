"""How long work tells how far it is, and how it is stopped."""

from typing import Literal, Protocol

Stage = Literal["load", "text", "calibrate", "prune", "evaluate", "continue"]
"""The parts of a job in the order they happen; `text` is sampling calibration text from the model."""

STAGE_TITLES: dict[Stage, str] = {
    "load": "Loading the model",
    "text": "Sampling calibration text",
    "calibrate": "Calibrating",
    "prune": "Pruning",
    "evaluate": "Evaluating",
    "continue": "Writing continuations",
}


class OnStep(Protocol):
    """Called between batches and blocks. May raise `Cancelled`; callers keep nothing half-done.

    done, total: in the stage's own unit (`unit`: "tokens", "passages", "layers", "steps").
    message: one line for a person, such as which model is being evaluated.
    """

    def __call__(
        self, stage: Stage, done: int, total: int, *, unit: str = "steps", message: str = ""
    ) -> None:
        """Take note, or raise `Cancelled`."""
        ...


def ignore_steps(
    stage: Stage, done: int, total: int, *, unit: str = "steps", message: str = ""
) -> None:
    """Progress for those who do not want any."""
