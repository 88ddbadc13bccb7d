"""The job table: one SQLite file that the server, its restarts and every worker share.

    queued -> running -> done | failed | cancelled | crashed        queued -> cancelled | crashed
    failed | cancelled | crashed -> queued, by retry, as the next attempt

Every change names the state and the attempt it starts from, so a late change has no effect.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsedash.jobs.database import PATIENCE_S, Database, Row
from sparsedash.jobs.job import LONG, Job, JobKind, JobState, Move, Priority, Taken, places_after_move, queue_order
from sparsedash.schema.errors import JobError, StoreError
from sparsedash.schema.plain_values import canonical_json
from sparsedash.schema.progress import Step

__all__ = ["Job", "JobKind", "JobState", "JobTable"]

_REPORT_PATIENCE_S = 1.0
"""Work goes on while its progress cannot be written."""

_LIVE = "state IN ('queued', 'running')"
_THIS_RUNNING = "WHERE id = ? AND attempt = ? AND state = 'running'"
_FRESH = (
    "stage = '', done = 0, total = 0, unit = '', rate = NULL, message = '', n_right = NULL, point = NULL,"
    " started_at = NULL, finished_at = NULL, heartbeat_at = NULL, pid = NULL, exit_code = NULL,"
    " cancel_requested_at = NULL, error_kind = '', error_text = '', error_advice = '', worker = '',"
    " left_text = '', right_text = '', place = NULL, taken = '[]'"
)


class JobTable:
    """The jobs of one data folder. Safe to share between threads and processes.

    path: the SQLite file; its folder exists. patience_s: how long to wait while another process keeps it locked.
    owners: who asked for what. Every method may raise StoreError when the file cannot be read or written.
    """

    def __init__(self, path: Path, patience_s: float = PATIENCE_S) -> None:
        self._logs = path.parent / "logs"
        self._database = Database(path, patience_s)
        self.owners = Owners(self._database)

    def submit(self, kind: JobKind, key: str, settings: Mapping[str, Any], owner: str = "", most: int = 0) -> Job:
        """The live job with this key, or else a new one at the end of the queue.

        owner: who asks. most: limit of the owner's live jobs; 0: none. Raises JobError above the limit.
        """
        now = time.time()
        with self._database.writing() as db:
            self.owners.add(key, owner)
            if live := self._live_with(key):
                return live
            self._refuse_too_many(owner, most)
            done = db.execute(
                "INSERT INTO jobs (kind, key, settings, state, created_at, queued_at, owner)"
                " VALUES (?, ?, ?, 'queued', ?, ?, ?)",
                (kind, key, canonical_json(settings), now, now, owner),
            )
            return self.get(done.lastrowid or 0)

    def retry(self, job_id: int, owner: str = "", most: int = 0) -> Job:
        """The job, queued as its next attempt, or the live job with its key. owner, most: as in `submit`.

        Raises JobError when the job is done.
        """
        with self._database.writing() as db:
            job = self.get(job_id)
            if job.state == "done":
                raise JobError(f"Job {job_id} is done; only a job that ended early can be retried.")
            if live := self._live_with(job.key):
                return live
            self._refuse_too_many(owner, most)
            self.owners.add(job.key, owner)
            db.execute(
                f"UPDATE jobs SET {_FRESH}, state = 'queued', attempt = attempt + 1, queued_at = ?, owner = ?"  # noqa: S608
                " WHERE id = ?",
                (time.time(), owner, job_id),
            )
            return self.get(job_id)

    def claim(self, job_id: int, worker: str, pid: int) -> Job | None:
        """The job, now running; None when it is no longer queued.

        The caller holds the job's lock already: a running row with a free lock is a crashed one.
        """
        now = time.time()
        with self._database.writing() as db:
            changed = db.execute(
                "UPDATE jobs SET state = 'running', worker = ?, pid = ?, started_at = ?,"
                " heartbeat_at = ? WHERE id = ? AND state = 'queued'",
                (worker, pid, now, now, job_id),
            )
            return self.get(job_id) if changed.rowcount else None

    def report(
        self,
        job: Job,
        step: Step,
        *,
        rate: float | None,
        texts: tuple[str, str] = ("", ""),
        taken: Sequence[Taken] = (),
    ) -> None:
        """Record the progress of a running job. No effect when this attempt no longer runs.

        rate: the step's units a second. texts: `left_text` and `right_text`. taken: the time spent in each stage.
        """
        done = (step.stage, step.done, step.total, step.unit, rate, step.message)
        values = (*done, step.n_right, step.point, *texts, json.dumps(taken), time.time())
        with self._database.writing(_REPORT_PATIENCE_S) as db:
            db.execute(
                "UPDATE jobs SET stage = ?, done = ?, total = ?, unit = ?, rate = ?, message = ?,"  # noqa: S608
                f" n_right = ?, point = ?, left_text = ?, right_text = ?, taken = ?, heartbeat_at = ? {_THIS_RUNNING}",
                (*values, job.id, job.attempt),
            )

    def wanted(self, job: Job) -> bool:
        """Whether this attempt is still marked as running, with no request to stop."""
        return bool(self._read(f"{_THIS_RUNNING} AND cancel_requested_at IS NULL", (job.id, job.attempt)))

    def finish(self, job: Job) -> bool:
        """Mark a running job as done. Returns whether it was running; likewise below."""
        return self._end(job, "done")

    def fail(self, job: Job, kind: str, text: str, advice: str) -> bool:
        """Mark a running job as failed, with the error that its own work raised."""
        return self._end(job, "failed", (kind, text, advice))

    def mark_cancelled(self, job: Job, text: str, advice: str, exit_code: int | None = None) -> bool:
        """Mark the job as cancelled on request."""
        return self._end(job, "cancelled", ("Cancelled", text, advice), exit_code)

    def mark_crashed(self, job: Job, text: str, advice: str, exit_code: int | None = None) -> bool:
        """Mark the job as crashed: its worker ended without an error of its own."""
        return self._end(job, "crashed", ("Crashed", text, advice), exit_code)

    def request_cancel(self, job_id: int) -> Job:
        """The job after the request: cancelled if it was queued, asked to stop if running, unchanged if ended."""
        now = time.time()
        with self._database.writing() as db:
            job = self.get(job_id)
            if job.state == "queued":
                self._end(job, "cancelled", ("Cancelled", "Cancelled before it started.", ""))
            if job.live:
                asked = "UPDATE jobs SET cancel_requested_at = coalesce(cancel_requested_at, ?) WHERE id = ?"
                db.execute(asked, (now, job_id))
            return self.get(job_id)

    def move(self, job_id: int, to: Move) -> Job:
        """The queued job in its new place among those of its priority. Raises JobError when it is not queued."""
        with self._database.writing() as db:
            places = places_after_move(self.queue(), self._queued(job_id, "moved"), to)
            db.executemany("UPDATE jobs SET place = ? WHERE id = ?", places)
            return self.get(job_id)

    def prioritise(self, job_id: int, priority: Priority) -> Job:
        """The queued run, behind the others of this priority. Raises JobError when it is not queued, or a prompt."""
        with self._database.writing() as db:
            if self._queued(job_id, "made more or less urgent").kind not in LONG:
                raise JobError(f"Job {job_id} is a prompt: those go before runs, and have no priority.")
            db.execute("UPDATE jobs SET priority = ?, place = NULL WHERE id = ?", (priority, job_id))
            return self.get(job_id)

    def while_running(self, job: Job, action: Callable[[], None]) -> None:
        """Call `action`, which is short, if this attempt is running; nobody can change its state meanwhile.

        So a signal meant for this job cannot meet the next one of the same worker.
        """
        with self._database.writing():
            if self._read(_THIS_RUNNING, (job.id, job.attempt)):
                action()

    def get(self, job_id: int) -> Job:
        """The job. Raises JobError when there is none."""
        # SQLite holds no larger number.
        rows = self._read("WHERE id = ?", (job_id,)) if 0 < job_id < 2**63 else ()
        if not rows:
            raise JobError(f"There is no job {job_id}.", "The list of jobs shows those there are.")
        return rows[0]

    def newest(self, key: str) -> Job | None:
        """The newest job with this key, or None."""
        return next(iter(self._read("WHERE key = ? ORDER BY id DESC LIMIT 1", (key,))), None)

    def list(self, limit: int, of: str = "") -> tuple[Job, ...]:
        """The newest jobs, newest first. of: only those that this owner asked for."""
        if not of:
            return self._read("ORDER BY id DESC LIMIT ?", (limit,))
        theirs = "WHERE owner = ? OR key IN (SELECT thing FROM owners WHERE owner = ?) ORDER BY id DESC LIMIT ?"
        return self._read(theirs, (of, of, limit))

    def of_kinds(self, *kinds: JobKind) -> tuple[Job, ...]:
        """All jobs of these kinds in any state, oldest first."""
        marks = ", ".join("?" * len(kinds))
        return self._read(f"WHERE kind IN ({marks}) ORDER BY id", kinds)

    def count(self) -> int:
        """The number of jobs in any state."""
        return int(self._database.read("SELECT count(*) AS n FROM jobs", ())[0]["n"])

    def running(self) -> tuple[Job, ...]:
        """The running jobs, in the order in which they were submitted."""
        return self._read("WHERE state = 'running' ORDER BY id", ())

    def queue(self) -> tuple[Job, ...]:
        """The queued jobs in the order they will be taken; see `queue_order`."""
        return tuple(sorted(self._read("WHERE state = 'queued'", ()), key=queue_order))

    def position(self, job_id: int) -> int | None:
        """1 for the job that is taken next, 2 for the one after it; None when it is not queued."""
        ids = [job.id for job in self.queue()]
        return ids.index(job_id) + 1 if job_id in ids else None

    def close(self) -> None:
        """Close the file; the table cannot be used afterwards."""
        self._database.close()

    def _queued(self, job_id: int, done: str) -> Job:
        job = self.get(job_id)
        if job.state != "queued":
            raise JobError(
                f"Job {job_id} is {job.state} and cannot be {done}; only a job that waits can.",
                "The list of jobs shows those that wait.",
            )
        return job

    def _live_with(self, key: str) -> Job | None:
        return next(iter(self._read(f"WHERE key = ? AND {_LIVE}", (key,))), None)

    def _refuse_too_many(self, owner: str, most: int) -> None:
        """Raise JobError at the limit of the owner's live jobs; within the transaction, so that none slips in."""
        if most and len(self._read(f"WHERE owner = ? AND {_LIVE}", (owner,))) >= most:
            raise JobError(
                f"You have {most} jobs that wait or run, and no more are allowed at once.",
                "Wait until one has ended, or cancel one on the jobs page.",
            )

    def _end(
        self, job: Job, state: JobState, error: tuple[str, str, str] = ("", "", ""), exit_code: int | None = None
    ) -> bool:
        values = (state, time.time(), *error, exit_code, job.id, job.attempt, job.state)
        with self._database.writing() as db:
            changed = db.execute(
                "UPDATE jobs SET state = ?, finished_at = ?, rate = NULL, error_kind = ?,"
                " error_text = ?, error_advice = ?, exit_code = ?"
                " WHERE id = ? AND attempt = ? AND state = ?",
                values,
            )
            return changed.rowcount == 1

    def _read(self, clause: str, values: tuple[Any, ...]) -> tuple[Job, ...]:
        query = f"SELECT * FROM jobs {clause}"  # noqa: S608 - clauses are literals above
        return tuple(self._job(row) for row in self._database.read(query, values))

    def _job(self, row: Row) -> Job:
        values = {**dict(row), "log_path": str(self._logs / f"{row['id']}.log")}
        try:
            values["settings"] = json.loads(row["settings"])
            values["taken"] = tuple(Taken(*each) for each in json.loads(row["taken"]))
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"The job table {self._logs.with_name('jobs.sqlite')} is damaged: job {row['id']} cannot be read.",
                "Stop the server and move it away; results are kept elsewhere.",
            ) from error
        return Job(**values)


class Owners:
    """The owners of a data folder's things; a thing may have several, since equal requests share one job.

    Things made in a shell, or without a login, have none. Every method may raise StoreError.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, thing: str, owner: str) -> None:
        """Add an owner; the empty name owns nothing."""
        if owner and owner not in self.of(thing):
            with self._database.writing() as db:
                db.execute("INSERT OR IGNORE INTO owners (thing, owner) VALUES (?, ?)", (thing, owner))

    def take(self, thing: str, owner: str) -> bool:
        """Remove an owner; whether others are left."""
        with self._database.writing() as db:
            db.execute("DELETE FROM owners WHERE thing = ? AND owner = ?", (thing, owner))
            return bool(self.of(thing))

    def forget(self, thing: str) -> None:
        """Remove all owners of a deleted thing."""
        if self.of(thing):
            with self._database.writing() as db:
                db.execute("DELETE FROM owners WHERE thing = ?", (thing,))

    def of(self, thing: str) -> frozenset[str]:
        """Its owners."""
        rows = self._database.read("SELECT owner FROM owners WHERE thing = ?", (thing,))
        return frozenset(row["owner"] for row in rows)

    def things(self, owner: str) -> frozenset[str]:
        """All that this owner owns."""
        rows = self._database.read("SELECT thing FROM owners WHERE owner = ?", (owner,))
        return frozenset(row["thing"] for row in rows)
