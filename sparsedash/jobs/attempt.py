"""One attempt at a job that machines of a cluster do: which parts are at work, what came back, how it ends."""

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, cast, get_args

from sparsedash.jobs.exit_reasons import FINISHED_PARTS
from sparsedash.jobs.job import Job, Taken
from sparsedash.jobs.own_files import make_folder, open_own
from sparsedash.jobs.parts import Part, PartEnd, PartProgress, failed
from sparsedash.jobs.table import JobTable
from sparsedash.schema.errors import SparseDashError, StoreError
from sparsedash.schema.progress import Stage, Step

if TYPE_CHECKING:
    from sparsedash.jobs.cluster import Cluster

log = logging.getLogger(__name__)

INTERVAL_S = 0.3
STOP_WITHIN_S = 8.0
"""A machine that has not said by then that it stopped is not waited for."""

_LOST = "its Dask worker was killed or could not be reached any more."


class Plan(Protocol):
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

    def __init__(self, job: Job, name: str, plan: Plan, table: JobTable, lock: IO[bytes]) -> None:
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
            self._blame(failed(error))
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
            self._blame(failed(error))

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
            log.warning("Progress could not be written: %s", error)

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
            log.warning("The log of job %d could not be written: %s", self.job.id, error)


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
