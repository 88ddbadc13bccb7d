"""One job, a frozen copy of its row in the job table; the order of the queue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sparsedash.schema.progress import STARTING, Step

JobState = Literal["queued", "running", "done", "failed", "cancelled", "crashed"]
EndState = Literal["done", "failed", "cancelled", "crashed"]
JobKind = Literal[
    "run", "find", "continuation", "divergence", "timing", "export", "verify", "part"
]
"""`part`: of a run, on a machine of a cluster; never in a server's own table."""
RUNS: tuple[JobKind, ...] = ("run", "find")
"""Kinds whose result is a run: of given sparsities, and a search for the largest."""
LONG: tuple[JobKind, ...] = (*RUNS, "timing", "export", "verify")
"""Kinds that take minutes; prompts go before them."""
CLUSTER = "cluster"
"""The worker of a job that machines of a cluster do, as the job table names it."""


def resume_advice(kind: JobKind) -> str:
    """Advice on a job of this kind that ended early: the parts that are kept, and how it goes on, for a person."""
    if kind in (*RUNS, "part"):
        return "Finished models are kept; “Resume” goes on from the last checkpoint."
    if kind == "continuation":
        # A text that was stopped stays as far as it was written.
        return "“Resume” starts it again."
    return "Nothing of it is kept; “Resume” starts it again."


def memory_advice(kind: JobKind) -> str:
    """Advice for a job of this kind whose memory ran out, for a person."""
    if kind in (*RUNS, "part"):
        advice = "Free some memory, or choose a smaller model, bfloat16 or less calibration text."
    else:
        advice = "Free some memory."
    return f"{advice} {resume_advice(kind)}"


Move = Literal["front", "up", "down"]
"""Where a queued job may be moved: before all others, or past one of them."""

Priority = Literal["high", "normal", "low"]
"""A queued job goes before all of lower priority, whatever their age. Prompts are normal."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A request, its progress, and how it ended. Times are seconds since the epoch.

    queued_at: when this attempt was asked for. earlier_s: seconds that earlier attempts worked.
    error_text: why it ended early, for a person.
    place: a user's own order of queued jobs of one priority, see `queue_order`; None without one.
    owner: the user who asked for this attempt; empty without a login.
    """

    id: int
    kind: JobKind
    key: str
    settings: dict[str, Any]
    state: JobState
    progress: Step = STARTING
    attempt: int
    queued_at: float
    started_at: float | None
    finished_at: float | None
    earlier_s: float = 0.0
    heartbeat_at: float | None
    pid: int | None
    cancel_requested_at: float | None
    error_text: str
    error_advice: str
    worker: str
    place: float | None = None
    priority: Priority = "normal"
    owner: str = ""
    log_path: str

    @property
    def live(self) -> bool:
        """Whether it is queued or running."""
        return self.state in ("queued", "running")

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop and still runs."""
        return self.live and self.cancel_requested_at is not None

    @property
    def took_s(self) -> float | None:
        """Seconds that this attempt worked; None before it has ended, or where it never started."""
        # Nobody may have seen the end of a worker that died.
        ended_at = (
            self.heartbeat_at
            if self.state == "crashed" and self.heartbeat_at
            else self.finished_at
        )
        return (
            None
            if self.started_at is None or ended_at is None or self.live
            else max(0.0, ended_at - self.started_at)
        )

    @property
    def all_s(self) -> float:
        """Seconds that all attempts worked, without one that still does."""
        return self.earlier_s + (self.took_s or 0.0)

    @property
    def makes_run(self) -> bool:
        """Whether its result is a run."""
        return self.kind in RUNS

    @property
    def may_spread(self) -> bool:
        """Whether a cluster may do it: a run or a search that heals and quantises no model.

        Healed weights would stay on their machine, and minutes became steps by the rate of this
        one. What quantises is known to be here only.
        """
        steps = self.settings.get("heal_steps", 0)
        heals = any(steps) if isinstance(steps, list) else bool(steps)
        return self.makes_run and not heals and not self.settings.get("quantise")


_RANKS: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}


def queue_order(job: Job) -> tuple[int, float, float, int]:
    """Sort key of queued jobs: priority, a user's order, prompts before runs, age.

    A prompt that was never moved has place 0, a run or another long job place 1.
    """
    usual = 1.0 if job.kind in LONG else 0.0
    return (
        _RANKS[job.priority],
        usual if job.place is None else job.place,
        job.queued_at,
        job.id,
    )


def places_after_move(
    queue: Sequence[Job], job: Job, to: Move
) -> list[tuple[float, int]]:
    """New place and id of every queued job of the priority of `job`, after its move.

    queue: all queued jobs, in order. No move crosses priorities. All up to the last prompt go below
    0, runs behind it between 0 and 1: so a later prompt still goes before runs that were never
    moved before a prompt, and a later run is the last.
    """
    peers = [peer for peer in queue if peer.priority == job.priority]
    start = [peer.id for peer in peers].index(job.id)
    target = {"front": 0, "up": max(0, start - 1), "down": start + 1}[to]
    peers.insert(target, peers.pop(start))
    n = max((i + 1 for i, peer in enumerate(peers) if peer.kind not in LONG), default=0)
    return [
        (i - n if i < n else (i - n + 1) / (len(peers) + 1), peer.id)
        for i, peer in enumerate(peers)
    ]
