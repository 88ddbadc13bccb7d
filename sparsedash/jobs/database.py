"""The SQLite file of the job table: write-ahead mode and short transactions, so that processes can share it."""

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from sparsedash.schema.errors import StoreError

_FLAGS = {"rb": os.O_RDONLY, "ab": os.O_WRONLY | os.O_CREAT | os.O_APPEND}


def open_own(path: Path, mode: Literal["rb", "ab"]) -> IO[bytes]:
    """The open file. Raises StoreError where it cannot be one, FileNotFoundError where there is none to be read."""
    try:
        refuse_other_kinds(path)
        # Never waits: the opening of a pipe would, for somebody at its other end.
        number = os.open(path, _FLAGS[mode] | os.O_NONBLOCK | os.O_CLOEXEC, _mode_in(path.parent, 0o600))
    except OSError as error:
        if mode == "rb" and isinstance(error, FileNotFoundError):
            raise
        raise StoreError(f"{path} cannot be opened: {error.strerror}.", "See who may use the data folder.") from error
    file = os.fdopen(number, mode)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        file.close()
        raise _in_the_way(path, "no file")
    return file


def refuse_other_kinds(path: Path) -> None:
    """Raise StoreError where something lies that is no file, links followed."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise _in_the_way(path, "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket")


def make_folder(path: Path) -> None:
    """Make a folder for its owner only, or for the group of the folder around it. Raises StoreError where that cannot
    be.
    """
    try:
        path.mkdir(mode=_mode_in(path.parent, 0o700), exist_ok=True)
    except FileExistsError as error:
        raise StoreError(f"{path} is in the way: a folder belongs there.", "Move it away and try again.") from error
    except OSError as error:
        raise StoreError(f"The folder {path} cannot be made: {error.strerror}.", "Is the disk full?") from error


def _mode_in(folder: Path, mode: int) -> int:
    """As `storage.local_paths.mode_in`."""
    return mode | mode >> 3 if folder.stat().st_mode & 0o020 else mode


def _in_the_way(path: Path, what: str) -> StoreError:
    return StoreError(f"{path} is {what}: a file of this program belongs there.", "Move it away and try again.")


Connection = sqlite3.Connection
Row = sqlite3.Row

_VERSION = 6
PATIENCE_S = 5.0
"""How long to wait for another process, where somebody waits for the page."""

_TRY_S = 0.1
_RETRY_S = 0.02
_ENDS = ("", "-wal", "-shm", "-journal")
"""Of the names of the files that make up the table."""

T = TypeVar("T")
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
    right_text TEXT NOT NULL DEFAULT '',
    place REAL,
    taken TEXT NOT NULL DEFAULT '[]',
    priority TEXT NOT NULL DEFAULT 'normal',
    digest TEXT NOT NULL DEFAULT '',
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
"""


class Database:
    """One connection, shared by the threads of this process. Its methods raise StoreError for what SQLite raises.

    patience_s: how long to wait while another process keeps the file locked.
    """

    def __init__(self, path: Path, patience_s: float = PATIENCE_S) -> None:
        self._path = path
        self._patience_s = patience_s
        self._lock = threading.RLock()
        for end in _ENDS:
            refuse_other_kinds(path.with_name(path.name + end))
        if path.parent.is_dir() and path.parent.stat().st_mode & 0o020 and not path.exists():
            # The folder is a group's: SQLite would give its file to nobody but us, and its other files are like it.
            open_own(path, "ab").close()
        with _as_store_error(path):
            self._db = _open(path, patience_s)

    def read(self, query: str, values: tuple[Any, ...]) -> list[Row]:
        """The rows as they are now; does not wait for one who only writes."""

        def rows() -> list[Row]:
            with self._lock:
                return self._db.execute(query, values).fetchall()

        with _as_store_error(self._path):
            return _patiently(rows, self._patience_s)

    @contextmanager
    def writing(self, patience_s: float | None = None) -> Iterator[Connection]:
        """A transaction during which nobody else can write; rolled back when the block raises.

        Within another one of the same thread it is a part of that. patience_s: in place of the connection's.
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
        """Take the lock of the threads and then of the processes; whether this begins a transaction. Takes neither
        when it raises: while it waits for another process, other threads can read.
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
        # One damaged text shall not keep all rows from being read.
        db.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
        # Readers then never wait for writers. SQLite itself does not wait for others while it switches.
        _patiently(lambda: db.execute("PRAGMA journal_mode = WAL"), patience_s)
        # A power cut may take the last moments with it, never the order of things; a crash takes nothing.
        db.execute("PRAGMA synchronous = NORMAL")
        if not _patiently(lambda: _is_up_to_date(db, path), patience_s):
            _patiently(lambda: db.execute("BEGIN IMMEDIATE"), patience_s)
            _bring_up_to_date(db)
            db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db


def _is_up_to_date(db: sqlite3.Connection, path: Path) -> bool:
    """Whether nothing need be written, so that a table which is locked can be opened and read."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise StoreError(
            f"The job table {path} was written by a newer version of SparseDash.",
            "Upgrade, or name another data folder.",
        )
    names = {row["name"] for row in db.execute("SELECT name FROM sqlite_master")}
    return version == _VERSION and names >= {"jobs", "owners", "one_live_job_per_key", "jobs_by_key", "jobs_by_state"}


def _bring_up_to_date(db: sqlite3.Connection) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
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
    if version in (2, 3):
        db.execute("ALTER TABLE jobs ADD COLUMN place REAL")
        db.execute("ALTER TABLE jobs ADD COLUMN taken TEXT NOT NULL DEFAULT '[]'")
    if version in (2, 3, 4):
        db.execute("ALTER TABLE jobs ADD COLUMN priority TEXT NOT NULL DEFAULT 'normal'")
        db.execute("ALTER TABLE jobs ADD COLUMN digest TEXT NOT NULL DEFAULT ''")
    if version in (2, 3, 4, 5):
        db.execute("ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT ''")
    db.execute(f"PRAGMA user_version = {_VERSION}")


def _bring_over(db: sqlite3.Connection) -> None:
    """The jobs of a version 1 file, which knew two kinds and no texts; a column can be added, a CHECK not dropped."""
    names = ", ".join(row["name"] for row in db.execute("PRAGMA table_info(jobs_of_version_1)"))
    db.execute(f"INSERT INTO jobs ({names}) SELECT {names} FROM jobs_of_version_1")  # noqa: S608
    db.execute("DROP TABLE jobs_of_version_1")


def _patiently(action: Callable[[], T], patience_s: float) -> T:
    """What the action gives, tried again while another process keeps the file locked.

    SQLite could wait by itself, but deaf to signals and to other threads.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY_S)


def _is_busy(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    # The low byte is the kind of error, the others say more.
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _advice(error: sqlite3.Error, path: Path) -> str:
    """Never to move away a table that is whole."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return "It is damaged. Stop the server and move it away; results are kept elsewhere."
    if code == sqlite3.SQLITE_READONLY:
        return f"It is read-only for this user: see who may write to {path.parent}, and how its disk is mounted."
    if code == sqlite3.SQLITE_CANTOPEN:
        return f"See whether {path.parent} is there and may be written to."
    return "Is the disk full?"


@contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if _is_busy(error):
            raise StoreError(
                f"The job table {path} is locked by another process.",
                "Jobs wait for it. Is a database tool or a backup at work on it?",
            ) from error
        raise StoreError(f"The job table {path} cannot be used: {error}.", _advice(error, path)) from error
    except UnicodeDecodeError as error:
        # SQLite quotes what is damaged, and Python cannot read that.
        raise StoreError(
            f"The job table {path} is damaged: its own description is no text.",
            "Move it away; results are kept elsewhere.",
        ) from error
