"""Jobs on a cluster: attempts made of parts, fenced by the job table, and their reconciliation.

A thread of its own, since a scheduler may let it wait. It remembers nothing that matters: after a restart the job table
says which attempts run, and the scheduler which of their parts it has.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from sparsedash.jobs.cluster_parts import ClusterMachine, ClusterView, MachineView, Part, PartEnd, failed_part
from sparsedash.jobs.job import CLUSTER, FINISHED_PARTS, RUNS, Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.lock_files import cluster_lock, hold_lock, job_lock, open_log
from sparsedash.schema.errors import Cancelled, SparseDashError, StoreError
from sparsedash.schema.progress import STARTING, Step, Taken

if TYPE_CHECKING:
    from sparsedash.jobs.cluster import Cluster

log = logging.getLogger(__name__)

REPORT_S = 0.3
STOP_WITHIN_S = 8.0
"""Timeout of a machine that was asked to stop."""
GRACE_S = 60.0
"""How long a job waits for a scheduler that is gone."""

_TICK_S = 0.2
_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 30.0


class _JobPlan(Protocol):
    """The parts of a job, and what becomes of their results: see service.cluster_plan."""

    @property
    def whole(self) -> bool: ...
    def left(self) -> Sequence[str]: ...
    def part(self, name: str) -> Part: ...
    def keep(self, part: Part, end: PartEnd) -> None: ...
    def said(self) -> str: ...


class Attempt:
    """One attempt at a job on a cluster: the parts at work, their results, and its end.

    lock: of the job, held as long as this server looks after it.
    """

    def __init__(self, job: Job, plan: _JobPlan, table: JobTable, lock: IO[bytes]) -> None:
        self.job, self.lock, self.ended = job, lock, False
        self._name, self._plan, self._table = _attempt_name(job), plan, table
        self._at_work: dict[str, Part] = {}
        self._taken: list[Taken] = []
        self._bad: PartEnd | None = None
        self._stopped_at: float | None = None
        self._reported_at = float("-inf")
        self._to_take_up = True

    @property
    def n_at_work(self) -> int:
        """The number of machines it has."""
        return len(self._at_work)

    def progress(self, cluster: "Cluster") -> tuple[Step, ...]:
        """Progress of its parts that have begun, in order."""
        found = [cluster.progress(self._key(name)) for name in self._at_work]
        return tuple(progress for progress in found if progress is not None)

    def go_on(self, job: Job, cluster: "Cluster", n_free: int) -> None:
        """One round: collect ended parts, begin others, report progress. job: its present row."""
        self.job = job
        if self._to_take_up:
            # Parts that this or another server has submitted are not done twice.
            held = cluster.held()
            for name in self._plan.left():
                if self._key(name) in held:
                    self._submit([name], cluster)
            self._to_take_up = False
        for name in list(self._at_work):
            self._collect(name, cluster)
        if job.stopping or self._bad is not None:
            self._wind_up(cluster)
        elif self._plan.whole:
            self._table.end(job, "done")
            self.ended = True
        else:
            waiting = [name for name in self._plan.left() if name not in self._at_work]
            self._submit(waiting[: max(0, n_free)], cluster)
            self._report(cluster)

    def lose(self) -> None:
        """Forget the lost connection; parts at work are taken up on the next one."""
        self._at_work.clear()
        self._to_take_up = True

    def drop(self, cluster: "Cluster") -> None:
        """Stop and forget all parts: the attempt is over."""
        for name in list(self._at_work):
            cluster.drop(self._key(name))
        self._at_work.clear()

    def _key(self, name: str) -> str:
        return f"{self._name}/{name}"

    def _submit(self, names: Sequence[str], cluster: "Cluster") -> None:
        for name in names:
            try:
                part = self._plan.part(name)
            except SparseDashError as error:
                self._bad = self._bad or failed_part(error)
                return
            cluster.submit(self._key(name), part)
            self._at_work[name] = part

    def _collect(self, name: str, cluster: "Cluster") -> None:
        key = self._key(name)
        end = cluster.end(key)
        if end is None:
            return
        progress = cluster.progress(key)
        part = self._at_work.pop(name)
        if progress is not None:
            self._taken += progress.taken
        self._keep_log(name, end)
        if end.state == "done":
            try:
                # The fence: the result of an attempt that is over changes nothing.
                self._table.while_running(self.job, partial(self._plan.keep, part, end))
            except SparseDashError as error:
                self._bad = self._bad or failed_part(error)
        else:
            self._bad = self._bad or _with_machine(end, progress)
        cluster.forget(key)

    def _wind_up(self, cluster: "Cluster") -> None:
        """Stop the parts at work, and end once they have."""
        now = time.monotonic()
        if self._stopped_at is None:
            self._stopped_at = now
            for name in self._at_work:
                cluster.stop(self._key(name))
        if self._at_work and now - self._stopped_at < STOP_WITHIN_S:
            return
        self.drop(cluster)
        bad = PartEnd(state="cancelled", error_text=Cancelled().message, error_advice=Cancelled().advice)
        if self._bad is not None and not self.job.stopping:
            bad = self._bad
        self._table.end(self.job, bad.state, bad.error_text, bad.error_advice or FINISHED_PARTS)
        self.ended = True

    def _report(self, cluster: "Cluster") -> None:
        now = time.monotonic()
        if now - self._reported_at < REPORT_S:
            return
        self._reported_at = now
        at_work = self.progress(cluster)
        taken = (*self._taken, *(one for progress in at_work for one in progress.taken))
        machines = ", ".join(dict.fromkeys(progress.machine for progress in at_work))
        where = f"at work: {machines}" if machines else "waiting for a free machine of the cluster"
        message = "; ".join(filter(None, [self._plan.said(), where]))
        try:
            self._table.report(self.job, replace(at_work[0] if at_work else STARTING, message=message, taken=taken))
        except StoreError as error:
            log.warning("Progress could not be written: %s", error)

    def _keep_log(self, name: str, end: PartEnd) -> None:
        path = Path(self.job.log_path)
        try:
            with open_log(path) as file:
                title = f"Attempt {self.job.attempt}, part {name}, on {end.machine or 'a machine that is gone'}:"
                file.write(f"{title}\n{end.log}\n".encode(errors="replace"))
        except (OSError, StoreError) as error:
            log.warning("The log of job %d could not be written: %s", self.job.id, error)


def _with_machine(end: PartEnd, progress: Step | None) -> PartEnd:
    """The end, with the machine in its words."""
    at = end.machine or (progress.machine if progress else "") or "A machine"
    return replace(end, error_text=f"{at}: {end.error_text or 'it ended without a word.'}")


def _attempt_name(job: Job) -> str:
    """Tells its parts from those of other attempts."""
    return f"{job.id}.{job.attempt}"


class ClusterRunner:
    """Gives the runs of one data folder to a cluster, while there is one that has machines.

    address: of the scheduler, for display. connect: a new connection. plan_of: the plan of a job. trouble: why the
    scheduler must never be asked, in words.
    """

    def __init__(
        self,
        folder: Path,
        table: JobTable,
        address: str,
        connect: Callable[[], "Cluster"],
        plan_of: Callable[[Job], _JobPlan],
        *,
        trouble: str = "",
        grace_s: float = GRACE_S,
    ) -> None:
        self._folder, self._table, self._address = folder, table, address
        self._new_connection, self._plan_of, self._grace_s = connect, plan_of, grace_s
        self._refused = trouble
        self._trouble = trouble
        self._connection: Cluster | None = None
        self._up: IO[bytes] | None = None
        self._attempts: dict[tuple[int, int], Attempt] = {}
        self._machines: tuple[MachineView, ...] = ()
        self._seen_at = time.monotonic()
        self._next_try_at, self._pause_s = 0.0, _PAUSE_S
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="cluster", daemon=True)

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
        """The scheduler and its machines as of the last round."""
        return ClusterView(address=self._address, trouble=self._trouble, machines=self._machines)

    def let_go(self) -> None:
        """Stop looking after the jobs; the machines go on."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        for attempt in list(self._attempts.values()):
            self._let_go(attempt)
        self._show_up(False)
        self._close()

    def _loop(self) -> None:
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
        running = self._running()
        self._forget_ended(running)
        for job in running:
            # One that another server began is adopted, unless that still looks after it.
            attempt = self._attempts.get((job.id, job.attempt))
            if attempt or (lock := hold_lock(job_lock(self._folder, job.id))) is None:
                self._attend(attempt, job, connection, n_slots)
            else:
                self._attend(self._planned(job, lock), job, connection, n_slots)
        if n_slots > self._n_at_work():
            self._begin_next(connection, n_slots)
        at_work = [(a.job.id, a.progress(connection)) for a in self._attempts.values()]
        self._machines = tuple(_view_of(machine, at_work) for machine in found)

    def _running(self) -> list[Job]:
        return [job for job in self._table.running() if job.worker == CLUSTER]

    def _n_at_work(self) -> int:
        return sum(attempt.n_at_work for attempt in self._attempts.values())

    def _connect(self) -> bool:
        if time.monotonic() < self._next_try_at:
            return False
        try:
            self._connection = self._new_connection()
        except SparseDashError as error:
            if self._trouble != str(error):
                log.warning("%s", error)
            self._trouble = str(error)
            self._next_try_at = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            return False
        self._trouble, self._pause_s = "", _PAUSE_S
        log.info("The scheduler at %s answers.", self._address)
        # Stop the parts of attempts that are over by now.
        wanted = {_attempt_name(job) for job in self._running()}
        for key in self._connection.held():
            if key.rpartition("/")[0] not in wanted:
                self._connection.drop(key)
        return True

    def _attend(self, attempt: Attempt | None, job: Job, connection: "Cluster", n_slots: int) -> None:
        if attempt is not None:
            attempt.go_on(job, connection, n_slots - self._n_at_work())
            if attempt.ended:
                self._let_go(attempt)

    def _planned(self, job: Job, lock: IO[bytes]) -> Attempt | None:
        """The attempt at a job whose lock is held; None, and the job failed, when it cannot be planned."""
        try:
            plan = self._plan_of(job)
        except SparseDashError as error:
            self._table.end(job, "failed", error.message, error.advice)
            lock.close()
            return None
        self._attempts[job.id, job.attempt] = attempt = Attempt(job, plan, self._table, lock)
        return attempt

    def _begin_next(self, connection: "Cluster", n_slots: int) -> None:
        """Claim the next job for a free machine. Those with parts left to begin go first: see `go_on`."""
        for queued in self._table.queue():
            if queued.kind not in RUNS or (lock := hold_lock(job_lock(self._folder, queued.id))) is None:
                continue
            job = self._table.claim(queued.id, CLUSTER, 0)
            if job is None:
                lock.close()
            else:
                self._attend(self._planned(job, lock), job, connection, n_slots)
            return

    def _forget_ended(self, running: list[Job]) -> None:
        """Let go of attempts that are over according to their rows."""
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
        """Wait for a scheduler that is gone for a moment; end its jobs when it stays away."""
        late = time.monotonic() - self._seen_at > self._grace_s
        if late:
            self._show_up(False)
        for job in self._running():
            if job.stopping:
                text = "Stopped on request, while the scheduler did not answer."
                self._table.end(job, "cancelled", text, Cancelled().advice)
            elif late:
                advice = "“Try again” goes on from the last finished part, here while no scheduler answers."
                self._table.end(job, "crashed", f"The scheduler is gone. {self._trouble}", advice)
        self._forget_ended(self._running())

    def _show_up(self, up: bool) -> None:
        """Hold or release the lock that keeps this machine's own workers from runs."""
        if up and self._up is None:
            self._up = hold_lock(cluster_lock(self._folder))
        elif not up and self._up is not None:
            self._up.close()
            self._up = None

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()


def _view_of(machine: ClusterMachine, at_work: list[tuple[int, tuple[Step, ...]]]) -> MachineView:
    for job_id, parts in at_work:
        for progress in parts:
            if progress.machine == machine.name:
                return MachineView(machine=machine, job_id=job_id, progress=progress)
    return MachineView(machine=machine)
