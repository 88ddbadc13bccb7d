"""The order in which waiting jobs are taken, and how somebody changes it."""

from collections.abc import Sequence

from sparsedash.jobs.job import LONG, Job, Move, Priority

_RANKS: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}


def queue_order(job: Job) -> tuple[int, float, float, int]:
    """What waiting jobs are sorted by: priority; then prompts before runs; then first come, first served, but for those
    moved.

    A prompt that nobody has moved stands at 0, a run at 1.
    """
    usual = 1.0 if job.kind in LONG else 0.0
    return _RANKS[job.priority], usual if job.place is None else job.place, job.queued_at, job.id


def moved(queue: Sequence[Job], job: Job, to: Move) -> list[tuple[float, int]]:
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
