"""A diskcache opened with our settings, whatever its file says, and used with patience while another holds it."""

import errno
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import diskcache

from sparsedash.schema.errors import StoreError
from sparsedash.storage.disk_space import free_in_words, is_full
from sparsedash.storage.local_paths import kind_of, mode_in
from sparsedash.storage.plain_disk import PlainDisk

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


def delete(cache: Any, name: str) -> None:
    """Delete an entry, also one whose row cannot be read; its file is then left."""
    try:
        cache.delete(name)
    except sqlite3.OperationalError as error:
        if not is_undecodable(error):
            raise
        cache._sql("DELETE FROM Cache WHERE key = ? AND raw = 1", (name,))


def set_aside(cache: Any, name: str) -> None:
    """Move an entry to its name after DAMAGED, in place of an earlier one there. Does nothing where it is gone."""
    with cache.transact():
        if cache._sql("SELECT 1 FROM Cache WHERE key = ? AND raw = 1", (name,)).fetchone():
            delete(cache, DAMAGED + name)
            cache._sql("UPDATE Cache SET key = ? WHERE key = ? AND raw = 1", (DAMAGED + name, name))


def names(cache: Any) -> tuple[list[str], int]:
    """The keys of all entries, oldest first, and how many more there are that this program did not write."""
    found = []
    rows = cache._sql("SELECT CAST(key AS BLOB), raw, typeof(key) FROM Cache ORDER BY rowid").fetchall()
    for key, raw, kind in rows:
        with suppress(UnicodeDecodeError):
            if raw == 1 and kind == "text":
                found.append(key.decode())
    return found, len(rows) - len(found)


class Entry(NamedTuple):
    """One entry without its value: its key, its bytes, when it was last used (seconds since the epoch), its tag."""

    name: str
    n_bytes: int
    used_at: float
    tag: str


def entries(cache: Any) -> list[Entry]:
    """All entries that this program wrote, oldest first; no value is read.

    Where the cache forgets nothing, an entry is last used when it is written.
    """
    rows = cache._sql(_ENTRIES).fetchall()
    return [
        Entry(name.decode(), n_bytes, used_at, tag.decode(errors="replace"))
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


def peek(cache: Any, name: str) -> bytes | None:
    """The value of an entry, or None; it does not count as used. Raises StoreError for what is not ours."""
    rows = cache._sql("SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1", (name,)).fetchall()
    found: bytes | None = cache._disk.fetch(*rows[0], False) if rows else None
    return found


def reason(error: Exception) -> object:
    """Why a cache failed: diskcache hides why SQLite refused behind a Timeout without words or a failed rollback."""
    if isinstance(error, UnicodeDecodeError):
        return "the description of its tables is no text"
    return error.__context__ if isinstance(error.__context__, sqlite3.Error) else error


def advice(error: Exception, folder: Path) -> str:
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
    return getattr(reason(error), "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF == sqlite3.SQLITE_READONLY


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
    kind = kind_of(path)
    if kind in ("folder", "other"):
        what = "a folder" if kind == "folder" else "a pipe, a device or a socket"
        raise StoreError(f"{path} is {what}: a file of this program belongs there.", "Move it away and try again.")
