"""The SQLite file of the job table: write-ahead mode and short transactions, so that processes can share it."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from sparsedash.schema.errors import StoreError

Connection = sqlite3.Connection
Row = sqlite3.Row

PATIENCE_S = 5.0
"""How long to wait for another process while a user waits for the page."""

_TRY_S = 0.1
_RETRY_S = 0.02

T = TypeVar("T")
_SCHEMA = """
BEGIN IMMEDIATE;
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
    right_text TEXT NOT NULL DEFAULT '',
    place REAL,
    taken TEXT NOT NULL DEFAULT '[]',
    priority TEXT NOT NULL DEFAULT 'normal',
    owner TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS owners (
    thing TEXT NOT NULL,
    owner TEXT NOT NULL,
    PRIMARY KEY (thing, owner)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS one_live_job_per_key ON jobs (key)
    WHERE state IN ('queued', 'running');
CREATE INDEX IF NOT EXISTS jobs_by_key ON jobs (key);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state);
COMMIT;
"""


def open_own(path: Path, mode: Literal["rb", "ab"]) -> IO[bytes]:
    """Open a file of the data folder, for its owner only, or for the group that shares the folder.

    Raises FileNotFoundError when there is nothing to read, StoreError for any other failure.
    """

    def opened(name: str, flags: int) -> int:
        return os.open(name, flags, _mode_in(path.parent, 0o600))

    try:
        return open(path, mode, opener=opened)
    except OSError as error:
        if mode == "rb" and isinstance(error, FileNotFoundError):
            raise
        raise StoreError(f"{path} cannot be opened: {error.strerror}.", "See who may use the data folder.") from error


def make_folder(path: Path) -> None:
    """Make a folder for its owner only, or for the group of the folder around it. Raises StoreError on failure."""
    try:
        path.mkdir(mode=_mode_in(path.parent, 0o700), exist_ok=True)
    except OSError as error:
        raise StoreError(f"The folder {path} cannot be made: {error.strerror}.", "Is the disk full?") from error


def _mode_in(folder: Path, mode: int) -> int:
    """As `storage.local_machine.mode_in`."""
    return mode | mode >> 3 if folder.stat().st_mode & 0o020 else mode


class Database:
    """One connection, shared by the threads of this process. Its methods raise StoreError for SQLite's errors.

    patience_s: how long to wait while another process keeps the file locked.
    """

    def __init__(self, path: Path, patience_s: float = PATIENCE_S) -> None:
        self._path = path
        self._patience_s = patience_s
        self._lock = threading.RLock()
        if path.parent.is_dir() and not path.exists():
            # SQLite would close the file to a group that shares the folder; its other files get the same mode.
            open_own(path, "ab").close()
        with _as_store_error(path):
            self._db = _open(path, patience_s)

    def read(self, query: str, values: tuple[Any, ...]) -> list[Row]:
        """The rows as they are now; never waits for a writer."""

        def rows() -> list[Row]:
            with self._lock:
                return self._db.execute(query, values).fetchall()

        with _as_store_error(self._path):
            return _patiently(rows, self._patience_s)

    @contextmanager
    def writing(self, patience_s: float | None = None) -> Iterator[Connection]:
        """A write transaction, rolled back when the block raises; inside another one of this thread, part of that.

        patience_s: in place of the connection's.
        """
        with _as_store_error(self._path):
            outermost = _patiently(self._begin, self._patience_s if patience_s is None else patience_s)
            try:
                yield self._db
                if outermost:
                    self._db.execute("COMMIT")
            finally:
                if outermost and self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._lock.release()

    def close(self) -> None:
        """Close the connection; nothing works afterwards."""
        with self._lock:
            self._db.close()

    def _begin(self) -> bool:
        """Take the lock of the threads and then of the processes; whether this begins a transaction.

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


def _open(path: Path, patience_s: float) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_TRY_S, isolation_level=None, check_same_thread=False)
    try:
        db.row_factory = sqlite3.Row
        # Readers then never wait for writers. SQLite itself does not wait for others while it switches.
        _patiently(lambda: db.execute("PRAGMA journal_mode = WAL"), patience_s)
        # A power cut may take the last moments with it, never the order of things; a crash takes nothing.
        db.execute("PRAGMA synchronous = NORMAL")
        made = "SELECT 1 FROM sqlite_master WHERE name = 'jobs_by_state'"
        # Not written where it exists: a locked table can then be opened and read.
        if not _patiently(lambda: db.execute(made).fetchone(), patience_s):
            _patiently(lambda: db.executescript(_SCHEMA), patience_s)
    except BaseException:
        db.close()
        raise
    return db


def _patiently(action: Callable[[], T], patience_s: float) -> T:
    """The action's result, tried again while another process keeps the file locked.

    SQLite could wait by itself, but deaf to signals and to other threads.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if _code(error) not in _BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY_S)


_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: sqlite3.Error) -> int:
    """The kind of an error: the low byte of its code; the others say more."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF


@contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        advice = "Is the disk full?"
        match _code(error):
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                raise StoreError(
                    f"The job table {path} is locked by another process.",
                    "Jobs wait for it. Is a database tool or a backup at work on it?",
                ) from error
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                advice = "It is damaged. Stop the server and move it away; results are kept elsewhere."
            case sqlite3.SQLITE_READONLY:
                advice = f"It is read-only for this user: see who may write to {path.parent}, and how it is mounted."
            case sqlite3.SQLITE_CANTOPEN:
                advice = f"See whether {path.parent} exists and is writable."
        raise StoreError(f"The job table {path} cannot be used: {error}.", advice) from error
