"""One job: a frozen copy of its row in the job table."""

from dataclasses import dataclass
from typing import Any, Literal

JobState = Literal["queued", "running", "done", "failed", "cancelled", "crashed"]
JobKind = Literal["run", "continuation", "divergence"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What was asked for, how far it is, and how it ended.

    done, total: of the stage, in `unit`. rate: units a second. Times are seconds since the epoch.
    n_right: of the `done` passages of the record being evaluated, those with the last word right; None in other stages.
    point: the sparse model that is made or asked, as in Step; None while it is the dense one.
    queued_at: when this attempt was asked for. error_text: why it ended early, for a person.
    exit_code: as subprocess gives it, negative for a signal; None when nobody could see it.
    left_text, right_text: what two models have written so far, where the job is a prompt; foreign text.
    """

    id: int
    kind: JobKind
    key: str
    settings: dict[str, Any]
    state: JobState
    stage: str
    done: int
    total: int
    unit: str
    rate: float | None
    message: str
    n_right: int | None = None
    point: int | None = None
    attempt: int
    created_at: float
    queued_at: float
    started_at: float | None
    finished_at: float | None
    heartbeat_at: float | None
    pid: int | None
    exit_code: int | None
    cancel_requested_at: float | None
    error_kind: str
    error_text: str
    error_advice: str
    worker: str
    left_text: str = ""
    right_text: str = ""
    log_path: str

    @property
    def live(self) -> bool:
        """Whether it is queued or running."""
        return self.state in ("queued", "running")

    @property
    def remaining_s(self) -> float | None:
        """Seconds to the end of the stage at its present rate, or None while that is not known."""
        if self.state != "running" or not self.rate or self.total <= 0:
            return None
        return max(0.0, (self.total - self.done) / self.rate)
