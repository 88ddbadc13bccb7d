"""What came out of a search for the largest sparsity within a tolerance."""

from dataclasses import dataclass
from typing import Literal

from sparsedash.schema.errors import StoreError

TrialVerdict = Literal["within", "beyond", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One sparsity that was tried. record: the key of its answers. n_passages: how many it took to judge."""

    permille: int
    record: str
    verdict: TrialVerdict
    n_passages: int


@dataclass(frozen=True, kw_only=True)
class FindResult:
    """How much can go, as far as it is known; kept under the key of its run and written again after every trial.

    ratio, points: what may be lost. n_passages: the budget. steps: the sparsities (per mille) that could be tried,
    ascending. trials: in the order they were made. answer: the largest step that is within, with the next one not
    within or not there; None where not even the first is, or where it is still looked for.
    """

    key: str
    ratio: float
    points: float
    n_passages: int
    steps: tuple[int, ...]
    trials: tuple[Trial, ...]
    answer: int | None
    finished: bool

    def __post_init__(self) -> None:
        tried = [trial.permille for trial in self.trials]
        if not self.steps or not {*tried, *([] if self.answer is None else [self.answer])} <= set(self.steps):
            raise StoreError("Its trials do not belong to its steps.")

    @property
    def next_step(self) -> int | None:
        """The step after the answer, or the first one where there is no answer; None after the last."""
        behind = [step for step in self.steps if self.answer is None or step > self.answer]
        return behind[0] if behind else None

    def verdict_at(self, permille: int | None) -> TrialVerdict | None:
        """What was found at a step; None where it was not tried."""
        return next((trial.verdict for trial in self.trials if trial.permille == permille), None)
