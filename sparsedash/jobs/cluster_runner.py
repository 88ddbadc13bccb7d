"""Jobs on a cluster: attempts made of parts, fenced by the job table, and their reconciliation."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, cast, get_args

from sparsedash.jobs.cluster_parts import (
    ClusterMachine,
    ClusterView,
    MachineView,
    Part,
    PartEnd,
    PartProgress,
    failed_part,
)
from sparsedash.jobs.database import make_folder, open_own
from sparsedash.jobs.job import RUNS, Job, Taken
from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.local_runner import CLUSTER, FINISHED_PARTS, cluster_lock, hold_lock, job_lock
from sparsedash.schema.errors import SparseDashError, StoreError
from sparsedash.schema.progress import Stage, Step

if TYPE_CHECKING:
    from sparsedash.jobs.cluster import Cluster


attempt_log = logging.getLogger(__name__)

INTERVAL_S = 0.3
STOP_WITHIN_S = 8.0
"""A machine that has not said by then that it stopped is not waited for."""

_LOST = "its Dask worker was killed or could not be reached any more."


class JobPlan(Protocol):
    """What is to be done for a job, and what becomes of it."""

    @property
    def whole(self) -> bool:
        """Whether nothing is left to be done."""
        ...

    def left(self) -> Sequence[str]:
        """The names of the parts that can be begun, in order, whether or not they were already."""
        ...

    def part(self, name: str) -> Part:
        """The part of this name. Raises SparseDashError where it cannot be put together."""
        ...

    def keep(self, part: Part, end: PartEnd) -> None:
        """Keep what a part has made. Raises SparseDashError for what it was not asked for."""
        ...

    def said(self) -> str:
        """How much is done, in words; empty where there is nothing to say."""
        ...


class Attempt:
    """name: tells its parts from those of other attempts. lock: of the job, held as long as it is looked after here."""

    def __init__(self, job: Job, name: str, plan: JobPlan, table: JobTable, lock: IO[bytes]) -> None:
        self.job, self.lock, self.ended = job, lock, False
        self._name, self._plan, self._table = name, plan, table
        self._at_work: dict[str, Part] = {}
        self._taken: list[Taken] = []
        self._bad: PartEnd | None = None
        self._stopped_at: float | None = None
        self._reported_at = float("-inf")
        self._to_take_up = True

    @property
    def n_at_work(self) -> int:
        """How many machines it has."""
        return len(self._at_work)

    def progress(self, cluster: "Cluster") -> tuple[PartProgress, ...]:
        """How far the parts at work are that were begun, in order."""
        found = [cluster.progress(self._key(name)) for name in self._at_work]
        return tuple(progress for progress in found if progress is not None)

    def go_on(self, job: Job, cluster: "Cluster", n_free: int) -> None:
        """One round: hear what has ended, begin what can be, say how far it is. job: its row as it is now."""
        self.job = job
        if self._to_take_up:
            self._take_up(cluster)
        for name in list(self._at_work):
            self._hear(name, cluster)
        if job.cancel_requested_at is not None or self._bad is not None:
            self._wind_up(cluster)
        elif self._plan.whole:
            self._table.finish(job)
            self.ended = True
        else:
            self._begin(cluster, n_free)
            self._report(cluster)

    def lose(self) -> None:
        """The connection is gone: what is at work is looked for on the next one."""
        self._at_work.clear()
        self._to_take_up = True

    def drop(self, cluster: "Cluster") -> None:
        """Stop and forget everything: the attempt is over."""
        for name in list(self._at_work):
            cluster.drop(self._key(name))
        self._at_work.clear()

    def _key(self, name: str) -> str:
        return f"{self._name}/{name}"

    def _take_up(self, cluster: "Cluster") -> None:
        """What this or another server has submitted is not done a second time."""
        held = cluster.held()
        for name in self._plan.left():
            if self._key(name) in held:
                self._submit(name, cluster)
        self._to_take_up = False

    def _begin(self, cluster: "Cluster", n_free: int) -> None:
        if n_free > 0:
            for name in [name for name in self._plan.left() if name not in self._at_work][:n_free]:
                self._submit(name, cluster)

    def _submit(self, name: str, cluster: "Cluster") -> None:
        try:
            part = self._plan.part(name)
        except SparseDashError as error:
            self._blame(failed_part(error))
            return
        cluster.submit(self._key(name), part)
        self._at_work[name] = part

    def _hear(self, name: str, cluster: "Cluster") -> None:
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
            self._keep(part, end)
        else:
            at = end.machine or (progress.machine if progress else "")
            self._blame(_named(end, at))
        cluster.forget(key)

    def _keep(self, part: Part, end: PartEnd) -> None:
        try:
            # The fence: what comes back for an attempt that is over changes nothing.
            self._table.while_running(self.job, partial(self._plan.keep, part, end))
        except SparseDashError as error:
            self._blame(failed_part(error))

    def _blame(self, end: PartEnd) -> None:
        self._bad = self._bad or end

    def _wind_up(self, cluster: "Cluster") -> None:
        """Stop what is at work, and end once it has."""
        now = time.monotonic()
        if self._stopped_at is None:
            self._stopped_at = now
            for name in self._at_work:
                cluster.stop(self._key(name))
        if self._at_work and now - self._stopped_at < STOP_WITHIN_S:
            return
        self.drop(cluster)
        self._note_end()
        self.ended = True

    def _note_end(self) -> None:
        job, bad = self.job, self._bad
        if job.cancel_requested_at is not None:
            self._table.mark_cancelled(
                job, "Stopped on request.", "What was finished before is kept; start again to go on."
            )
        elif bad is None or bad.state == "cancelled":
            text = bad.error_text if bad else ""
            self._table.mark_cancelled(job, text or "A machine stopped.", bad.error_advice if bad else "")
        elif bad.state == "failed":
            self._table.fail(job, bad.error_kind or "JobError", bad.error_text, bad.error_advice)
        else:
            self._table.mark_crashed(job, bad.error_text, bad.error_advice or FINISHED_PARTS)

    def _report(self, cluster: "Cluster") -> None:
        now = time.monotonic()
        if now - self._reported_at < INTERVAL_S:
            return
        self._reported_at = now
        at_work = self.progress(cluster)
        first = at_work[0] if at_work else PartProgress(machine="")
        taken = [*self._taken, *(one for progress in at_work for one in progress.taken)]
        try:
            self._table.report(self.job, _step(first, self._said(at_work)), rate=first.rate, taken=taken)
        except StoreError as error:
            attempt_log.warning("Progress could not be written: %s", error)

    def _said(self, at_work: Sequence[PartProgress]) -> str:
        machines = ", ".join(dict.fromkeys(progress.machine for progress in at_work))
        where = f"at work: {machines}" if machines else "waiting for a free machine of the cluster"
        return "; ".join(filter(None, [self._plan.said(), where]))

    def _keep_log(self, name: str, end: PartEnd) -> None:
        path = Path(self.job.log_path)
        try:
            make_folder(path.parent)
            with open_own(path, "ab") as file:
                title = f"Attempt {self.job.attempt}, part {name}, on {end.machine or 'a machine that is gone'}:"
                file.write(f"{title}\n{end.log}\n".encode(errors="replace"))
        except (OSError, StoreError) as error:
            attempt_log.warning("The log of job %d could not be written: %s", self.job.id, error)


def _step(progress: PartProgress, message: str) -> Step:
    stage = cast(Stage, progress.stage if progress.stage in get_args(Stage) else "start")
    counts = {"unit": progress.unit or "steps", "n_right": progress.n_right, "point": progress.point}
    return Step(stage, progress.done, progress.total, message=message, **counts)  # type: ignore[arg-type]


def _named(end: PartEnd, machine: str) -> PartEnd:
    """The end, with the machine in its words."""
    at = machine or "A machine"
    if end.state == "lost":
        return PartEnd(state="lost", error_text=f"{at} was lost: {_LOST}")
    return PartEnd(
        state=end.state,
        error_kind=end.error_kind,
        error_text=f"{at}: {end.error_text}" if end.error_text else f"{at} ended without a word.",
        error_advice=end.error_advice,
    )


log = logging.getLogger(__name__)

_TICK_S = 0.2
_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 30.0
GRACE_S = 60.0
"""For so long a job waits for a scheduler that has gone."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a ClusterRunner cannot do itself. connect: a new connection. plan_of: what is to be done for a job."""

    connect: Callable[[], "Cluster"]
    plan_of: Callable[[Job], JobPlan]


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
        lock = hold_lock(job_lock(self._folder, job.id))
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
            lock = hold_lock(job_lock(self._folder, queued.id))
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
            self._up = hold_lock(cluster_lock(self._folder))
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


def _seen(machine: ClusterMachine, at_work: list[tuple[int, tuple[PartProgress, ...]]]) -> MachineView:
    for job_id, parts in at_work:
        for progress in parts:
            if progress.machine == machine.name:
                return MachineView(machine=machine, job_id=job_id, progress=progress)
    return MachineView(machine=machine)


def _attempt_name(job: Job) -> str:
    return f"{job.id}.{job.attempt}"
