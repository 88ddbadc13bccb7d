"""A diskcache with our settings, without pickles, that waits for other processes and makes room by
least recent use.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from math import ceil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import diskcache

from sparsedash.schema.errors import SettingsError, StoreError
from sparsedash.schema.records import about_artefact
from sparsedash.storage.local_machine import free_in_words, is_full, mode_in

T = TypeVar("T")

DAMAGED = "damaged/"
"""Prefix of the name of a damaged entry that was set aside, for a person to look at."""

VARIABLE = "SPARSEDASH_ARTEFACT_GB"
USUAL_GB = 20.0
KEPT = about_artefact("healed", "")
"""Beginning of the tags of artefacts that are never evicted: they go with the runs that have
them.
"""
MIN_GB = 0.1
MAX_GB = 1_000_000.0
_ALLOWED = f"a number from {MIN_GB:g} to {MAX_GB:,.0f}"

_TRY_S = 1.0
_RETRY_S = 0.02
_HOUR_S = 3600.0
_SETTINGS: dict[str, Any] = {
    **diskcache.DEFAULT_SETTINGS,
    "statistics": 0,
    "tag_index": 0,
    # `evict_oldest` instead: diskcache would forget ten entries at once, and with few large ones
    # that is all of them.
    "cull_limit": 0,
}
_DAMAGED = ("malformed", "not a database", "no such", "corrupt")
"""SQLite's words for a damaged file."""

# A value in a row has no size of its own there.
_N_BYTES = "CASE WHEN filename IS NULL THEN coalesce(length(value), 0) ELSE size END"
_USED_AT = "max(access_time, store_time)"
_OURS = "FROM Cache WHERE raw = 1"
KEYS = f"SELECT key {_OURS} AND key >= ? AND key < ? ORDER BY rowid"
USED_SINCE = f"SELECT total({_N_BYTES}) {_OURS} AND ifnull(tag, '') NOT LIKE ? AND {_USED_AT} >= ?"
ENTRIES = (
    f"SELECT key, {_N_BYTES}, {_USED_AT}, coalesce(tag, '') {_OURS} ORDER BY rowid"
)


class DamagedEntry(StoreError):  # noqa: N818 - it names what an entry is
    """An entry that cannot be read."""


_DIGEST_BYTES = 32


def _digest(name: str, data: bytes | memoryview) -> bytes:
    hashed = hashlib.sha256(f"{name}\0".encode())
    hashed.update(data)
    return hashed.digest()


def is_sound(name: str, data: bytes) -> bool:
    """Whether bytes begin with the checksum of the name and the rest."""
    # Without a copy: a value may be a gigabyte.
    return data[:_DIGEST_BYTES] == _digest(name, memoryview(data)[_DIGEST_BYTES:])


def unsigned(data: bytes) -> bytes:
    """The bytes without the checksum before them."""
    return data[_DIGEST_BYTES:]


class PlainDisk(diskcache.Disk):  # type: ignore[misc]
    """Keeps str keys and bytes values: never writes or reads a pickle (CVE-2025-69872)."""

    def put(self, key: object) -> tuple[str, bool]:
        """The key as it is. Raises StoreError when it is not text."""
        if type(key) is not str:
            raise StoreError(f"A key in the store is text, not {type(key).__name__}.")
        return key, True

    def get(self, key: Any, raw: int) -> str:
        """The key as it was put; a pickled one is never unpickled and reads as "", which names
        nothing.
        """
        return key if raw and type(key) is str else ""

    def store(self, value: Any, read: bool, key: Any = diskcache.UNKNOWN) -> Any:
        """Write bytes after the checksum of the key and them.

        Raises StoreError on any other type.
        """
        if type(value) is not bytes:
            raise StoreError(
                f"A value in the store is bytes, not {type(value).__name__}."
            )
        digest = _digest(key, value)
        if len(value) < self.min_file_size:
            return super().store(digest + value, False, key)
        # Not joined in memory, where a gigabyte would be copied.
        parts = iter((digest, value, b""))
        return super().store(SimpleNamespace(read=lambda n: next(parts)), True, key)

    def _write(self, full_path: str, *args: Any, **kwargs: Any) -> Any:
        """Write a file, or nothing: diskcache leaves a piece where a disk is full, or a job ends."""
        try:
            return super()._write(full_path, *args, **kwargs)
        except BaseException:
            Path(full_path).unlink(missing_ok=True)
            raise

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes:
        """The bytes. Raises DamagedEntry on a pickle, any other value, and a missing file."""
        try:
            is_plain = (
                mode in (diskcache.core.MODE_RAW, diskcache.core.MODE_BINARY)
                and not read
            )
            data = (
                super().fetch(
                    mode,
                    filename,
                    value,
                    read,
                )
                if is_plain
                else None
            )
        except (FileNotFoundError, TypeError, ValueError) as error:
            raise DamagedEntry("The file of an entry is gone.") from error
        if type(data) is not bytes:
            raise DamagedEntry(
                "The store holds a value that this program did not write."
            )
        return data


def open_cache(folder: Path, policy: str, lock_timeout_s: float) -> Any:
    """The diskcache of a folder. Raises the errors of SQLite and of the disk."""
    path = folder / "cache.db"

    def try_to_write() -> None:
        with closing(
            sqlite3.connect(
                path,
                timeout=_TRY_S,
                isolation_level=None,
            )
        ) as db:
            db.execute("BEGIN IMMEDIATE")

    # diskcache and SQLite would close both to a group that shares the data folder; more files of it
    # are like the first.
    folder.mkdir(mode=mode_in(folder.parent, 0o700), exist_ok=True)
    if not path.exists():
        path.touch(mode=mode_in(folder, 0o600))
    # diskcache itself waits a minute for a locked file.
    retry_while_locked(try_to_write, lock_timeout_s)
    settings = {**_SETTINGS, "size_limit": 2**62, "eviction_policy": policy}
    return diskcache.Cache(
        str(folder),
        disk=PlainDisk,
        timeout=_TRY_S,
        **settings,
    )


def sweep_orphans(cache: Any) -> None:
    """Delete files without an entry, which a kill or a full disk left behind: they count nowhere.

    Not those of the last hour, whose entries may be on their way.
    """
    folder = Path(cache.directory)
    before = time.time() - _HOUR_S
    with suppress(OSError):
        old = [file for file in folder.rglob("*.val") if file.stat().st_mtime < before]
        rows = cache._sql(
            "SELECT filename FROM Cache WHERE filename IS NOT NULL"
        ).fetchall()
        for file in old:
            if (str(file.relative_to(folder)),) not in rows:
                file.unlink(missing_ok=True)


def retry_while_locked(action: Callable[[], T], lock_timeout_s: float) -> T:
    """The action's result, tried again while another process keeps the file locked."""
    deadline = time.monotonic() + lock_timeout_s
    while True:
        try:
            return action()
        except (sqlite3.OperationalError, diskcache.Timeout) as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY_S)


def is_busy(error: BaseException) -> bool:
    """Whether another process keeps the file locked."""
    # The low byte is the kind of SQLite's error.
    code = getattr(cache_failure(error), "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class CacheEntry(NamedTuple):
    """An entry without its value: key, bytes, time of last use (seconds since the epoch), tag.

    In a cache without eviction the time of last use is the time of writing.
    """

    name: str
    n_bytes: int
    used_at: float
    tag: str


def cache_failure(error: BaseException) -> BaseException:
    """SQLite's reason, which diskcache hides behind a Timeout or a failed rollback."""
    return error.__context__ if isinstance(error.__context__, sqlite3.Error) else error


def cache_advice(error: Exception, folder: Path) -> str:
    """Advice on a failure. folder: the data folder."""
    if is_busy(error):
        return "Another process keeps it locked. Close any database tool or backup that uses it."
    if isinstance(error, sqlite3.DatabaseError) and any(
        words in str(error) for words in _DAMAGED
    ):
        return "Its file is damaged. Stop the server, move the file away, and start again; its contents are lost."
    room = free_in_words(error, folder) if is_full(error) else ""
    return f"See whether the disk is full and whether the folder may be written to. {room}".strip()


def bytes_of(gigabytes: float, field: str = VARIABLE) -> int:
    """Bytes of so many GB. Raises SettingsError out of range. field: its name in the error."""
    if not MIN_GB <= gigabytes <= MAX_GB:
        raise SettingsError(field, gigabytes, _ALLOWED)
    # Upwards: the least that may be asked for is not too little once it is kept.
    return ceil(gigabytes * 1e9)


def room_of_environment() -> int | None:
    """The limit of the artefacts in bytes by the environment, or None.

    Raises SettingsError on nonsense.
    """
    limit = os.environ.get(VARIABLE)
    if not limit:
        return None
    try:
        return bytes_of(float(limit))
    except (ValueError, SettingsError):
        raise SettingsError(VARIABLE, limit, _ALLOWED) from None


def evict_oldest(cache: Any, room: int, written: str = "") -> None:
    """Evict the least recently used entries until no more than `room` is taken, but never the entry
    just written.

    Those whose tag begins with KEPT are neither evicted nor counted.
    """
    oldest = (
        "SELECT key FROM Cache WHERE raw = 1 AND key != ? AND ifnull(tag, '') NOT LIKE ? "
        "ORDER BY access_time LIMIT 1"
    )
    kept_bytes = f"SELECT total({_N_BYTES}) {_OURS} AND tag LIKE ?"
    ((uncounted,),) = cache._sql(kept_bytes, (f"{KEPT}%",)).fetchall()
    while cache.volume() > room + uncounted:
        rows = cache._sql(oldest, (written, f"{KEPT}%")).fetchall()
        if not rows:
            return
        cache.delete(rows[0][0])
