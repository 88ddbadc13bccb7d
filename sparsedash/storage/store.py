"""The store of records and artefacts in the data folder, with checksums, without pickles; stage checkpoints."""

import hashlib
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import diskcache

from sparsedash.schema import store_keys
from sparsedash.schema.errors import CalibrationError, NewerError, StoreError
from sparsedash.schema.records import R, about_artefact, from_json, names_itself, to_json
from sparsedash.schema.store_keys import NoteName
from sparsedash.storage.disk_cache import (
    DAMAGED,
    USUAL_GB,
    CacheEntry,
    Signed,
    TagSum,
    bytes_of,
    cache_advice,
    cache_entries,
    cache_failure,
    delete_entry,
    entry_names,
    is_undecodable,
    kept_room,
    make_room,
    open_cache,
    patiently,
    peek_entry,
    room_left,
    room_of_environment,
    set_entry_aside,
    tag_sums,
)

log = logging.getLogger(__name__)

_DIGEST_BYTES = 32
_SHOWN = 12
"""Characters of a key, where it is told."""

T = TypeVar("T")
Shelf = Literal["records", "artefacts"]
"""The two caches of a data folder."""

PATIENCE_S = 5.0
"""How long to wait for another process, where somebody waits for the page."""

WORK_PATIENCE_S = 600.0
"""And where hours of work would be lost."""


# What is damaged is quoted by SQLite, and Python cannot read what is no text.
_FAILS = (OSError, sqlite3.Error, diskcache.Timeout, UnicodeDecodeError)


class DamagedEntry(Exception):  # noqa: N818 - it names what an entry is
    """An entry of which nothing can be read."""


class Store:
    """Records and artefacts of one data folder. Safe to share between threads and processes.

    folder: created with access for the owner only. artefact_bytes: how much the artefacts may take; None: as
    `artefact_room` says. patience_s: how long to wait while another process keeps a file locked. Raises
    StoreError when the folder cannot be used, SettingsError on a bad variable.
    """

    def __init__(self, folder: Path, artefact_bytes: int | None = None, *, patience_s: float = PATIENCE_S) -> None:
        self.folder = folder
        self._patience_s = patience_s
        self._given_room = artefact_bytes
        # Said now where it is nonsense, and not when the first artefact is written.
        room_of_environment()
        try:
            _claim(folder)
            self._records = open_cache(folder / "records", 2**62, "none", patience_s)
            self._artefacts = open_cache(folder / "artefacts", 2**62, "least-recently-used", patience_s)
        except _FAILS as error:
            raise StoreError(
                f"The data folder {folder} cannot be used: {cache_failure(error)}.",
                f"Name another one with --data-dir or SPARSEDASH_DATA_DIR. {room_left(error, folder)}".strip(),
            ) from error

    def put(self, key: str, record: R) -> None:
        """Store a record under its kind and key, in place of an earlier one, in one transaction.

        Raises NewerError rather than replace one in another version's form.
        """
        self.get(type(record), key)
        data = to_json(record).encode()
        self._write(self._records, _name(type(record), key), data, hashlib.sha256(data).digest())

    def change(self, kind: type[R], key: str, change: Callable[[R | None], R]) -> R:
        """Replace the record by what `change` makes of it, or of None, and return that; in one transaction."""

        def changed() -> R:
            with self._records.transact():
                record = change(self.get(kind, key))
                self.put(key, record)
                return record

        return self._patiently("written", changed)

    def get(self, kind: type[R], key: str) -> R | None:
        """The record, or None where there is none; a damaged one is set aside and counts as none.

        Raises NewerError for one in another version's form, which stays.
        """
        name = _name(kind, key)
        data = self._read(self._records, name)
        if data is None:
            return None
        try:
            record = from_json(kind, data.decode())
            if record.key != key:
                raise StoreError("it is the entry of another key")
            return record
        except (StoreError, UnicodeDecodeError) as error:
            if names_itself(kind, key, data.decode(errors="replace")):
                raise NewerError(f"{kind.__name__} {key[:_SHOWN]}") from error
            self._drop(self._records, name, error)
            return None

    def has(self, kind: type[R], key: str) -> bool:
        """Whether the record is there; it is not read."""
        return self._patiently("read", lambda: _name(kind, key) in self._records)

    def why_missing(self, kind: type[R], key: str) -> str:
        """Why `get` does not give this record, as the end of a sentence."""
        if self.has(kind, key):
            return "was written by another version of SparseDash"
        if self._patiently("read", lambda: DAMAGED + _name(kind, key) in self._records):
            return "was damaged and is set aside"
        return "is no longer stored"

    def damaged_keys(self, kind: type[R]) -> list[str]:
        """The keys of the records of a kind that were damaged and set aside, and were not made again."""
        prefix = DAMAGED + _name(kind, "")
        found = (name.removeprefix(prefix) for name in self._names() if name.startswith(prefix))
        return [key for key in found if not self.has(kind, key)]

    def keys(self, kind: type[R]) -> Iterator[str]:
        """The keys of all records of a kind, oldest first."""
        prefix = _name(kind, "")
        for name in self._names():
            if name.startswith(prefix):
                yield name.removeprefix(prefix)

    def _names(self) -> list[str]:
        found, n_others = self._patiently("read", lambda: entry_names(self._records))
        if n_others:
            log.warning("Ignored %d keys in the store that this program did not write.", n_others)
        return found

    def drop(self, kind: type[R], key: str) -> None:
        """Delete the record, if there is one, and one of this name that was set aside."""
        for name in (_name(kind, key), DAMAGED + _name(kind, key)):
            self._patiently("written", partial(delete_entry, self._records, name))

    @property
    def artefact_room(self) -> int:
        """Bytes that all artefacts may take together: as the environment says, else the data folder, else as usual."""
        if self._given_room is not None:
            return self._given_room
        asked = room_of_environment() or kept_room(self.recall(store_keys.artefact_room_note()))
        return asked or bytes_of(USUAL_GB)

    @property
    def artefact_left(self) -> int:
        """Bytes that can be stored without another artefact being dropped for them."""
        used: int = self._patiently("read", self._artefacts.volume)
        return max(0, self.artefact_room - used)

    def allow_artefacts(self, n_bytes: int) -> None:
        """From now on the artefacts may take so much, in every process; the environment still says more."""
        self.remember(store_keys.artefact_room_note(), str(n_bytes))

    def shrink_artefacts(self) -> None:
        """Forget what was used least recently, until no more is taken than may be."""
        room = self.artefact_room
        self._patiently("written", lambda: make_room(self._artefacts, room))

    def put_artefact(self, key: str, data: bytes, about: str = "") -> None:
        """Store bytes that can be computed again; they may be dropped when room runs short. about: kind and model."""
        self._write(self._artefacts, key, data, tag=about or None)
        room = self.artefact_room
        self._patiently("written", lambda: make_room(self._artefacts, room, key))

    def get_artefact(self, key: str) -> bytes | None:
        """The bytes, or None where there are none (any more); damaged ones are dropped and count as none."""
        return self._read(self._artefacts, key)

    def has_artefact(self, key: str) -> bool:
        """Whether the bytes are there; they are not read."""
        return self._patiently("read", lambda: key in self._artefacts)

    def drop_entry(self, of: Shelf, name: str) -> None:
        """Delete an entry by the name that `entries` gave it, if it is there, also one that is damaged."""
        self._patiently("written", lambda: delete_entry(self._shelf(of), name))

    def entries(self, of: Shelf) -> list[CacheEntry]:
        """What is kept there, without the values; nothing of it counts as used."""
        return self._patiently("read", lambda: cache_entries(self._shelf(of)))

    def artefact_sums(self) -> list[TagSum]:
        """How many artefacts there are and how much they take, by what is noted beside them."""
        return self._patiently("read", lambda: tag_sums(self._artefacts))

    def n_nameless(self, of: Shelf) -> int:
        """How many entries there are whose names are none that this program has written."""
        return self._patiently("read", lambda: entry_names(self._shelf(of))[1])

    def raw_value(self, of: Shelf, name: str) -> tuple[bytes, bool] | None:
        """An entry's bytes and whether their checksum holds, or None; it is neither used nor dropped.

        Raises DamagedEntry where nothing can be read of it.
        """
        data = self._patiently("read", lambda: _value(self._shelf(of), name, peek_entry))
        return None if data is None else (data[_DIGEST_BYTES:], _is_signed(name, data))

    def _shelf(self, of: Shelf) -> Any:
        return self._records if of == "records" else self._artefacts

    def artefact_keys(self) -> list[str]:
        """The keys of all artefacts, oldest first; none is read."""
        return self._patiently("read", lambda: entry_names(self._artefacts))[0]

    def remember(self, name: NoteName, text: str) -> None:
        """Store a short note, such as an identity, under a name from schema.notes."""
        self._write(self._records, f"note/{name}", text.encode())

    def recall(self, name: NoteName, *, drop: bool = True) -> str | None:
        """The note, or None. drop: a damaged one is set aside."""
        data = self._read(self._records, f"note/{name}", drop=drop)
        return None if data is None else data.decode(errors="replace")

    def forget(self, name: NoteName) -> None:
        """Delete the note, if there is one."""
        self._patiently("written", lambda: delete_entry(self._records, f"note/{name}"))

    def close(self) -> None:
        """Close the files; the store cannot be used afterwards."""
        self._records.close()
        self._artefacts.close()

    def _write(
        self, cache: Any, name: str, data: bytes, digest: bytes | None = None, *, tag: str | None = None
    ) -> None:
        signed = Signed(digest or _bound_digest(name, data), data)

        def written() -> None:
            try:
                cache.set(name, signed, tag=tag)
            except sqlite3.OperationalError as error:
                if not is_undecodable(error):
                    raise
                delete_entry(cache, name)
                cache.set(name, signed, tag=tag)

        self._patiently("written", written, cache)

    def _read(self, cache: Any, name: str, *, drop: bool = True) -> bytes | None:
        try:
            data = self._patiently("read", lambda: _value(cache, name))
            if data is None or _is_signed(name, data):
                return data and data[_DIGEST_BYTES:]
            fault: Exception = StoreError("its checksum does not match")
        except DamagedEntry as error:
            fault = error
        if drop:
            self._drop(cache, name, fault)
        return None

    def _drop(self, cache: Any, name: str, error: Exception) -> None:
        """Records and notes are set aside, so that whoever looks first does not throw them away."""
        aside = cache is self._records
        log.warning("%s the damaged entry %s: %s", "Set aside" if aside else "Dropped", name, error)
        self._patiently("written", partial(set_entry_aside if aside else delete_entry, cache, name))

    def _patiently(self, verb: str, action: Callable[[], T], cache: Any = None) -> T:
        """What the action gives. verb: what could not be done where it fails, which is then a StoreError."""
        try:
            return patiently(action, self._patience_s, cache)
        except _FAILS as error:
            raise StoreError(
                f"The data folder could not be {verb}: {cache_failure(error)}.", cache_advice(error, self.folder)
            ) from error


def _claim(folder: Path) -> None:
    """Make the folder, for its owner only; one that somebody has made for a group, with the bit that hands the group
    down, stays the group's.

    Raises StoreError for one that holds something else: it is not ours to close.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = {entry.name for entry in folder.iterdir()}
    if found and not found & {"records", "jobs.sqlite"}:
        raise StoreError(f"The folder {folder} holds other things.", "Name an empty or a new one for the data.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(
            f"The data folder {folder} is read-only for this user.",
            "Make it writable, or name another one with --data-dir or SPARSEDASH_DATA_DIR.",
        )
    mode = folder.stat().st_mode
    closed = 0o2770 if mode & 0o2070 == 0o2070 else 0o700
    if stat.S_IMODE(mode) != closed:
        folder.chmod(closed)


def _name(kind: type[R], key: str) -> str:
    return f"{kind.__name__.lower()}/{key}"


def _bound_digest(name: str, data: bytes | memoryview) -> bytes:
    hashed = hashlib.sha256(f"{name}\0".encode())
    hashed.update(data)
    return hashed.digest()


def _is_signed(name: str, data: bytes) -> bool:
    """Whether bytes begin with the sum of the rest: that of the value alone in records, and in what earlier versions
    wrote.
    """
    # Without a copy: a value may be a gigabyte.
    digest, value = data[:_DIGEST_BYTES], memoryview(data)[_DIGEST_BYTES:]
    return digest in (_bound_digest(name, value), hashlib.sha256(value).digest())


def _get(cache: Any, name: str) -> bytes | None:
    data: bytes | None = cache.get(name)
    return data


def _value(cache: Any, name: str, read: Callable[[Any, str], bytes | None] = _get) -> bytes | None:
    try:
        return read(cache, name)
    except StoreError as error:
        raise DamagedEntry(str(error)) from error
    except sqlite3.OperationalError as error:
        if is_undecodable(error):
            raise DamagedEntry("a text in its row is not UTF-8") from error
        raise


checkpoint_log = logging.getLogger(__name__)

Piece = TypeVar("Piece")

EVERY_S = 20.0
"""Work that a kill may cost. A stage that takes less than this leaves nothing."""


class StageCheckpoint:
    """The parts of one stage. model_identity: of the model that it works on. clock: seconds that go by."""

    def __init__(self, store: Store, model_identity: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._about = about_artefact("unfinished", model_identity)
        self._kept_at = clock()
        self._pending: dict[str, Callable[[], bytes]] = {}
        self._left: set[str] = set()

    @property
    def is_due(self) -> bool:
        """Whether so much has been done since parts were kept that they are to be kept again."""
        return self._clock() - self._kept_at >= EVERY_S

    def get(self, key: str, unpack: Callable[[bytes], Piece]) -> Piece | None:
        """A part that an earlier attempt has kept; None where there is none (any more).

        unpack: raises CalibrationError or StoreError on what it does not know, as another version may have left it;
        that is dropped, and counts as none.
        """
        data = self._store.get_artefact(key)
        if data is None:
            return None
        try:
            part = unpack(data)
        except (CalibrationError, StoreError) as error:
            checkpoint_log.warning("Dropped an unfinished part that cannot be read, %s: %s", key, error)
            self._store.drop_entry("artefacts", key)
            return None
        self._left.add(key)
        return part

    def keep(self, key: str, part: Callable[[], bytes]) -> None:
        """Keep a part, with all that came before it, as soon as it is time to and if there is room.

        part: gives its bytes, and is only asked then.
        """
        self.add(key, part)
        self.keep_added()

    def add(self, key: str, part: Callable[[], bytes]) -> None:
        """Have a part kept with the next one; as `keep`, for several that belong together."""
        self._pending[key] = part

    def keep_added(self) -> None:
        """Keep all that came, as `keep` does."""
        if not self.is_due:
            return
        for name, packed in self._pending.items():
            data = packed()
            if len(data) <= self._store.artefact_left:
                self._store.put_artefact(name, data, self._about)
                self._left.add(name)
        self._pending.clear()
        self._kept_at = self._clock()

    def made(
        self, key: str, make: Callable[[], Piece], pack: Callable[[Piece], bytes], unpack: Callable[[bytes], Piece]
    ) -> Piece:
        """A part as an earlier attempt has kept it, or as it is made now, which is kept as `keep` does."""
        known = self.get(key, unpack)
        if known is not None:
            return known
        part = make()
        self.keep(key, lambda: pack(part))
        return part

    def numbered(
        self, key: str, pack: Callable[[Piece], bytes], unpack: Callable[[bytes], Piece]
    ) -> Callable[[int, Callable[[], Piece]], Piece]:
        """`made` for parts that are told apart by their numbers alone."""
        return lambda number, make: self.made(f"{key}/{number}", make, pack, unpack)

    def done(self) -> None:
        """The stage is whole, and its result is kept elsewhere: let the parts go."""
        self._pending.clear()
        for key in self._left:
            self._store.drop_entry("artefacts", key)
        self._left.clear()
        self._kept_at = self._clock()
