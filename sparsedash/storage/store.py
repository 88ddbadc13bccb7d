"""The store of records and artefacts in the data folder, with checksums, without pickles.

Two diskcaches (see docs/adr/0002): `records` holds JSON text and evicts nothing; `artefacts` holds
bytes up to a size limit and evicts what was used least recently. Every entry carries a sha256 of
its name and value. One that does not match is reported: an artefact is dropped, a record or note
set aside under its name.
"""

import logging
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import diskcache

from sparsedash.schema import store_keys
from sparsedash.schema.errors import StoreError
from sparsedash.schema.plain_values import LOCK_TIMEOUT_S
from sparsedash.schema.records import R, from_json, to_json
from sparsedash.schema.store_keys import NoteName
from sparsedash.storage.disk_cache import (
    DAMAGED,
    ENTRIES,
    KEPT,
    KEYS,
    USED_SINCE,
    USUAL_GB,
    CacheEntry,
    DamagedEntry,
    bytes_of,
    cache_advice,
    cache_failure,
    evict_oldest,
    is_sound,
    open_cache,
    retry_while_locked,
    room_of_environment,
    sweep_orphans,
    unsigned,
)
from sparsedash.storage.local_machine import mode_in, path_kind

log = logging.getLogger(__name__)

LAYOUT = 7
"""Number of the data folder's layout: raise it when what is stored changes its form. Other layouts
are refused.
"""

T = TypeVar("T")
Shelf = Literal["records", "artefacts"]
"""The two caches of a data folder."""

WORK_LOCK_TIMEOUT_S = 600.0
"""How long to wait for another process where hours of work would be lost."""

# UnicodeDecodeError: SQLite quotes its damaged schema, which Python cannot decode.
_FAILS = (OSError, sqlite3.Error, diskcache.Timeout, UnicodeDecodeError)


class Store:
    """Records and artefacts of one data folder. Safe to share between threads and processes.

    folder: created with access for the owner only. lock_timeout_s: how long to wait while another
    process keeps a file locked. Raises StoreError when the folder cannot be used, SettingsError on
    a bad variable.
    """

    def __init__(self, folder: Path, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        self.folder = folder
        self._lock_timeout_s = lock_timeout_s
        self._opened_at = time.time()
        # Validate the limit early.
        room_of_environment()
        claim_data_folder(folder)
        try:
            self._caches: dict[Shelf, Any] = {
                "records": open_cache(folder / "records", "none", lock_timeout_s),
                "artefacts": open_cache(
                    folder / "artefacts", "least-recently-used", lock_timeout_s
                ),
            }
        except _FAILS as error:
            raise _unusable(folder, error) from error

    def put(self, key: str, record: R) -> None:
        """Store a record under its kind and key, in place of an earlier one, in one transaction."""
        self._write("records", _name(type(record), key), to_json(record).encode())

    def change(self, kind: type[R], key: str, change: Callable[[R | None], R]) -> R:
        """Replace the record by `change` of it, or of None, and return that; in one transaction."""

        def changed() -> R:
            with self._caches["records"].transact():
                record = change(self.get(kind, key))
                self.put(key, record)
                return record

        return self._retry_while_locked("written", changed)

    def get(self, kind: type[R], key: str) -> R | None:
        """The record, or None; a damaged one is set aside and counts as none."""
        name = _name(kind, key)
        data = self._read("records", name)
        if data is None:
            return None
        try:
            return from_json(kind, data.decode())
        except StoreError as error:
            self._drop("records", name, error)
            return None

    def has(self, kind: type[R], key: str) -> bool:
        """Whether the record exists; it is not read."""
        return self.has_entry("records", _name(kind, key))

    def written_at(self, kind: type[R], key: str) -> float | None:
        """Time at which the record was written, in seconds since the epoch; None if there is none."""
        query = "SELECT store_time FROM Cache WHERE key = ? AND raw = 1"
        rows = self._select("records", query, _name(kind, key))
        return rows[0][0] if rows else None

    def why_missing(self, kind: type[R], key: str) -> str:
        """The reason `get` does not return this record, as the end of a sentence."""
        damaged = self.has_entry("records", DAMAGED + _name(kind, key))
        return "was damaged and is set aside" if damaged else "is no longer stored"

    def damaged_keys(self, kind: type[R]) -> list[str]:
        """Keys of the damaged records of a kind that were set aside and not computed again."""
        return [
            key
            for key in self._keys(DAMAGED + _name(kind, ""))
            if not self.has(kind, key)
        ]

    def keys(self, kind: type[R]) -> list[str]:
        """The keys of all records of a kind, oldest first."""
        return self._keys(_name(kind, ""))

    def _keys(self, prefix: str) -> list[str]:
        # A range of the index: a prefix would have every entry looked at.
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        return [
            name.removeprefix(prefix)
            for (name,) in self._select("records", KEYS, prefix, end)
        ]

    def drop(self, kind: type[R], key: str) -> None:
        """Delete the record, if it exists, and one of this name that was set aside."""
        for name in (_name(kind, key), DAMAGED + _name(kind, key)):
            self.drop_entry("records", name)

    @property
    def artefact_room(self) -> int:
        """Limit of all artefacts in bytes: by the environment, the data folder, or the default."""
        noted = self.recall(store_keys.artefact_room_note())
        return room_of_environment() or int(noted or bytes_of(USUAL_GB))

    @property
    def artefact_left(self) -> int:
        """Bytes free without evicting an artefact that was used since this store was opened."""
        ((used,),) = self._select(
            "artefacts",
            USED_SINCE,
            f"{KEPT}%",
            self._opened_at,
        )
        return max(0, self.artefact_room - int(used))

    def allow_artefacts(self, n_bytes: int) -> None:
        """Set the limit of the artefacts for every process; the environment overrides it."""
        self.remember(store_keys.artefact_room_note(), str(n_bytes))

    def put_artefact(self, key: str, data: bytes, about: str = "") -> None:
        """Store bytes that can be computed again; they may be evicted. about: kind and model."""
        self._write("artefacts", key, data, about)
        self.shrink_artefacts(key)

    def shrink_artefacts(self, written: str = "") -> None:
        """Evict the least recently used artefacts down to the limit; the one just written stays."""
        room = self.artefact_room
        self._retry_while_locked(
            "written", lambda: evict_oldest(self._caches["artefacts"], room, written)
        )

    def retag_artefacts(self, prefix: str, about: str) -> None:
        """Change kind and model of the artefacts with this prefix. about: as in `put_artefact`."""
        query = "UPDATE Cache SET tag = ? WHERE substr(key, 1, ?) = ? AND raw = 1"
        self._select("artefacts", query, about, len(prefix), prefix)

    def get_artefact(self, key: str) -> bytes | None:
        """The bytes, or None; damaged ones are dropped and count as none."""
        return self._read("artefacts", key)

    def tidy(self) -> None:
        """Delete what killed processes left behind; for a server that starts."""
        for cache in self._caches.values():
            self._retry_while_locked("read", partial(sweep_orphans, cache))

    def entries(self, shelf: Shelf) -> list[CacheEntry]:
        """All entries without their values; not counted as use."""
        return [CacheEntry(*row) for row in self._select(shelf, ENTRIES)]

    def has_entry(self, shelf: Shelf, name: str) -> bool:
        """Whether there is an entry of this name in `entries`, also a damaged one."""
        return bool(self._select(shelf, "SELECT 1 FROM Cache WHERE key = ?", name))

    def drop_entry(self, shelf: Shelf, name: str) -> None:
        """Delete an entry by its name in `entries`, if it exists, also a damaged one."""
        self._retry_while_locked("written", lambda: self._caches[shelf].delete(name))

    def raw_value(self, shelf: Shelf, name: str) -> tuple[bytes, bool] | None:
        """An entry's bytes and whether its checksum holds, or None; not counted as use.

        Raises DamagedEntry when it cannot be read.
        """
        query = "SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1"
        rows = self._select(shelf, query, name)
        if not rows:
            return None
        data = self._retry_while_locked(
            "read", lambda: self._caches[shelf].disk.fetch(*rows[0], False)
        )
        return unsigned(data), is_sound(name, data)

    def remember(self, name: NoteName, text: str) -> None:
        """Store a short note, such as an identity, under a name from schema.store_keys."""
        self._write("records", f"note/{name}", text.encode())

    def recall(self, name: NoteName, *, drop: bool = True) -> str | None:
        """The note, or None; a damaged one counts as none. drop: set it aside."""
        data = self._read("records", f"note/{name}", drop)
        return None if data is None else data.decode()

    def forget(self, name: NoteName) -> None:
        """Delete the note, if it exists."""
        self.drop_entry("records", f"note/{name}")

    def close(self) -> None:
        """Close the files; the store cannot be used afterwards."""
        for cache in self._caches.values():
            cache.close()

    def _select(self, shelf: Shelf, query: str, *values: str | float) -> list[Any]:
        return self._retry_while_locked(
            "read", lambda: self._caches[shelf]._sql(query, values).fetchall()
        )

    def _write(self, shelf: Shelf, name: str, data: bytes, tag: str = "") -> None:
        def write() -> None:
            with self._caches[shelf].transact():
                pass  # Raises while it is locked: diskcache would write a large value before it asks, once a try.
            self._caches[shelf].set(name, data, tag=tag or None)

        self._retry_while_locked("written", write)

    def _read(self, shelf: Shelf, name: str, drop: bool = True) -> bytes | None:
        cache = self._caches[shelf]

        def read() -> bytes | None:
            data: bytes | None = cache.get(name)
            if data is None or is_sound(name, data):
                return data and unsigned(data)
            raise DamagedEntry("its checksum does not match")

        def read_alone() -> bytes | None:
            with cache.transact():
                return read()

        try:
            with suppress(DamagedEntry):
                return self._retry_while_locked("read", read)
            # Where another process has just replaced it, its old file was gone.
            return self._retry_while_locked("read", read_alone)
        except DamagedEntry as error:
            if drop:
                self._drop(shelf, name, error)
            return None

    def _drop(self, shelf: Shelf, name: str, error: Exception) -> None:
        """Set a record or note aside, drop an artefact."""
        if shelf == "artefacts":
            log.warning("Dropped the damaged entry %s: %s", name, error)
            self.drop_entry(shelf, name)
            return
        log.warning("Set aside the damaged entry %s: %s", name, error)
        cache = self._caches[shelf]
        query = "UPDATE Cache SET key = ? WHERE key = ? AND raw = 1"

        def set_aside() -> None:
            with cache.transact():
                if name in cache:
                    cache.delete(DAMAGED + name)
                    cache._sql(query, (DAMAGED + name, name))

        self._retry_while_locked("written", set_aside)

    def _retry_while_locked(self, verb: str, action: Callable[[], T]) -> T:
        """The action's result. verb: what failed, in the StoreError for a failure."""
        try:
            return retry_while_locked(action, self._lock_timeout_s)
        except _FAILS as error:
            raise StoreError(
                f"The data folder could not be {verb}: {cache_failure(error)}.",
                cache_advice(error, self.folder),
            ) from error


def claim_data_folder(folder: Path) -> None:
    """Make the folder, for its owner only, and note its layout; check an existing one.

    One made for a group, with the bit that hands the group down, stays the group's. Raises
    StoreError for a folder of another layout, one that holds something else, and one that cannot be
    written to.
    """
    # The number is in its name: so it is there as a whole, and before anything else.
    note = folder / f"layout-{LAYOUT}"
    if path_kind(folder) == "file":
        raise StoreError(
            f"{folder} is a file.",
            "Name a folder with --data-dir or SPARSEDASH_DATA_DIR.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        names = [entry.name for entry in folder.iterdir()]
        if names and not note.exists():
            if any(
                name.startswith(("records", "jobs.sqlite", "layout-")) for name in names
            ):
                raise StoreError(
                    f"The data folder {folder} was written by another version of SparseDash in another layout.",
                    "Name another folder with --data-dir or SPARSEDASH_DATA_DIR, or delete this one.",
                )
            raise StoreError(
                f"The folder {folder} is not a data folder.",
                "Name an empty or a new one.",
            )
        mode = folder.stat().st_mode
        closed = 0o2770 if mode & 0o2070 == 0o2070 else 0o700
        if stat.S_IMODE(mode) != closed:
            folder.chmod(closed)
        if not names:
            note.touch(mode=mode_in(folder, 0o600))
    except OSError as error:
        raise _unusable(folder, error) from error


def _unusable(folder: Path, error: Exception) -> StoreError:
    return StoreError(
        f"The data folder {folder} cannot be used: {cache_failure(error)}.",
        f"Name another one with --data-dir or SPARSEDASH_DATA_DIR. {cache_advice(error, folder)}",
    )


def _name(kind: type[R], key: str) -> str:
    return f"{kind.__name__.lower()}/{key}"
