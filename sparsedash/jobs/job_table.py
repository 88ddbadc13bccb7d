"""The job table: one SQLite file that the server, its restarts and every worker share.

    queued -> running -> done | failed | cancelled | crashed        queued -> cancelled | crashed
    failed | cancelled | crashed -> queued, by retry, as the next attempt

Every change names the state and the attempt it starts from, so whoever comes too late changes nothing.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from sparsedash.jobs.database import PATIENCE_S, Connection, Database, Row
from sparsedash.jobs.job import (
    DAMAGED,
    LONG,
    LOST,
    Job,
    JobKind,
    JobState,
    Move,
    Priority,
    Taken,
    places_after_move,
    queue_order,
)
from sparsedash.schema.errors import JobError, StoreError, encodable
from sparsedash.schema.plain_values import canonical_json
from sparsedash.schema.progress import Step

_TYPES = {name: kind for name, kind in get_type_hints(Job, include_extras=True).items() if name != "log_path"}
_TEXT = "Its row in the job table was damaged and could not be read."
_ADVICE = "What it had finished is kept. Ask for it again; is the disk sound?"


def asked_digest(kind: str, key: str, settings: str) -> str:
    """What tells that this is what was asked for: a flipped bit in settings can make others that are as possible."""
    return hashlib.sha256("\0".join((kind, key, settings)).encode()).hexdigest()


def job_of(row: Mapping[str, Any], logs: Path) -> Job:
    """The job of a row. Raises ValueError where a value is none that this program writes."""
    if not all(_is_text(value) for value in row.values() if isinstance(value, str)):
        raise ValueError("a text is not UTF-8")
    if not _is_as_asked(row):
        raise ValueError("its settings are not those that were asked for")
    values = {**row, "settings": _settings(row["settings"]), "log_path": str(logs / f"{row['id']}.log")}
    try:
        values["taken"] = json.loads(row["taken"])
        return msgspec.convert(values, Job)
    except (msgspec.ValidationError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def mended(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a crashed job, with what can be read of a damaged one."""
    now = time.time()
    kept = {name: row[name] for name in _TYPES if _is_sound(row[name], _TYPES[name])}
    values = {**_fresh(row["id"], now), **kept, "state": "crashed", "finished_at": now, "rate": None}
    try:
        known = "kind" in kept and _is_as_asked(row)
        values["settings"] = canonical_json(_settings(row["settings"]) if known else LOST)
    except ValueError:
        values |= {"kind": "run", "settings": canonical_json(LOST)}
    values["digest"] = asked_digest(values["kind"], values["key"], values["settings"])
    return values | {"taken": "[]", "error_kind": DAMAGED, "error_text": _TEXT, "error_advice": _ADVICE}


def _is_as_asked(row: Mapping[str, Any]) -> bool:
    """Whether kind, key and settings are those that were written first; rows of earlier versions carry no digest."""
    asked = [row["kind"], row["key"], row["settings"]]
    if row["digest"] == "":
        return True
    return all(isinstance(text, str) and _is_text(text) for text in asked) and row["digest"] == asked_digest(*asked)


def _fresh(job_id: int, now: float) -> dict[str, Any]:
    possible: tuple[object, ...] = (None, "", 0, {}, [], "run", "queued", 1, "normal")
    empty = {name: next(v for v in possible if _is_sound(v, kind)) for name, kind in _TYPES.items()}
    return empty | {"key": f"damaged-{job_id}", "created_at": now, "queued_at": now}


def _settings(text: object) -> dict[str, Any]:
    if not isinstance(text, str) or not _is_text(text):
        raise ValueError("the settings are no text")
    try:
        settings = json.loads(text)
    except RecursionError as error:
        raise ValueError("the settings are too deep") from error
    if not isinstance(settings, dict):
        raise ValueError("the settings are no object")
    return settings


def _is_sound(value: object, kind: Any) -> bool:
    if isinstance(value, str) and not _is_text(value):
        return False
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _is_text(value: str) -> bool:
    """False for one with bytes that were no UTF-8: the connection reads them as halves of characters."""
    return encodable(value) == value


class Owners:
    """The owners of one data folder's things. Several may own one: who asks for the same gets the same.

    Without an owner is what was made while nobody else was served, or in a shell. Every method may raise StoreError.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, thing: str, owner: str) -> None:
        """Note that it is this owner's as well; the empty name owns nothing."""
        if owner and owner not in self.of(thing):
            with self._database.writing() as db:
                db.execute("INSERT OR IGNORE INTO owners (thing, owner) VALUES (?, ?)", (thing, owner))

    def take(self, thing: str, owner: str) -> bool:
        """Note that it is this owner's no more; whether it is somebody else's still."""
        with self._database.writing() as db:
            db.execute("DELETE FROM owners WHERE thing = ? AND owner = ?", (thing, owner))
            return bool(self.of(thing))

    def forget(self, thing: str) -> None:
        """Note that it is nobody's: it is gone."""
        if self.of(thing):
            with self._database.writing() as db:
                db.execute("DELETE FROM owners WHERE thing = ?", (thing,))

    def of(self, thing: str) -> frozenset[str]:
        """Whose it is."""
        rows = self._database.read("SELECT owner FROM owners WHERE thing = ?", (thing,))
        return frozenset(row["owner"] for row in rows)

    def things(self, owner: str) -> frozenset[str]:
        """All that is this owner's."""
        rows = self._database.read("SELECT thing FROM owners WHERE owner = ?", (owner,))
        return frozenset(row["thing"] for row in rows)


log = logging.getLogger(__name__)

_REPORT_PATIENCE_S = 1.0
"""Work goes on although nobody could note how far it is."""

_LIVE = "state IN ('queued', 'running')"
_FRESH = (
    "stage = '', done = 0, total = 0, unit = '', rate = NULL, message = '', n_right = NULL, point = NULL,"
    " started_at = NULL, finished_at = NULL, heartbeat_at = NULL, pid = NULL, exit_code = NULL,"
    " cancel_requested_at = NULL, error_kind = '', error_text = '', error_advice = '', worker = '',"
    " left_text = '', right_text = '', place = NULL, taken = '[]'"
)
_NAMES = (*(field.name for field in fields(Job) if field.name != "log_path"), "digest")
_COLUMNS = ", ".join(_NAMES)


class JobTable:
    """The jobs of one data folder. Safe to share between threads and processes.

    path: the SQLite file; its folder exists. patience_s: how long to wait while another process keeps it locked. Every
    method may raise StoreError when it cannot be read or written. A row that is damaged is a crashed job for all.
    owners: who has asked for what.
    """

    def __init__(self, path: Path, patience_s: float = PATIENCE_S) -> None:
        self._logs = path.parent / "logs"
        self._database = Database(path, patience_s)
        self.owners = Owners(self._database)

    def submit(self, kind: JobKind, key: str, settings: Mapping[str, Any], owner: str = "", most: int = 0) -> Job:
        """The live job with this key, or else a new one at the end of the queue.

        owner: who asks. most: how many live jobs are theirs at most; 0: any number. Raises JobError above that.
        """
        now = time.time()
        with self._database.writing() as db:
            self.owners.add(key, owner)
            if (row := _live_with(db, key)) and (live := self._job(row)).live:
                return live
            _refuse_too_many(db, owner, most)
            asked = (kind, key, canonical_json(settings))
            done = db.execute(
                "INSERT INTO jobs (kind, key, settings, digest, state, created_at, queued_at, owner)"
                " VALUES (?, ?, ?, ?, 'queued', ?, ?, ?)",
                (*asked, asked_digest(*asked), now, now, owner),
            )
            return self._job(_row(db, done.lastrowid))

    def retry(self, job_id: int, owner: str = "", most: int = 0) -> Job:
        """The job, queued once more; or the live job with its key. Raises JobError when it is done. owner, most: as in
        `submit`.
        """
        _refuse_impossible(job_id)
        with self._database.writing() as db:
            job = self._job(_row(db, job_id))
            if job.state == "done":
                raise JobError(f"Job {job_id} is done; only a job that ended early can be retried.")
            if (row := _live_with(db, job.key)) and (live := self._job(row)).live:
                return live
            _refuse_too_many(db, owner, most)
            self.owners.add(job.key, owner)
            db.execute(
                f"UPDATE jobs SET {_FRESH}, state = 'queued', attempt = attempt + 1, queued_at = ?, owner = ?"  # noqa: S608
                " WHERE id = ?",
                (time.time(), owner, job_id),
            )
            return self._job(_row(db, job_id))

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
            job = self._job(_row(db, job_id)) if changed.rowcount else None
            return job if job and job.live else None

    def report(
        self,
        job: Job,
        step: Step,
        *,
        rate: float | None,
        texts: tuple[str, str] = ("", ""),
        taken: Sequence[Taken] = (),
    ) -> None:
        """Record how far a running job is. Changes nothing when this attempt no longer runs.

        rate: of the step's units a second. texts: what the left and the right model have written so far. taken: what
        this attempt has spent where.
        """
        done = (step.stage, step.done, step.total, step.unit, rate, step.message)
        values = (*done, step.n_right, step.point, *texts, json.dumps(taken), time.time())
        with self._database.writing(_REPORT_PATIENCE_S) as db:
            db.execute(
                "UPDATE jobs SET stage = ?, done = ?, total = ?, unit = ?, rate = ?, message = ?,"
                " n_right = ?, point = ?, left_text = ?, right_text = ?, taken = ?, heartbeat_at = ?"
                " WHERE id = ? AND attempt = ? AND state = 'running'",
                (*values, job.id, job.attempt),
            )

    def wanted(self, job: Job) -> bool:
        """Whether this attempt is still marked as running and nobody has asked it to stop."""
        rows = self._read(
            "WHERE id = ? AND attempt = ? AND state = 'running' AND cancel_requested_at IS NULL", (job.id, job.attempt)
        )
        return any(row.live for row in rows)

    def finish(self, job: Job) -> bool:
        """Mark a running job as done. Returns whether it was running; likewise below."""
        return self._end(job, "done")

    def fail(self, job: Job, kind: str, text: str, advice: str) -> bool:
        """Mark a running job as failed, with the error that its own work raised."""
        return self._end(job, "failed", error=(kind, text, advice))

    def mark_cancelled(self, job: Job, text: str, advice: str, exit_code: int | None = None) -> bool:
        """Mark the job as cancelled, as somebody asked."""
        return self._end(job, "cancelled", error=("Cancelled", text, advice), exit_code=exit_code)

    def mark_crashed(self, job: Job, text: str, advice: str, exit_code: int | None = None) -> bool:
        """Mark the job as crashed: its worker ended without saying why."""
        return self._end(job, "crashed", error=("Crashed", text, advice), exit_code=exit_code)

    def request_cancel(self, job_id: int) -> Job:
        """The job after the request: cancelled if it waited, asked to stop if it runs, as it was if it had ended."""
        _refuse_impossible(job_id)
        now = time.time()
        with self._database.writing() as db:
            db.execute(
                "UPDATE jobs SET state = 'cancelled', cancel_requested_at = ?, finished_at = ?,"
                " error_kind = 'Cancelled', error_text = 'Cancelled before it started.'"
                " WHERE id = ? AND state = 'queued'",
                (now, now, job_id),
            )
            db.execute(
                "UPDATE jobs SET cancel_requested_at = coalesce(cancel_requested_at, ?)"
                " WHERE id = ? AND state = 'running'",
                (now, job_id),
            )
            return self._job(_row(db, job_id))

    def move(self, job_id: int, to: Move) -> Job:
        """The waiting job in its new place among those of its priority. Raises JobError when it does not wait (any
        more).
        """
        _refuse_impossible(job_id)
        with self._database.writing() as db:
            job = self._waiting(db, job_id, "moved")
            query = f"SELECT {_COLUMNS} FROM jobs WHERE state = 'queued'"  # noqa: S608
            queue = sorted(_still_live(tuple(map(self._job, db.execute(query).fetchall()))), key=queue_order)
            db.executemany("UPDATE jobs SET place = ? WHERE id = ?", places_after_move(queue, job, to))
            return self._job(_row(db, job_id))

    def prioritise(self, job_id: int, priority: Priority) -> Job:
        """The waiting run with this priority, behind those that have it already. Raises JobError as `move` does, and
        for a prompt.
        """
        _refuse_impossible(job_id)
        with self._database.writing() as db:
            if self._waiting(db, job_id, "made more or less urgent").kind not in LONG:
                raise JobError(f"Job {job_id} is a prompt: those go before runs, and have no priority.")
            db.execute("UPDATE jobs SET priority = ?, place = NULL WHERE id = ?", (priority, job_id))
            return self._job(_row(db, job_id))

    def while_running(self, job: Job, action: Callable[[], None]) -> None:
        """Call `action` if this attempt is running, and let nobody change its state meanwhile.

        So a signal meant for this job cannot meet the next one of the same worker. `action` is short.
        """
        with self._database.writing() as db:
            found = db.execute(
                "SELECT 1 FROM jobs WHERE id = ? AND attempt = ? AND state = 'running'", (job.id, job.attempt)
            ).fetchone()
            if found:
                action()

    def get(self, job_id: int) -> Job:
        """The job. Raises JobError when there is none."""
        _refuse_impossible(job_id)
        rows = self._read("WHERE id = ?", (job_id,))
        if not rows:
            raise _no_job(job_id)
        return rows[0]

    def newest(self, key: str) -> Job | None:
        """The newest job with this key, or None."""
        rows = self._read("WHERE key = ? ORDER BY id DESC LIMIT 1", (key,))
        return rows[0] if rows else None

    def list(self, limit: int, of: str = "") -> tuple[Job, ...]:
        """The newest jobs, newest first. of: only those that this owner has asked for."""
        if not of:
            return self._read("ORDER BY id DESC LIMIT ?", (limit,))
        theirs = "WHERE owner = ? OR key IN (SELECT thing FROM owners WHERE owner = ?) ORDER BY id DESC LIMIT ?"
        return self._read(theirs, (of, of, limit))

    def of_kinds(self, *kinds: JobKind) -> tuple[Job, ...]:
        """All jobs of these kinds, in whatever state, oldest first."""
        marks = ", ".join("?" * len(kinds))
        return self._read(f"WHERE kind IN ({marks}) ORDER BY id", kinds)

    def count(self) -> int:
        """How many jobs there are, in whatever state."""
        return int(self._database.read("SELECT count(*) AS n FROM jobs", ())[0]["n"])

    def running(self) -> tuple[Job, ...]:
        """The running jobs, in the order in which they were submitted."""
        return _still_live(self._read("WHERE state = 'running' ORDER BY id", ()))

    def queue(self) -> tuple[Job, ...]:
        """The queued jobs in the order they will be taken; see `queue_order`."""
        return tuple(sorted(_still_live(self._read("WHERE state = 'queued'", ())), key=queue_order))

    def position(self, job_id: int) -> int | None:
        """1 for the job that is taken next, 2 for the one after it; None when it does not wait."""
        ids = [job.id for job in self.queue()]
        return ids.index(job_id) + 1 if job_id in ids else None

    def close(self) -> None:
        """Close the file; the table cannot be used afterwards."""
        self._database.close()

    def _waiting(self, db: Connection, job_id: int, done: str) -> Job:
        job = self._job(_row(db, job_id))
        if job.state != "queued":
            raise JobError(
                f"Job {job_id} is {job.state} and cannot be {done}; only a job that waits can.",
                "The list of jobs shows those that wait.",
            )
        return job

    def _end(
        self, job: Job, state: JobState, *, error: tuple[str, str, str] = ("", "", ""), exit_code: int | None = None
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
        query = f"SELECT {_COLUMNS} FROM jobs {clause}"  # noqa: S608 - clauses are literals above
        return tuple(self._job(row) for row in self._database.read(query, values))

    def _job(self, row: Row) -> Job:
        try:
            return job_of(_values(row), self._logs)
        except ValueError as error:
            log.warning("The row of job %d was damaged: %s", row["id"], error)
        try:
            return self._mend(row["id"])
        except (StoreError, JobError) as error:
            log.warning("It could not be mended: %s", error)
            return job_of(mended(_values(row)), self._logs)

    def _mend(self, job_id: int) -> Job:
        """Make a damaged row one that can be read; one that is sound by now stays as it is."""
        with self._database.writing() as db:
            row = _values(_row(db, job_id))
            with suppress(ValueError):
                return job_of(row, self._logs)
            values = mended(row)
            columns = ", ".join(f"{name} = :{name}" for name in values)
            db.execute(f"UPDATE jobs SET {columns} WHERE id = :id", values)  # noqa: S608 - names of Job's fields
            return job_of(values, self._logs)


def _still_live(jobs: tuple[Job, ...]) -> tuple[Job, ...]:
    """Without those whose row was damaged."""
    return tuple(job for job in jobs if job.live)


def _values(row: Row) -> dict[str, Any]:
    """By our own names: a bit flipped in the table's description turns a letter of its names large or small."""
    return {name: row[name] for name in _NAMES}


def _row(db: Connection, job_id: int | None) -> Row:
    query = f"SELECT {_COLUMNS} FROM jobs WHERE id = ?"  # noqa: S608
    row: Row | None = db.execute(query, (job_id,)).fetchone()
    if row is None:
        raise _no_job(job_id)
    return row


def _live_with(db: Connection, key: str) -> Row | None:
    query = f"SELECT {_COLUMNS} FROM jobs WHERE key = ? AND {_LIVE}"  # noqa: S608
    row: Row | None = db.execute(query, (key,)).fetchone()
    return row


def _refuse_too_many(db: Connection, owner: str, most: int) -> None:
    """Raises JobError where one more is too many of this owner's; within the transaction, so that none slips in."""
    query = f"SELECT count(*) FROM jobs WHERE owner = ? AND {_LIVE}"  # noqa: S608
    if most and db.execute(query, (owner,)).fetchone()[0] >= most:
        raise JobError(
            f"You have {most} jobs that wait or run, and no more are allowed at once.",
            "Wait until one has ended, or cancel one on the jobs page.",
        )


def _refuse_impossible(job_id: int) -> None:
    """Raises JobError for a number that SQLite cannot hold: it raises something of its own."""
    if not 0 < job_id < 2**63:
        raise _no_job(job_id)


def _no_job(job_id: int | None) -> JobError:
    return JobError(f"There is no job {job_id}.", "The list of jobs shows those there are.")
