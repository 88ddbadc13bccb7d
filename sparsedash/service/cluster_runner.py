"""Jobs on a cluster: attempts made of parts, fenced by the job table, and their reconciliation.

A thread of its own, since a scheduler may let it wait. It remembers nothing that matters: after a
restart the job table says which attempts run, and the scheduler which of their parts it has.
"""

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from sparsedash.jobs.cluster_parts import (
    SCHEDULER,
    ClusterMachine,
    ClusterView,
    Part,
    PartEnd,
    Scheduler,
    failed_part,
    named_scheduler,
)
from sparsedash.jobs.job import CLUSTER, Job, resume_advice
from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.lock_files import (
    cluster_lock,
    hold_lock,
    is_lock_held,
    job_lock,
    open_log,
)
from sparsedash.schema import store_keys
from sparsedash.schema.errors import (
    Cancelled,
    SettingsError,
    SparseDashError,
    StoreError,
)
from sparsedash.schema.progress import STARTING, StageTime, Step
from sparsedash.service.cluster_plan import ClusterPlan, connect_cluster
from sparsedash.storage.store import Store

if TYPE_CHECKING:
    from sparsedash.jobs.cluster import Cluster

log = logging.getLogger(__name__)

STOP_WITHIN_S = 8.0
"""Timeout of a machine that was asked to stop."""
GRACE_S = 60.0
"""How long a job waits for a scheduler that is gone."""

_TICK_S = 0.2
_PAUSE_S = 5.0


class Attempt:
    """One attempt at a job on a cluster: the parts at work, by name, their results, and its end.

    lock: of the job, held as long as this server looks after it.
    """

    def __init__(
        self, job: Job, plan: ClusterPlan, table: JobTable, lock: IO[bytes]
    ) -> None:
        self.job = job
        self.lock = lock
        self.ended = False
        self._plan = plan
        self._table = table
        self.at_work: dict[str, Part] = {}
        self._stage_times: list[StageTime] = []
        self._failure: PartEnd | None = None
        self._stopped_at: float | None = None
        self._is_new_connection = True

    def progress(self, cluster: "Cluster") -> tuple[Step, ...]:
        """Progress of its parts that have begun, in order."""
        steps = [cluster.progress(self._key(name)) for name in self.at_work]
        return tuple(step for step in steps if step is not None)

    def step(
        self,
        job: Job,
        cluster: "Cluster",
        machines: Sequence[ClusterMachine],
        n_free: int,
    ) -> None:
        """One round: collect ended parts, begin others, report progress.

        job: its present row. n_free: slots.
        """
        self.job = job
        if self._is_new_connection:
            # Parts that this or another server has submitted are not done twice.
            part_keys = cluster.part_keys()
            for name in self._plan.remaining():
                if self._key(name) in part_keys:
                    self._submit([name], cluster, machines)
            self._is_new_connection = False
        for name in list(self.at_work):
            self._collect(name, cluster)
        if job.stopping or self._failure is not None:
            self._wind_up(cluster)
        elif self._plan.is_complete:
            self._table.end(job, "done")
            self.ended = True
        else:
            waiting = [
                name for name in self._plan.remaining() if name not in self.at_work
            ]
            self._submit(waiting[: max(0, n_free)], cluster, machines)
            self._report(cluster)

    def disconnect(self) -> None:
        """Forget the lost connection; parts at work are taken up on the next one."""
        self.at_work.clear()
        self._is_new_connection = True

    def drop(self, cluster: "Cluster") -> None:
        """Stop and forget all parts: the attempt is over."""
        for name in list(self.at_work):
            cluster.drop(self._key(name))
        self.at_work.clear()

    def _key(self, name: str) -> str:
        return f"{_attempt_name(self.job)}/{name}"

    def _submit(
        self,
        names: Sequence[str],
        cluster: "Cluster",
        machines: Sequence[ClusterMachine],
    ) -> None:
        for name in names:
            try:
                part = self._plan.part(name)
            except SparseDashError as error:
                self._failure = self._failure or failed_part(error)
                return
            cluster.submit(self._key(name), part, machines)
            self.at_work[name] = part

    def _collect(self, name: str, cluster: "Cluster") -> None:
        key = self._key(name)
        end = cluster.end(key)
        if end is None:
            return
        progress = cluster.progress(key)
        part = self.at_work.pop(name)
        if progress is not None:
            self._stage_times += progress.stage_times
        self._keep_log(name, end)
        if end.state == "done":
            try:
                # The fence: the result of an attempt that is over changes nothing.
                self._table.while_running(self.job, partial(self._plan.keep, part, end))
            except SparseDashError as error:
                self._failure = self._failure or failed_part(error)
        else:
            machine = (
                end.machine or (progress.machine if progress else "") or "A machine"
            )
            problem = end.error_text or "it ended without a message."
            self._failure = self._failure or replace(
                end, error_text=f"{machine}: {problem}"
            )
        cluster.forget(key)

    def _wind_up(self, cluster: "Cluster") -> None:
        """Stop the parts at work, and end once they have."""
        now_s = time.monotonic()
        if self._stopped_at is None:
            self._stopped_at = now_s
            for name in self.at_work:
                cluster.stop(self._key(name))
        if self.at_work and now_s - self._stopped_at < STOP_WITHIN_S:
            return
        self.drop(cluster)
        end = PartEnd(state="cancelled", error_text=Cancelled().message)
        if self._failure is not None and not self.job.stopping:
            end = self._failure
        advice = end.error_advice or resume_advice(self.job.kind)
        self._table.end(self.job, end.state, end.error_text, advice)
        self.ended = True

    def _report(self, cluster: "Cluster") -> None:
        at_work = self.progress(cluster)
        # The step that is shown is the first one's, so its stages come last.
        stage_times = list(self._stage_times)
        for step in reversed(at_work):
            stage_times += step.stage_times
        machines = ", ".join(dict.fromkeys(progress.machine for progress in at_work))
        where = (
            f"at work: {machines}"
            if machines
            else "waiting for a free machine of the cluster"
        )
        message = "; ".join(filter(None, [self._plan.progress_message(), where]))
        step = replace(
            at_work[0] if at_work else STARTING,
            message=message,
            stage_times=tuple(stage_times),
            n_machines=max(1, len(at_work)),
        )
        try:
            self._table.report(self.job, step)
        except StoreError as error:
            log.warning("Progress could not be written: %s", error)

    def _keep_log(self, name: str, end: PartEnd) -> None:
        machine = end.machine or "a machine that is gone"
        title = f"Attempt {self.job.attempt}, part {name}, on {machine}:"
        try:
            with open_log(Path(self.job.log_path)) as file:
                file.write(f"{title}\n{end.log}\n".encode(errors="replace"))
        except (OSError, StoreError) as error:
            log.warning(
                "The log of job %d could not be written: %s", self.job.id, error
            )


def _attempt_name(job: Job) -> str:
    """Tells its parts from those of other attempts."""
    return f"{job.id}.{job.attempt}"


class ClusterRunner:
    """Gives the runs of one data folder to a cluster, while there is one that has machines.

    scheduler: None with `trouble`, which says why it must never be asked. connect: to it, for this
    folder's name.
    """

    def __init__(
        self,
        folder: Path,
        table: JobTable,
        store: Store,
        scheduler: Scheduler | None,
        *,
        trouble: str = "",
        connect: Callable[[Scheduler, str], "Cluster"] = connect_cluster,
        grace_s: float = GRACE_S,
    ) -> None:
        self._folder = folder
        self._table = table
        self._store = store
        self._scheduler = scheduler
        self._address = (
            scheduler.address if scheduler else os.environ.get(SCHEDULER, "")
        )
        self._new_connection = connect
        self._grace_s = grace_s
        self._trouble = trouble
        self._connection: Cluster | None = None
        self._cluster_lock: IO[bytes] | None = None
        self._attempts: dict[tuple[int, int], Attempt] = {}
        self._machines: tuple[ClusterMachine, ...] = ()
        self._seen_at = time.monotonic()
        self._next_try_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="cluster", daemon=True)

    def start(self) -> None:
        """Begin, unless the scheduler must not be asked. Runs wait for it as for a lost one."""
        if self._scheduler:
            with suppress(StoreError):
                self._claim_runs(True)
            self._thread.start()

    def takes(self, job: Job) -> bool:
        """Whether the cluster runs this job or will; no worker of this machine takes it then."""
        if job.state == "running":
            return self._scheduler is not None and job.worker == CLUSTER
        return self._cluster_lock is not None and job.may_spread

    def view(self) -> ClusterView:
        """The scheduler and its machines as of the last round."""
        return ClusterView(
            address=self._address, trouble=self._trouble, machines=self._machines
        )

    def close(self) -> None:
        """Stop looking after the jobs; the machines go on."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        for attempt in list(self._attempts.values()):
            self._drop(attempt)
        self._claim_runs(False)
        self._disconnect()

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                self._round()
            except StoreError as error:
                log.warning("Jobs of the cluster cannot be looked after: %s", error)
            except Exception as error:  # noqa: BLE001 - nobody else looks after them: the next round must come
                self._handle_error(error)
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
        machines = connection.machines()
        n_slots = sum(machine.n_slots for machine in machines if not machine.problem)
        self._claim_runs(n_slots > 0)
        running = self._running()
        self._forget_ended(running)
        for job in running:
            if attempt := self._attempts.get((job.id, job.attempt)) or self._attempt(
                job
            ):
                attempt.step(job, connection, machines, n_slots - self._n_at_work())
                if attempt.ended:
                    self._drop(attempt)
        if n_slots > self._n_at_work():
            self._claim_next()
        at_work = {machine.name: machine for machine in machines}
        for attempt in self._attempts.values():
            for step in attempt.progress(connection):
                if machine := at_work.get(step.machine):
                    at_work[step.machine] = replace(
                        machine, job_id=attempt.job.id, progress=step
                    )
        self._machines = tuple(at_work.values())

    def _running(self) -> list[Job]:
        return [job for job in self._table.running() if job.worker == CLUSTER]

    def _n_at_work(self) -> int:
        return sum(len(attempt.at_work) for attempt in self._attempts.values())

    def _connect(self) -> bool:
        if time.monotonic() < self._next_try_at or self._scheduler is None:
            return False
        try:
            name = self._store.recall(
                store_keys.cluster_name_note()
            ) or secrets.token_hex(8)
            self._store.remember(store_keys.cluster_name_note(), name)
            self._connection = self._new_connection(self._scheduler, name)
        except SparseDashError as error:
            if self._trouble != str(error):
                log.warning("%s", error)
            self._trouble = str(error)
            self._next_try_at = time.monotonic() + _PAUSE_S
            return False
        self._trouble = ""
        log.info("The scheduler at %s answers.", self._address)
        # Stop the parts of attempts that are over by now. Asked in this order: one may begin in
        # between.
        part_keys = self._connection.part_keys()
        wanted = {_attempt_name(job) for job in self._running()}
        for key in part_keys:
            if key.rpartition("/")[0] not in wanted:
                self._connection.drop(key)
        return True

    def _attempt(self, job: Job) -> Attempt | None:
        """A new or resumed attempt; None where another server has it or planning fails."""
        if (lock := hold_lock(job_lock(self._folder, job.id))) is None:
            return None
        try:
            plan = ClusterPlan(job, self._store)
        except SparseDashError as error:
            self._table.end(job, "failed", error.message, error.advice)
            lock.close()
            return None
        self._attempts[job.id, job.attempt] = attempt = Attempt(
            job, plan, self._table, lock
        )
        return attempt

    def _claim_next(self) -> None:
        """Claim the next job for a free machine, once no claimed job has parts left to begin."""
        for queued in self._table.queue():
            if queued.may_spread and (attempt := self._attempt(queued)):
                if not self._table.claim(queued.id, CLUSTER, 0):
                    self._drop(attempt)
                return

    def _forget_ended(self, running: list[Job]) -> None:
        """Drop the attempts that are over according to their rows."""
        live = {(job.id, job.attempt) for job in running}
        for which, attempt in list(self._attempts.items()):
            if which not in live:
                if self._connection is not None:
                    attempt.drop(self._connection)
                self._drop(attempt)

    def _drop(self, attempt: Attempt) -> None:
        attempt.lock.close()
        self._attempts.pop((attempt.job.id, attempt.job.attempt), None)

    def _handle_error(self, error: Exception) -> None:
        log.warning("The scheduler is lost: %s: %s", type(error).__name__, error)
        self._trouble = (
            f"The scheduler at {self._address} does not answer; trying again."
        )
        self._next_try_at = 0.0
        self._machines = ()
        self._disconnect()
        for attempt in self._attempts.values():
            attempt.disconnect()

    def _wait_or_give_up(self) -> None:
        """Wait for a scheduler that is gone for a moment; end its jobs when it stays away."""
        late = time.monotonic() - self._seen_at > self._grace_s
        if late:
            self._claim_runs(False)
        for job in self._running():
            if (job.id, job.attempt) not in self._attempts and is_lock_held(
                job_lock(self._folder, job.id)
            ):
                # Another server looks after it, and may reach the scheduler.
                continue
            if job.stopping:
                text = "Stopped on request, while the scheduler did not answer."
                self._table.end(job, "cancelled", text, resume_advice(job.kind))
            elif late:
                advice = f"{resume_advice(job.kind)} It runs here while no scheduler answers."
                self._table.end(
                    job,
                    "crashed",
                    f"The scheduler does not answer. {self._trouble}",
                    advice,
                )
        self._forget_ended(self._running())

    def _claim_runs(self, has_machines: bool) -> None:
        """Hold or release the lock that keeps this machine's own workers from runs."""
        if has_machines and self._cluster_lock is None:
            self._cluster_lock = hold_lock(cluster_lock(self._folder))
        elif not has_machines and self._cluster_lock is not None:
            self._cluster_lock.close()
            self._cluster_lock = None

    def _disconnect(self) -> None:
        connection = self._connection
        self._connection = None
        if connection is not None:
            with suppress(Exception):
                connection.close()


def cluster_runner(folder: Path, table: JobTable, store: Store) -> ClusterRunner | None:
    """The runner for the scheduler that the environment names; None without one.

    A scheduler that is refused becomes the runner's trouble.
    """
    try:
        scheduler = named_scheduler()
    except SettingsError as error:
        return ClusterRunner(folder, table, store, None, trouble=str(error))
    return ClusterRunner(folder, table, store, scheduler) if scheduler else None
