"""One job: a frozen copy of its row in the job table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta

JobState = Literal["queued", "running", "done", "failed", "cancelled", "crashed"]
JobKind = Literal["run", "continuation", "divergence"]
Move = Literal["front", "up", "down"]
"""Where a waiting job may be moved in the queue: before all others, or past one of them."""

Moment = Annotated[float, Meta(ge=0, le=250_000_000_000)]
"""Seconds since the epoch; the last one is before the year 10,000, where calendars end."""

Count = Annotated[int, Meta(ge=0)]
Pid = Annotated[int, Meta(ge=0, le=2**31 - 1)]

DAMAGED = "Damaged"
"""The error_kind of a job whose row could not be read."""

LOST: dict[str, Any] = {"damaged": True}
"""In place of settings that cannot be read: no kind of job takes these, so that a retry asks for nothing."""

_SLOWEST = 1e-9


class Taken(NamedTuple):
    """Seconds that a job has spent in a stage, for one sparse model or for none, before it went on to the next."""

    stage: str
    point: int | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Job:
    """What was asked for, how far it is, and how it ended.

    done, total: of the stage, in `unit`. rate: units a second. Times are seconds since the epoch.
    n_right: of the `done` passages of the record being evaluated, those with the last word right; None in other stages.
    point: the sparse model that is made or asked, as in Step; None while it is the dense one.
    queued_at: when this attempt was asked for. error_text: why it ended early, for a person.
    exit_code: as subprocess gives it, negative for a signal; None when nobody could see it.
    taken: what this attempt has spent where, in order, up to the last heartbeat; what comes again is there again.
    place: where somebody has put it in the queue, see `queue_order`; None where nobody has.
    left_text, right_text: what two models have written so far, where the job is a prompt; foreign text.
    """

    id: int
    kind: JobKind
    key: str
    settings: dict[str, Any]
    state: JobState
    stage: str
    done: Count
    total: Count
    unit: str
    rate: Annotated[float, Meta(ge=0, le=1e15)] | None
    message: str
    n_right: Count | None = None
    point: Count | None = None
    attempt: Annotated[int, Meta(ge=1)]
    created_at: Moment
    queued_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    heartbeat_at: Moment | None
    pid: Pid | None
    exit_code: int | None
    cancel_requested_at: Moment | None
    error_kind: str
    error_text: str
    error_advice: str
    worker: str
    left_text: str = ""
    right_text: str = ""
    place: float | None = None
    taken: tuple[Taken, ...] = ()
    log_path: str

    @property
    def live(self) -> bool:
        """Whether it is queued or running."""
        return self.state in ("queued", "running")

    @property
    def lost(self) -> bool:
        """Whether nobody knows any more what was asked for."""
        return self.settings == LOST

    @property
    def remaining_s(self) -> float | None:
        """Seconds to the end of the stage at its present rate, or None while that is not known."""
        if self.state != "running" or not self.rate or self.rate < _SLOWEST or self.total <= 0:
            return None
        return max(0.0, (self.total - self.done) / self.rate)


def queue_order(job: Job) -> tuple[float, float, int]:
    """What waiting jobs are sorted by: prompts before runs, then first come, first served, but for those moved.

    A prompt that nobody has moved stands at 0, a run at 1.
    """
    usual = 1.0 if job.kind == "run" else 0.0
    return usual if job.place is None else job.place, job.queued_at, job.id


def places(queue: Sequence[Job]) -> list[float]:
    """The places under which these waiting jobs stand in just this order.

    Whatever stands before a prompt goes below 0, every run behind the last prompt between 0 and 1: so a prompt that
    comes later still goes before runs that nobody has put before a prompt, and a run that comes later is the last.
    """
    n_before = max((at + 1 for at, job in enumerate(queue) if job.kind != "run"), default=0)
    n_behind = len(queue) - n_before
    before = [(at - n_before) / n_before for at in range(n_before)]
    return before + [(at + 1) / (n_behind + 1) for at in range(n_behind)]
