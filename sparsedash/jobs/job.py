"""One job, a frozen copy of its row in the job table; the order of the queue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta

JobState = Literal["queued", "running", "done", "failed", "cancelled", "crashed"]
JobKind = Literal["run", "find", "continuation", "divergence", "timing", "export", "verify", "part"]
"""`part`: of a run, on a machine of a cluster; never in a server's own table."""
RUNS: tuple[JobKind, ...] = ("run", "find")
"""The kinds whose result is a run: one of given sparsities, and one that looks for the largest."""
LONG: tuple[JobKind, ...] = (*RUNS, "timing", "export", "verify")
"""Kinds that take minutes: what somebody waits for at the page goes before them."""

Move = Literal["front", "up", "down"]
"""Where a waiting job may be moved in the queue: before all others, or past one of them."""

Priority = Literal["high", "normal", "low"]
"""Before whom a waiting job stands: all that are less urgent, whoever came first. Prompts are normal."""

Moment = Annotated[float, Meta(ge=0, le=250_000_000_000)]
"""Seconds since the epoch; the last one is before the year 10,000, where calendars end."""

Count = Annotated[int, Meta(ge=0)]
Pid = Annotated[int, Meta(ge=0, le=2**31 - 1)]

DAMAGED = "Damaged"
"""The error_kind of a job whose row could not be read."""

LOST: dict[str, Any] = {"damaged": True}
"""In place of settings that cannot be read: no kind of job takes these, so that a retry asks for nothing."""

_SLOWEST = 1e-9

BETWEEN_TEXTS = "\x1e"
"""Stands in `right_text` between the texts of several models; the character that is made for it."""


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
    place: where somebody has put it among waiting jobs of its priority, see `queue_order`; None where nobody has.
    left_text, right_text: what models have written so far, where the job is a prompt, see `texts`; foreign text.
    owner: who has asked for this attempt, where others are served; empty for whoever sits in front of the machine.
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
    priority: Priority = "normal"
    taken: tuple[Taken, ...] = ()
    owner: str = ""
    log_path: str

    @property
    def live(self) -> bool:
        """Whether it is queued or running."""
        return self.state in ("queued", "running")

    @property
    def texts(self) -> tuple[str, ...]:
        """What each model has written so far, where the job is a prompt: two or more."""
        return self.left_text, *self.right_text.split(BETWEEN_TEXTS)

    @property
    def stopping(self) -> bool:
        """Whether somebody has asked it to stop, and it has not yet."""
        return self.live and self.cancel_requested_at is not None

    @property
    def makes_run(self) -> bool:
        """Whether its result is a run."""
        return self.kind in RUNS

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


_RANKS: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}


def queue_order(job: Job) -> tuple[int, float, float, int]:
    """What waiting jobs are sorted by: priority; then prompts before runs; then first come, first served, but for those
    moved.

    A prompt that nobody has moved stands at 0; a run, or what else takes minutes, at 1.
    """
    usual = 1.0 if job.kind in LONG else 0.0
    return _RANKS[job.priority], usual if job.place is None else job.place, job.queued_at, job.id


def places_after_move(queue: Sequence[Job], job: Job, to: Move) -> list[tuple[float, int]]:
    """The new place and the id of every job that waits with the priority of `job`, after that was moved among them.

    queue: all waiting jobs, in order. Priorities are kept: no move leads past a more urgent job.
    """
    peers = [other for other in queue if other.priority == job.priority]
    at = [other.id for other in peers].index(job.id)
    target = {"front": 0, "up": max(0, at - 1), "down": at + 1}[to]
    peers.insert(target, peers.pop(at))
    return [(place, other.id) for place, other in zip(_places(peers), peers, strict=True)]


def _places(queue: Sequence[Job]) -> list[float]:
    """The places under which these waiting jobs stand in just this order.

    Whatever stands before a prompt goes below 0, every run behind the last prompt between 0 and 1: so a prompt that
    comes later still goes before runs that nobody has put before a prompt, and a run that comes later is the last.
    """
    n_before = max((at + 1 for at, job in enumerate(queue) if job.kind not in LONG), default=0)
    n_behind = len(queue) - n_before
    before = [(at - n_before) / n_before for at in range(n_before)]
    return before + [(at + 1) / (n_behind + 1) for at in range(n_behind)]
