"""Looks after the jobs that machines of a cluster do: as the local runner does after those of this machine.

A thread of its own, since whoever asks a scheduler may have to wait. Nothing here is remembered that matters: after a
restart the job table says which attempts run, and the scheduler which parts of them there are.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from sparsedash.jobs.attempt import Attempt, Plan
from sparsedash.jobs.exit_reasons import CLUSTER
from sparsedash.jobs.job import RUNS, Job
from sparsedash.jobs.locks import cluster_lock, hold, job_lock
from sparsedash.jobs.parts import ClusterView, Machine, MachineView, PartProgress
from sparsedash.jobs.table import JobTable
from sparsedash.schema.errors import SparseDashError, StoreError

if TYPE_CHECKING:
    from sparsedash.jobs.cluster import Cluster

log = logging.getLogger(__name__)

_TICK_S = 0.2
_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 30.0
GRACE_S = 60.0
"""For so long a job waits for a scheduler that has gone."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a ClusterRunner cannot do itself. connect: a new connection. plan_of: what is to be done for a job."""

    connect: Callable[[], "Cluster"]
    plan_of: Callable[[Job], Plan]


class ClusterRunner:
    """Has the runs of one data folder done by a cluster, while there is one that has machines.

    address: of the scheduler, to be shown. trouble: why it is never to be asked, in words.
    """

    def __init__(
        self, folder: Path, table: JobTable, address: str, means: Means, *, trouble: str = "", grace_s: float = GRACE_S
    ) -> None:
        self._folder, self._table, self._address, self._means = folder, table, address, means
        self._grace_s = grace_s
        self._refused = trouble
        self._trouble = trouble
        self._connection: Cluster | None = None
        self._up: IO[bytes] | None = None
        self._attempts: dict[tuple[int, int], Attempt] = {}
        self._machines: tuple[MachineView, ...] = ()
        self._seen_at = time.monotonic()
        self._next_try_at, self._pause_s = 0.0, _PAUSE_S
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="cluster", daemon=True)

    def start(self) -> None:
        """Begin, unless the scheduler must not be asked."""
        if not self._refused:
            self._thread.start()

    def takes(self, job: Job) -> bool:
        """Whether the cluster has this job, or will have it: then no worker of this machine does."""
        if job.state == "running":
            return job.worker == CLUSTER
        return self._up is not None and job.kind in RUNS

    def view(self) -> ClusterView:
        """The scheduler and its machines as they were a moment ago."""
        return ClusterView(address=self._address, trouble=self._trouble, machines=self._machines)

    def let_go(self) -> None:
        """Stop looking after the jobs; the machines go on."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._leave()
        self._close()

    def _go_on(self) -> None:
        while not self._stop.is_set():
            try:
                self._round()
            except StoreError as error:
                log.warning("Jobs of the cluster cannot be looked after: %s", error)
            except Exception as error:  # noqa: BLE001 - nobody else looks after them: the next round must come
                self._lose(error)
            self._stop.wait(_TICK_S)

    def _round(self) -> None:
        if self._connection is None and not self._connect():
            self._wait_or_give_up()
            return
        connection = self._connection
        assert connection is not None
        if not connection.alive:
            raise ConnectionError("the connection was closed")
        self._seen_at = time.monotonic()
        found = connection.machines()
        n_slots = sum(machine.n_slots for machine in found if not machine.problem)
        self._show_up(n_slots > 0)
        running = [job for job in self._table.running() if job.worker == CLUSTER]
        self._forget_ended(running)
        for job in running:
            self._attend(job, connection, n_slots)
        if n_slots > self._n_at_work():
            self._begin_next(connection, n_slots)
        at_work = [(a.job.id, a.progress(connection)) for a in self._attempts.values()]
        self._machines = tuple(_seen(machine, at_work) for machine in found)

    def _n_at_work(self) -> int:
        return sum(attempt.n_at_work for attempt in self._attempts.values())

    def _connect(self) -> bool:
        if time.monotonic() < self._next_try_at:
            return False
        try:
            self._connection = self._means.connect()
        except SparseDashError as error:
            if self._trouble != str(error):
                log.warning("%s", error)
            self._trouble = str(error)
            self._next_try_at = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            return False
        self._trouble, self._pause_s = "", _PAUSE_S
        log.info("The scheduler at %s answers.", self._address)
        self._drop_leftovers()
        return True

    def _drop_leftovers(self) -> None:
        """Stop what belongs to attempts that are over by now."""
        assert self._connection is not None
        wanted = {_attempt_name(job) for job in self._table.running() if job.worker == CLUSTER}
        for key in self._connection.held():
            if key.rpartition("/")[0] not in wanted:
                self._connection.drop(key)

    def _attend(self, job: Job, connection: "Cluster", n_slots: int) -> None:
        attempt = self._attempts.get((job.id, job.attempt)) or self._adopted(job)
        if attempt is None:
            return
        n_free = max(0, n_slots - self._n_at_work())
        attempt.go_on(job, connection, n_free)
        if attempt.ended:
            self._let_go(attempt)

    def _adopted(self, job: Job) -> Attempt | None:
        """An attempt that another server began; None where somebody looks after it, or nobody can."""
        lock = hold(job_lock(self._folder, job.id))
        if lock is None:
            return None
        return self._planned(job, lock)

    def _planned(self, job: Job, lock: IO[bytes]) -> Attempt | None:
        try:
            plan = self._means.plan_of(job)
        except SparseDashError as error:
            self._table.fail(job, type(error).__name__, error.message, error.advice)
            lock.close()
            return None
        attempt = Attempt(job, _attempt_name(job), plan, self._table, lock)
        self._attempts[job.id, job.attempt] = attempt
        return attempt

    def _begin_next(self, connection: "Cluster", n_slots: int) -> None:
        """Claim the next job for a free machine. Those with parts left to begin go first: see `go_on`."""
        for queued in self._table.queue():
            if queued.kind not in RUNS:
                continue
            lock = hold(job_lock(self._folder, queued.id))
            if lock is None:
                continue
            job = self._table.claim(queued.id, CLUSTER, 0)
            if job is None:
                lock.close()
            elif self._planned(job, lock) is not None:
                self._attend(job, connection, n_slots)
            return

    def _forget_ended(self, running: list[Job]) -> None:
        """Let go of attempts whose row says that they are over, whoever said so."""
        live = {(job.id, job.attempt) for job in running}
        for which, attempt in list(self._attempts.items()):
            if which not in live:
                if self._connection is not None:
                    attempt.drop(self._connection)
                self._let_go(attempt)

    def _let_go(self, attempt: Attempt) -> None:
        attempt.lock.close()
        self._attempts.pop((attempt.job.id, attempt.job.attempt), None)

    def _lose(self, error: Exception) -> None:
        log.warning("The scheduler is lost: %s: %s", type(error).__name__, error)
        self._trouble = f"The scheduler at {self._address} is gone; it is asked again."
        self._next_try_at = 0.0
        self._machines = ()
        self._close()
        for attempt in self._attempts.values():
            attempt.lose()

    def _wait_or_give_up(self) -> None:
        """A scheduler that is gone for a moment costs nothing; what it had is over when it stays away."""
        late = time.monotonic() - self._seen_at > self._grace_s
        if late:
            self._show_up(False)
        for job in self._table.running():
            if job.worker != CLUSTER:
                continue
            if job.cancel_requested_at is not None:
                text = "Stopped on request, while the scheduler did not answer."
                self._table.mark_cancelled(job, text, "What was finished before is kept; start again to go on.")
            elif late:
                advice = "“Try again” goes on from the last finished part, here while no scheduler answers."
                self._table.mark_crashed(job, f"The scheduler is gone. {self._trouble}", advice)
        self._forget_ended([job for job in self._table.running() if job.worker == CLUSTER])

    def _show_up(self, up: bool) -> None:
        """Hold the lock that keeps this machine's own workers from runs, or let it go."""
        if up and self._up is None:
            self._up = hold(cluster_lock(self._folder))
        elif not up and self._up is not None:
            self._up.close()
            self._up = None

    def _leave(self) -> None:
        for attempt in list(self._attempts.values()):
            self._let_go(attempt)
        self._show_up(False)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()


def _seen(machine: Machine, at_work: list[tuple[int, tuple[PartProgress, ...]]]) -> MachineView:
    for job_id, parts in at_work:
        for progress in parts:
            if progress.machine == machine.name:
                return MachineView(machine=machine, job_id=job_id, progress=progress)
    return MachineView(machine=machine)


def _attempt_name(job: Job) -> str:
    return f"{job.id}.{job.attempt}"
