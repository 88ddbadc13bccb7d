"""A diskcache with our settings, without pickles, that waits for other processes and makes room by least recent use."""

import errno
import io
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import diskcache

from sparsedash.schema.errors import SettingsError, StoreError
from sparsedash.storage.local_machine import free_in_words, is_full, mode_in, path_kind

log = logging.getLogger(__name__)

_OWN_FILE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val")


@dataclass(frozen=True)
class Signed:
    """A value with the sum that is kept before it; not joined here, since that would be a second copy of a gigabyte."""

    digest: bytes
    data: bytes


class PlainDisk(diskcache.Disk):  # type: ignore[misc]
    """Keeps str keys and bytes values, and refuses to write or read anything pickled (CVE-2025-69872)."""

    def put(self, key: object) -> tuple[str, bool]:
        """The key as it is. Raises StoreError when it is not text."""
        if type(key) is not str:
            raise StoreError(f"A key in the store is text, not {type(key).__name__}.")
        return key, True

    def get(self, key: Any, raw: int) -> str:
        """The key as it was put; a pickled one is never unpickled and reads as "", which names nothing."""
        if not raw or type(key) is not str:
            log.warning("Ignored a key in the store that this program did not write.")
            return ""
        return key

    def store(self, value: Any, read: bool, key: Any = diskcache.UNKNOWN) -> Any:
        """As the parent does for bytes, signed or as they are. Raises StoreError on any other type."""
        data = value.data if type(value) is Signed else value
        if read or type(data) is not bytes:
            raise StoreError(f"A value in the store is bytes, not {type(data).__name__}.")
        if type(value) is not Signed:
            return super().store(data, read, key)
        if len(data) < self.min_file_size:
            return super().store(value.digest + data, read, key)
        return super().store(_Joined(value), True, key)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes:
        """The bytes. Raises StoreError on a pickle, a path out of the store, or anything else not ours."""
        if mode not in (diskcache.core.MODE_RAW, diskcache.core.MODE_BINARY) or read:
            raise StoreError("The store holds a value that this program did not write.")
        if mode == diskcache.core.MODE_BINARY and not _is_own_file(filename):
            raise StoreError("The store points to a file that this program did not write.")
        if filename is not None and path_kind(Path(self._directory, filename)) in ("folder", "other"):
            raise StoreError("What lies in the place of an entry's file is no file.")
        try:
            found = super().fetch(mode, filename, value, read)
        except FileNotFoundError as error:
            raise StoreError("The file of an entry is gone.") from error
        if type(found) is not bytes:
            raise StoreError("The store holds a value that this program did not write.")
        return found

    def remove(self, file_path: object) -> None:
        """Remove the file of a dropped entry, unless a tampered row names one that is not the store's."""
        if _is_own_file(file_path):
            super().remove(file_path)


class _Joined:
    """Reads the sum of a signed value, then the value."""

    def __init__(self, signed: Signed) -> None:
        self._parts = io.BytesIO(signed.digest), io.BytesIO(signed.data)

    def read(self, n_bytes: int) -> bytes:
        """The next so many bytes, or fewer; none at the end."""
        digest, data = self._parts
        return digest.read(n_bytes) or data.read(n_bytes)


def _is_own_file(name: object) -> bool:
    return isinstance(name, str) and _OWN_FILE.fullmatch(name) is not None


T = TypeVar("T")

DAMAGED = "damaged/"
"""Before the name of a damaged entry that was set aside: nothing reads it, and somebody can look at it."""

_TRY_S = 1.0
_RETRY_S = 0.02
_ENDS = ("", "-wal", "-shm", "-journal")
"""Of the names of the files that make up a table."""

_SETTINGS: dict[str, Any] = {
    **diskcache.DEFAULT_SETTINGS,
    "statistics": 0,
    "tag_index": 0,
    # We make room ourselves: diskcache would forget ten entries at once, and with few large ones that is all of them.
    "cull_limit": 0,
}
_TRIGGERS = {
    f"settings_{what}" for what in ("count_insert", "count_delete", "size_insert", "size_update", "size_delete")
}
_DAMAGED = ("malformed", "not a database", "no such", "corrupt")
"""What SQLite says of such files."""
_COUNTS = "SELECT count(*), coalesce(sum(CASE typeof(size) WHEN 'integer' THEN size ELSE 0 END), 0) FROM Cache"

# A value in a row has no size of its own there. What a damaged row holds in place of a number counts as none.
_N_BYTES = "CASE WHEN filename IS NULL THEN coalesce(length(value), 0) ELSE coalesce(CAST(size AS INTEGER), 0) END"
_USED_AT = "coalesce(CAST(max(access_time, store_time) AS REAL), 0)"
_TAG = "coalesce(CAST(tag AS BLOB), x'')"
_OURS = "FROM Cache WHERE raw = 1 AND typeof(key) = 'text'"
_ENTRIES = f"SELECT CAST(key AS BLOB), {_N_BYTES}, {_USED_AT}, {_TAG} {_OURS} ORDER BY rowid"
# By the tag as it is: what is cast takes half as long again to sort.
_TAG_SUMS = f"SELECT {_TAG}, count(*), total({_N_BYTES}), max({_USED_AT}) {_OURS} GROUP BY tag"


def open_cache(folder: Path, limit: int, policy: str, patience_s: float) -> Any:
    """The diskcache of a folder.

    Raises StoreError where something lies in it that is no file, and what SQLite and the disk raise.
    """
    path = folder / "cache.db"
    for end in _ENDS:
        _refuse_other_kinds(path.with_name(path.name + end))
    settings = {**_SETTINGS, "size_limit": limit, "eviction_policy": policy}
    if path.exists():
        patiently(lambda: _put_settings(path, settings), patience_s)
    # diskcache and SQLite would close both to a group that shares the data folder; more files of it are like the first.
    folder.mkdir(mode=mode_in(folder.parent, 0o700), exist_ok=True)
    if not path.exists() and (mode := mode_in(folder, 0o600)) != 0o600:
        path.touch(mode=mode)
    return diskcache.Cache(str(folder), disk=PlainDisk, timeout=_TRY_S, **settings)


def patiently(action: Callable[[], T], patience_s: float, cache: Any = None) -> T:
    """What the action gives, tried again while another process keeps the file locked.

    cache: is waited for before the next try, where a try is dear: its value is written to disk before it is refused.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return action()
        except (sqlite3.OperationalError, diskcache.Timeout) as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY_S)
        while cache is not None and time.monotonic() < deadline and not _is_free(cache):
            time.sleep(_RETRY_S)


def is_busy(error: BaseException) -> bool:
    """Whether another process keeps the file locked. diskcache hides what SQLite said behind a Timeout."""
    said = error.__context__ if isinstance(error, diskcache.Timeout) else error
    # The low byte is the kind of error, the others say more.
    code = getattr(said, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_undecodable(error: BaseException) -> bool:
    """Whether a text in a row is no UTF-8: then no other value of it can be had either."""
    return isinstance(error, sqlite3.OperationalError) and "decode to UTF-8" in str(error)


def delete_entry(cache: Any, name: str) -> None:
    """Delete an entry, also one whose row cannot be read; its file is then left."""
    try:
        cache.delete(name)
    except sqlite3.OperationalError as error:
        if not is_undecodable(error):
            raise
        cache._sql("DELETE FROM Cache WHERE key = ? AND raw = 1", (name,))


def set_entry_aside(cache: Any, name: str) -> None:
    """Move an entry to its name after DAMAGED, in place of an earlier one there. Does nothing where it is gone."""
    with cache.transact():
        if cache._sql("SELECT 1 FROM Cache WHERE key = ? AND raw = 1", (name,)).fetchone():
            delete_entry(cache, DAMAGED + name)
            cache._sql("UPDATE Cache SET key = ? WHERE key = ? AND raw = 1", (DAMAGED + name, name))


def entry_names(cache: Any) -> tuple[list[str], int]:
    """The keys of all entries, oldest first, and how many more there are that this program did not write."""
    found = []
    rows = cache._sql("SELECT CAST(key AS BLOB), raw, typeof(key) FROM Cache ORDER BY rowid").fetchall()
    for key, raw, kind in rows:
        with suppress(UnicodeDecodeError):
            if raw == 1 and kind == "text":
                found.append(key.decode())
    return found, len(rows) - len(found)


class CacheEntry(NamedTuple):
    """One entry without its value: its key, its bytes, when it was last used (seconds since the epoch), its tag."""

    name: str
    n_bytes: int
    used_at: float
    tag: str


def cache_entries(cache: Any) -> list[CacheEntry]:
    """All entries that this program wrote, oldest first; no value is read.

    Where the cache forgets nothing, an entry is last used when it is written.
    """
    rows = cache._sql(_ENTRIES).fetchall()
    return [
        CacheEntry(name.decode(), n_bytes, used_at, tag.decode(errors="replace"))
        for name, n_bytes, used_at, tag in rows
        if _is_text(name)
    ]


class TagSum(NamedTuple):
    """All entries of one tag together: how many, their bytes, when one of them was last used."""

    tag: str
    n: int
    n_bytes: int
    used_at: float


def tag_sums(cache: Any) -> list[TagSum]:
    """The entries that this program wrote, counted by their tags: there may be hundreds of thousands."""
    rows = cache._sql(_TAG_SUMS).fetchall()
    return [TagSum(tag.decode(errors="replace"), n, int(n_bytes), used_at) for tag, n, n_bytes, used_at in rows]


def peek_entry(cache: Any, name: str) -> bytes | None:
    """The value of an entry, or None; it does not count as used. Raises StoreError for what is not ours."""
    rows = cache._sql("SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1", (name,)).fetchall()
    found: bytes | None = cache._disk.fetch(*rows[0], False) if rows else None
    return found


def cache_failure(error: Exception) -> object:
    """Why a cache failed: diskcache hides why SQLite refused behind a Timeout without words or a failed rollback."""
    if isinstance(error, UnicodeDecodeError):
        return "the description of its tables is no text"
    return error.__context__ if isinstance(error.__context__, sqlite3.Error) else error


def cache_advice(error: Exception, folder: Path) -> str:
    """What to do about it. folder: the data folder."""
    if is_busy(error):
        return "Another process keeps it locked. Is a database tool or a backup at work on it?"
    if _is_read_only(error):
        return f"It is read-only for this user: see who may write to {folder}, and how its disk is mounted."
    if isinstance(error, UnicodeDecodeError) or (
        isinstance(error, sqlite3.DatabaseError) and any(words in str(error) for words in _DAMAGED)
    ):
        return "Its file is damaged. Stop the server, move the file away, and start again: what it held is then gone."
    return f"See whether the disk is full and whether the folder may be written to. {room_left(error, folder)}".strip()


def room_left(error: Exception, folder: Path) -> str:
    """How much room is left, where the disk is full; else nothing."""
    return free_in_words(error, folder) if is_full(error) else ""


def _is_read_only(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    return getattr(cache_failure(error), "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF == sqlite3.SQLITE_READONLY


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_free(cache: Any) -> bool:
    try:
        with cache.transact():
            return True
    except diskcache.Timeout as error:
        return not is_busy(error)


def _put_settings(path: Path, settings: dict[str, Any]) -> None:
    """Put our settings in place of those in the file, before diskcache reads them: it would run their PRAGMAs, hand
    their options on and set their names on itself.
    """
    with closing(sqlite3.connect(path, timeout=_TRY_S, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        made = {name.lower(): kind for kind, name in db.execute("SELECT type, name FROM sqlite_master")}
        triggers = [name for name, kind in made.items() if kind == "trigger"]
        sound = set(triggers) <= _TRIGGERS
        if "cache" in made:
            wanted = settings | dict(zip(("count", "size"), db.execute(_COUNTS).fetchone(), strict=True))
            wanted |= {"hits": 0, "misses": 0}
            if _settings_of(db) != wanted or not sound:
                for name in triggers:
                    # Those that belong there are made again by diskcache.
                    db.execute('DROP TRIGGER "{}"'.format(name.replace('"', '""')))
                if made.get("settings") in ("table", "view", "index"):
                    db.execute(f"DROP {made['settings']} Settings")
                db.execute("CREATE TABLE Settings (key TEXT NOT NULL UNIQUE, value)")
                db.executemany("INSERT INTO Settings VALUES (?, ?)", wanted.items())
        db.execute("COMMIT")


def _settings_of(db: sqlite3.Connection) -> dict[str, Any] | None:
    try:
        rows = db.execute("SELECT * FROM Settings")
        return dict(rows) if [column[0] for column in rows.description] == ["key", "value"] else None
    except (sqlite3.OperationalError, ValueError):
        return None


def _refuse_other_kinds(path: Path) -> None:
    kind = path_kind(path)
    if kind in ("folder", "other"):
        what = "a folder" if kind == "folder" else "a pipe, a device or a socket"
        raise StoreError(f"{path} is {what}: a file of this program belongs there.", "Move it away and try again.")


VARIABLE = "SPARSEDASH_ARTEFACT_GB"
USUAL_GB = 20.0
LEAST_GB, MOST_GB = 0.1, 1_000_000.0
_ALLOWED = f"a number from {LEAST_GB:g} to {MOST_GB:,.0f}"


def bytes_of(gigabytes: float, field: str = VARIABLE) -> int:
    """So many GB of 2**30 bytes each. Raises SettingsError out of range. field: who says so."""
    if not LEAST_GB <= gigabytes <= MOST_GB:
        raise SettingsError(field, gigabytes, _ALLOWED)
    # Upwards: the least that may be asked for is not too little once it is kept.
    return ceil(gigabytes * 2**30)


def room_of_environment() -> int | None:
    """The bytes that the environment allows; None where it says nothing. Raises SettingsError on nonsense."""
    asked = os.environ.get(VARIABLE)
    if not asked:
        return None
    try:
        return bytes_of(float(asked))
    except (ValueError, SettingsError):
        raise SettingsError(VARIABLE, asked, _ALLOWED) from None


def kept_room(noted: str | None) -> int | None:
    """The bytes that a note in the data folder allows; None where there is none that can be meant."""
    number = int(noted) if noted and noted.isascii() and noted.isdigit() and len(noted) < 20 else 0
    return number if LEAST_GB <= number / 2**30 <= MOST_GB else None


def make_room(cache: Any, room: int, written: str = "") -> None:
    """Forget what was used least recently until no more than this is taken, but never the entry just written.

    diskcache would forget ten entries at once, and with few large ones that is all of them.
    """
    oldest = "SELECT key FROM Cache WHERE typeof(key) = 'text' AND key != ? ORDER BY access_time LIMIT 1"
    while cache.volume() > room:
        rows = cache._sql(oldest, (written,)).fetchall()
        if not rows:
            return
        delete_entry(cache, rows[0][0])
