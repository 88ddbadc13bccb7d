"""The SQLite file of the job table: write-ahead mode and short transactions, so that processes can share it."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsedash.schema.errors import StoreError

Connection = sqlite3.Connection
Row = sqlite3.Row

_VERSION = 3
_BUSY_S = 10.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    settings TEXT NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled', 'crashed')),
    stage TEXT NOT NULL DEFAULT '',
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    unit TEXT NOT NULL DEFAULT '',
    rate REAL,
    message TEXT NOT NULL DEFAULT '',
    n_right INTEGER,
    point INTEGER,
    attempt INTEGER NOT NULL DEFAULT 1,
    created_at REAL NOT NULL,
    queued_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    heartbeat_at REAL,
    pid INTEGER,
    exit_code INTEGER,
    cancel_requested_at REAL,
    error_kind TEXT NOT NULL DEFAULT '',
    error_text TEXT NOT NULL DEFAULT '',
    error_advice TEXT NOT NULL DEFAULT '',
    worker TEXT NOT NULL DEFAULT '',
    left_text TEXT NOT NULL DEFAULT '',
    right_text TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX IF NOT EXISTS one_live_job_per_key ON jobs (key)
    WHERE state IN ('queued', 'running');
CREATE INDEX IF NOT EXISTS jobs_by_key ON jobs (key);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state);
"""


class Database:
    """One connection, shared by the threads of this process. Its methods raise StoreError for what SQLite raises."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with _as_store_error(path):
            self._db = _open(path)

    def read(self, query: str, values: tuple[Any, ...]) -> list[Row]:
        """The rows as they are now; never waits for a writer."""
        with _as_store_error(self._path), self._lock:
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction during which nobody else can write; rolled back when the block raises."""
        with _as_store_error(self._path), self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection; nothing works afterwards."""
        with self._lock:
            self._db.close()


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        db.row_factory = sqlite3.Row
        _use_write_ahead_log(db)
        # A power cut may take the last moments with it, never the order of things; a crash takes nothing.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise StoreError(
                f"The job table {path} was written by a newer version of SparseDash.",
                "Upgrade, or name another data folder.",
            )
        if version == 1:
            db.execute("DROP INDEX one_live_job_per_key")
            db.execute("DROP INDEX jobs_by_key")
            db.execute("DROP INDEX jobs_by_state")
            db.execute("ALTER TABLE jobs RENAME TO jobs_of_version_1")
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        if version == 1:
            _bring_over(db)
        if version == 2:
            db.execute("ALTER TABLE jobs ADD COLUMN point INTEGER")
        db.execute(f"PRAGMA user_version = {_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db


def _bring_over(db: sqlite3.Connection) -> None:
    """The jobs of a version 1 file, which knew two kinds and no texts; a column can be added, a CHECK not dropped."""
    names = ", ".join(row["name"] for row in db.execute("PRAGMA table_info(jobs_of_version_1)"))
    db.execute(f"INSERT INTO jobs ({names}) SELECT {names} FROM jobs_of_version_1")  # noqa: S608
    db.execute("DROP TABLE jobs_of_version_1")


def _use_write_ahead_log(db: sqlite3.Connection) -> None:
    """Readers then never wait for writers. SQLite does not wait for others while it switches, so this does."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.02)
        else:
            return


@contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"The job table {path} cannot be used: {error}.",
            "Is the disk full or read-only? If the file is damaged, move it away; results are kept elsewhere.",
        ) from error
