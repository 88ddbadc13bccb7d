"""The job table: one SQLite file that the server, its restarts and every worker share.

    queued -> running -> done | failed | cancelled | crashed        queued -> cancelled | crashed
    failed | cancelled | crashed -> queued, by retry, as the next attempt

Every change names the state and the attempt it starts from, so a late change has no effect.
Write-ahead mode and short
transactions: readers never wait for writers.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sparsedash.jobs.job import (
    LONG,
    EndState,
    Job,
    JobKind,
    Move,
    Priority,
    places_after_move,
    queue_order,
)
from sparsedash.jobs.lock_files import open_own
from sparsedash.schema.errors import JobError, StoreError
from sparsedash.schema.plain_values import LOCK_TIMEOUT_S, canonical_json
from sparsedash.schema.progress import Step

T = TypeVar("T")

_TRY_S = 0.1
_RETRY_S = 0.02
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

_LIVE = "state IN ('queued', 'running')"
_MOVE_AWAY = "Stop the server and move it and the folder logs away. Results are kept elsewhere; who owns them is lost."
_THIS_RUNNING = "WHERE id = ? AND attempt = ? AND state = 'running'"
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    settings TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued',
    progress TEXT NOT NULL DEFAULT '{{"stage": "start", "done": 0, "total": 0}}',
    attempt INTEGER NOT NULL DEFAULT 1,
    queued_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    earlier_s REAL NOT NULL DEFAULT 0,
    heartbeat_at REAL,
    pid INTEGER,
    cancel_requested_at REAL,
    error_text TEXT NOT NULL DEFAULT '',
    error_advice TEXT NOT NULL DEFAULT '',
    worker TEXT NOT NULL DEFAULT '',
    place REAL,
    priority TEXT NOT NULL DEFAULT 'normal',
    owner TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS owners (thing TEXT NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (thing, owner)) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS one_live_job_per_key ON jobs (key) WHERE {_LIVE};
CREATE INDEX IF NOT EXISTS jobs_by_key ON jobs (key);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state);
COMMIT;
"""


class Database:
    """One connection, shared by the threads of this process. Its methods raise StoreError for
    SQLite's errors.

    lock_timeout_s: how long to wait while another process keeps the file locked.
    """

    def __init__(self, path: Path, lock_timeout_s: float) -> None:
        self._path = path
        self._lock_timeout_s = lock_timeout_s
        self._lock = threading.RLock()
        if path.parent.is_dir() and not path.exists():
            # SQLite would close the file to a group that shares the folder; its other files get the
            # same mode.
            open_own(path, "ab").close()
        with self._as_store_error():
            self._db = sqlite3.connect(
                path, timeout=_TRY_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        self._db.row_factory = sqlite3.Row
        self._retry_while_locked(lambda: self._db.execute("PRAGMA journal_mode = WAL"))
        # A power cut may take the last moments with it, never the order of things; a crash takes
        # nothing.
        self._db.execute("PRAGMA synchronous = NORMAL")
        # Not written where it exists: a locked table can then be opened and read.
        jobs_table = "SELECT 1 FROM sqlite_master WHERE name = 'jobs'"
        if not self._retry_while_locked(
            lambda: self._db.execute(jobs_table).fetchone()
        ):
            self._retry_while_locked(lambda: self._db.executescript(_SCHEMA))

    def read(self, query: str, values: tuple[Any, ...]) -> list[sqlite3.Row]:
        """The rows as they are now; writers are not waited for."""

        def rows() -> list[sqlite3.Row]:
            with self._lock:
                return self._db.execute(query, values).fetchall()

        with self._as_store_error():
            return self._retry_while_locked(rows)

    @contextmanager
    def writing(
        self, lock_timeout_s: float | None = None
    ) -> Iterator[sqlite3.Connection]:
        """A write transaction, rolled back when the block raises; inside another one of this
        thread, part of that.

        lock_timeout_s: in place of the connection's.
        """
        with self._as_store_error():
            outermost = self._retry_while_locked(self._begin, lock_timeout_s)
            try:
                if outermost:
                    with self._db:
                        yield self._db
                else:
                    yield self._db
            finally:
                self._lock.release()

    def close(self) -> None:
        """Close the connection; nothing works afterwards."""
        with self._lock:
            self._db.close()

    def _begin(self) -> bool:
        """Take the lock of the threads and then of the processes; whether this begins a
        transaction.

        Takes neither when it raises: while it waits for another process, other threads can read.
        """
        self._lock.acquire()
        try:
            if self._db.in_transaction:
                return False
            self._db.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._lock.release()
            raise
        return True

    def _retry_while_locked(
        self, action: Callable[[], T], lock_timeout_s: float | None = None
    ) -> T:
        """The action's result, tried again while another process keeps the file locked.

        SQLite could wait by itself, but deaf to signals and to other threads.
        """
        deadline = time.monotonic() + (
            self._lock_timeout_s if lock_timeout_s is None else lock_timeout_s
        )
        while True:
            try:
                return action()
            except sqlite3.OperationalError as error:
                if _code(error) not in _BUSY or time.monotonic() >= deadline:
                    raise
            time.sleep(_RETRY_S)

    @contextmanager
    def _as_store_error(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            folder = self._path.parent
            if _code(error) in _BUSY:
                raise StoreError(
                    f"The job table {self._path} is locked by another process.",
                    "Jobs wait for it. Close any database tool or backup that uses it.",
                ) from error
            match _code(error):
                case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                    advice = f"It is damaged. {_MOVE_AWAY}"
                case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN:
                    advice = f"See whether {folder} exists, who may write to it, and how it is mounted."
                case _:
                    advice = "Is the disk full?"
            raise StoreError(
                f"The job table {self._path} cannot be used: {error}.", advice
            ) from error


def _code(error: sqlite3.Error) -> int:
    """The kind of an error: the low byte of its code; the others say more."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF


class JobTable:
    """The jobs of one data folder. Safe to share between threads and processes.

    path: the SQLite file; its folder exists. lock_timeout_s: how long to wait while another process
    keeps it locked.
    owners: who asked for what. Every method may raise StoreError when the file cannot be read or
    written.
    """

    def __init__(self, path: Path, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        self._logs = path.parent / "logs"
        self._database = Database(path, lock_timeout_s)
        self.owners = Owners(self._database)

    def submit(
        self,
        kind: JobKind,
        key: str,
        settings: Mapping[str, Any],
        owner: str = "",
        most: int = 0,
    ) -> Job:
        """The live job with this key, or else a new one queued last: the next attempt where one
        ended early.

        owner: who asks. most: limit of the owner's live jobs; 0: none. Raises JobError above the
        limit.
        """
        with self._database.writing() as db:
            self.owners.add(key, owner)
            if live := self._live_with(key):
                return live
            self._refuse_too_many(owner, most)
            last = self.newest(key)
            attempt, earlier_s = (
                (last.attempt + 1, last.all_s)
                if last and last.state != "done"
                else (1, 0.0)
            )
            done = db.execute(
                "INSERT INTO jobs (kind, key, settings, queued_at, owner, attempt, earlier_s)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    kind,
                    key,
                    canonical_json(settings),
                    time.time(),
                    owner,
                    attempt,
                    earlier_s,
                ),
            )
            return self.get(done.lastrowid or 0)

    def retry(self, job_id: int, owner: str = "", most: int = 0) -> Job:
        """The job, queued as its next attempt, or the live job with its key. owner, most: as in
        `submit`.

        Raises JobError when the job is done.
        """
        with self._database.writing() as db:
            job = self.get(job_id)
            if job.state == "done":
                raise JobError(
                    f"Job {job_id} is done; only a job that ended early can be retried."
                )
            self.owners.add(job.key, owner)
            if live := self._live_with(job.key):
                return live
            self._refuse_too_many(owner, most)
            # All other columns have their defaults again.
            db.execute(
                "REPLACE INTO jobs (id, kind, key, settings, attempt, priority, queued_at, owner, earlier_s)"
                " SELECT id, kind, key, settings, attempt + 1, priority, ?, ?, ? FROM jobs WHERE id = ?",
                (time.time(), owner, job.all_s, job_id),
            )
            return self.get(job_id)

    def claim(self, job_id: int, worker: str, pid: int) -> Job | None:
        """The job, now running; None when it is no longer queued.

        The caller holds the job's lock already: a running row with a free lock is a crashed one.
        """
        started_at = time.time()
        with self._database.writing() as db:
            changed = db.execute(
                "UPDATE jobs SET state = 'running', worker = ?, pid = ?, started_at = ?, heartbeat_at = ?"
                " WHERE id = ? AND state = 'queued'",
                (worker, pid, started_at, started_at, job_id),
            )
            return self.get(job_id) if changed.rowcount else None

    def report(self, job: Job, step: Step) -> None:
        """Record the progress of a running job. No effect when this attempt no longer runs."""
        values = (msgspec.json.encode(step).decode(), time.time(), job.id, job.attempt)
        # Work goes on while its progress cannot be written.
        with self._database.writing(1.0) as db:
            db.execute(
                f"UPDATE jobs SET progress = ?, heartbeat_at = ? {_THIS_RUNNING}",  # noqa: S608
                values,
            )

    def wanted(self, job: Job) -> bool:
        """Whether this attempt is still marked as running, with no request to stop."""
        return bool(
            self._read(
                f"{_THIS_RUNNING} AND cancel_requested_at IS NULL",
                (job.id, job.attempt),
            )
        )

    def end(self, job: Job, state: EndState, text: str = "", advice: str = "") -> bool:
        """End this attempt as `done`, `failed` by an error of its own work, `cancelled` on request,
        or `crashed`.

        text, advice: why, for a person. Returns whether the job was still in the state given.
        """
        values = (state, time.time(), text, advice, job.id, job.attempt, job.state)
        with self._database.writing() as db:
            changed = db.execute(
                "UPDATE jobs SET state = ?, finished_at = ?, error_text = ?, error_advice = ?"
                " WHERE id = ? AND attempt = ? AND state = ?",
                values,
            )
            return changed.rowcount == 1

    def request_cancel(self, job_id: int) -> Job:
        """The job after the request: cancelled if it was queued, asked to stop if running,
        unchanged if ended.
        """
        with self._database.writing() as db:
            job = self.get(job_id)
            if job.state == "queued":
                self.end(job, "cancelled", "Cancelled before it started.")
            elif job.live:
                request = "UPDATE jobs SET cancel_requested_at = coalesce(cancel_requested_at, ?) WHERE id = ?"
                db.execute(request, (time.time(), job_id))
            return self.get(job_id)

    def move(self, job_id: int, to: Move) -> Job:
        """The queued job in its new place among those of its priority. Raises JobError when it is
        not queued.
        """
        with self._database.writing() as db:
            places = places_after_move(self.queue(), self._queued(job_id, "moved"), to)
            db.executemany("UPDATE jobs SET place = ? WHERE id = ?", places)
            return self.get(job_id)

    def prioritise(self, job_id: int, priority: Priority) -> Job:
        """The queued run, in its usual place among that priority. Raises JobError unless it is a
        queued run.
        """
        with self._database.writing() as db:
            if self._queued(job_id, "given a priority").kind not in LONG:
                raise JobError(
                    f"Job {job_id} is a prompt: prompts go before runs and have no priority."
                )
            db.execute(
                "UPDATE jobs SET priority = ?, place = NULL WHERE id = ?",
                (priority, job_id),
            )
            return self.get(job_id)

    def while_running(self, job: Job, action: Callable[[], None]) -> None:
        """Call `action`, which is short, if this attempt is running; nobody can change its state
        meanwhile.

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
            raise JobError(f"There is no job {job_id}.", "See the list of jobs.")
        return rows[0]

    def newest(self, key: str) -> Job | None:
        """The live job with this key, or else the newest, or None."""
        return next(
            iter(
                self._read(
                    f"WHERE key = ? ORDER BY {_LIVE} DESC, id DESC LIMIT 1", (key,)
                )
            ),
            None,
        )

    def newest_jobs(self, limit: int, owner: str = "") -> tuple[Job, ...]:
        """The newest jobs and all live ones, newest first; owner: only those of this one."""
        theirs = "1"
        owners: tuple[str, ...] = ()
        if owner:
            theirs = "(owner = ? OR key IN (SELECT thing FROM owners WHERE owner = ?))"
            owners = (owner, owner)
        newest = f"SELECT id FROM jobs WHERE {theirs} ORDER BY id DESC LIMIT ?"  # noqa: S608 - literals
        clause = f"WHERE ({_LIVE} AND {theirs}) OR id IN ({newest}) ORDER BY id DESC"
        return self._read(clause, (*owners, *owners, limit))

    def of_kinds(self, *kinds: JobKind) -> tuple[Job, ...]:
        """All jobs of these kinds in any state, oldest first."""
        marks = ", ".join("?" * len(kinds))
        return self._read(f"WHERE kind IN ({marks}) ORDER BY id", kinds)

    def count(self) -> int:
        """The number of jobs in any state."""
        return int(self._database.read("SELECT count(*) FROM jobs", ())[0][0])

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
                f"Job {job_id} is {job.state} and cannot be {done}; only a waiting job can.",
                "See the list of jobs.",
            )
        return job

    def _live_with(self, key: str) -> Job | None:
        return next(iter(self._read(f"WHERE key = ? AND {_LIVE}", (key,))), None)

    def _refuse_too_many(self, owner: str, most: int) -> None:
        """Raise JobError at the limit of the owner's live jobs; within the transaction, so that
        none slips in.
        """
        if most and len(self._read(f"WHERE owner = ? AND {_LIVE}", (owner,))) >= most:
            raise JobError(
                f"You have {most} jobs that wait or run, and no more are allowed at once.",
                "Wait until one has ended, or cancel one on the runs page.",
            )

    def _read(self, clause: str, values: tuple[Any, ...]) -> tuple[Job, ...]:
        query = f"SELECT * FROM jobs {clause}"  # noqa: S608 - clauses are literals above
        return tuple(self._job(row) for row in self._database.read(query, values))

    def _job(self, row: sqlite3.Row) -> Job:
        try:
            decoded = {
                "settings": json.loads(row["settings"]),
                "progress": msgspec.json.decode(row["progress"], type=Step),
            }
            return Job(
                **{
                    **dict(row),
                    **decoded,
                    "log_path": str(self._logs / f"{row['id']}.log"),
                }
            )
        except (ValueError, TypeError, LookupError) as error:
            raise StoreError(
                f"The job table {self._logs.with_name('jobs.sqlite')} is damaged: job {row['id']} cannot be read.",
                _MOVE_AWAY,
            ) from error


class Owners:
    """The owners of a data folder's things; a thing may have several, since equal requests share
    one job.

    Things made in a shell, or without a login, have none. Every method may raise StoreError.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, thing: str, owner: str) -> None:
        """Add an owner; the empty name owns nothing."""
        if owner and owner not in self.of(thing):
            with self._database.writing() as db:
                db.execute(
                    "INSERT OR IGNORE INTO owners (thing, owner) VALUES (?, ?)",
                    (thing, owner),
                )

    def take(self, thing: str, owner: str) -> bool:
        """Remove an owner; whether others are left."""
        with self._database.writing() as db:
            db.execute(
                "DELETE FROM owners WHERE thing = ? AND owner = ?", (thing, owner)
            )
            return bool(self.of(thing))

    def forget(self, thing: str) -> None:
        """Remove all owners of a deleted thing."""
        if self.of(thing):
            with self._database.writing() as db:
                db.execute("DELETE FROM owners WHERE thing = ?", (thing,))

    def of(self, thing: str) -> frozenset[str]:
        """Its owners."""
        return self._column("SELECT owner FROM owners WHERE thing = ?", thing)

    def things(self, owner: str) -> frozenset[str]:
        """All that this owner owns."""
        return self._column("SELECT thing FROM owners WHERE owner = ?", owner)

    def _column(self, query: str, value: str) -> frozenset[str]:
        return frozenset(row[0] for row in self._database.read(query, (value,)))
