"""The store of results: records and artefacts in the data folder, read and written without ever unpickling.

Two diskcaches (see docs/adr/0002): `records` holds JSON text and forgets nothing; `artefacts` holds bytes up to a size
limit and forgets what was used least recently. Every value carries a sha256: what does not match is dropped and
reported. A damaged index leads to the value of another key: records name theirs themselves, all other sums include it.
A record whose sum matches but whose form is unknown is another version's: it is left alone.
"""

import hashlib
import logging
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import diskcache

from sparsedash.schema.errors import NewerError, SettingsError, StoreError
from sparsedash.schema.notes import NoteName
from sparsedash.schema.records import R, from_json, names_itself, to_json
from sparsedash.storage.cache_file import delete, is_busy, is_undecodable, names, open_cache, patiently
from sparsedash.storage.disk_space import free_in_words, is_full
from sparsedash.storage.plain_disk import PlainDisk

__all__ = ["PATIENCE_S", "WORK_PATIENCE_S", "PlainDisk", "Store"]

log = logging.getLogger(__name__)

_DIGEST_BYTES = 32
_SHOWN = 12
"""Characters of a key, where it is told."""

T = TypeVar("T")
PATIENCE_S = 5.0
"""How long to wait for another process, where somebody waits for the page."""

WORK_PATIENCE_S = 600.0
"""And where hours of work would be lost."""


# What is damaged is quoted by SQLite, and Python cannot read what is no text.
_FAILS = (OSError, sqlite3.Error, diskcache.Timeout, UnicodeDecodeError)
_DAMAGED = ("malformed", "not a database", "no such", "corrupt")
"""What SQLite says of such files."""


class _Damaged(Exception):  # noqa: N818 - it names what an entry is
    """An entry that cannot be read, and is to be dropped."""


class Store:
    """Records and artefacts of one data folder. Safe to share between threads and processes.

    folder: created with access for the owner only. artefact_bytes: how much the artefacts may take; None: as
    SPARSEDASH_ARTEFACT_GB says. patience_s: how long to wait while another process keeps a file locked. Raises
    StoreError when the folder cannot be used, SettingsError on a bad variable.
    """

    def __init__(self, folder: Path, artefact_bytes: int | None = None, *, patience_s: float = PATIENCE_S) -> None:
        self.folder = folder
        self._patience_s = patience_s
        room = _asked_room() if artefact_bytes is None else artefact_bytes
        try:
            _claim(folder)
            self._records = open_cache(folder / "records", 2**62, "none", patience_s)
            self._artefacts = open_cache(folder / "artefacts", room, "least-recently-used", patience_s)
        except _FAILS as error:
            raise StoreError(
                f"The data folder {folder} cannot be used: {_reason(error)}.",
                f"Name another one with --data-dir or SPARSEDASH_DATA_DIR. {_room(error, folder)}".strip(),
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
        """The record, or None where there is none; a damaged one is dropped and counts as none.

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

    def keys(self, kind: type[R]) -> Iterator[str]:
        """The keys of all records of a kind, oldest first."""
        prefix = _name(kind, "")
        found, n_others = self._patiently("read", lambda: names(self._records))
        if n_others:
            log.warning("Ignored %d keys in the store that this program did not write.", n_others)
        for name in found:
            if name.startswith(prefix):
                yield name.removeprefix(prefix)

    def drop(self, kind: type[R], key: str) -> None:
        """Delete the record, if there is one."""
        self._patiently("written", lambda: delete(self._records, _name(kind, key)))

    @property
    def artefact_room(self) -> int:
        """Bytes that all artefacts may take together."""
        return int(self._artefacts.size_limit)

    def put_artefact(self, key: str, data: bytes) -> None:
        """Store bytes that can be computed again; they may be dropped when room runs short."""
        self._write(self._artefacts, key, data)
        self._patiently("written", lambda: _make_room(self._artefacts, key))

    def get_artefact(self, key: str) -> bytes | None:
        """The bytes, or None where there are none (any more); damaged ones are dropped and count as none."""
        return self._read(self._artefacts, key)

    def remember(self, name: NoteName, text: str) -> None:
        """Store a short note, such as an identity, under a name from schema.notes."""
        self._write(self._records, f"note/{name}", text.encode())

    def recall(self, name: NoteName) -> str | None:
        """The note, or None."""
        data = self._read(self._records, f"note/{name}")
        return None if data is None else data.decode(errors="replace")

    def forget(self, name: NoteName) -> None:
        """Delete the note, if there is one."""
        self._patiently("written", lambda: delete(self._records, f"note/{name}"))

    def close(self) -> None:
        """Close the files; the store cannot be used afterwards."""
        self._records.close()
        self._artefacts.close()

    def _write(self, cache: Any, name: str, data: bytes, digest: bytes | None = None) -> None:
        signed = (digest or _bound_digest(name, data)) + data

        def written() -> None:
            try:
                cache.set(name, signed)
            except sqlite3.OperationalError as error:
                if not is_undecodable(error):
                    raise
                delete(cache, name)
                cache.set(name, signed)

        self._patiently("written", written, cache)

    def _read(self, cache: Any, name: str) -> bytes | None:
        try:
            data = self._patiently("read", lambda: _value(cache, name))
        except _Damaged as error:
            self._drop(cache, name, error)
            return None
        if data is None:
            return None
        digest, value = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        # The sum of the value alone: of records, and of what earlier versions wrote.
        if digest != _bound_digest(name, value) and digest != hashlib.sha256(value).digest():
            self._drop(cache, name, StoreError("its checksum does not match"))
            return None
        return value

    def _drop(self, cache: Any, name: str, error: Exception) -> None:
        log.warning("Dropped the damaged entry %s: %s", name, error)
        self._patiently("written", lambda: delete(cache, name))

    def _patiently(self, verb: str, action: Callable[[], T], cache: Any = None) -> T:
        """What the action gives. verb: what could not be done where it fails, which is then a StoreError."""
        try:
            return patiently(action, self._patience_s, cache)
        except _FAILS as error:
            raise StoreError(
                f"The data folder could not be {verb}: {_reason(error)}.", _advice(error, self.folder)
            ) from error


def _asked_room() -> int:
    asked = os.environ.get("SPARSEDASH_ARTEFACT_GB") or "20"
    try:
        gigabytes = float(asked)
    except ValueError:
        gigabytes = 0.0
    if not 0.1 <= gigabytes <= 1_000_000:
        raise SettingsError("SPARSEDASH_ARTEFACT_GB", asked, "a number from 0.1 to 1,000,000")
    return int(gigabytes * 2**30)


def _claim(folder: Path) -> None:
    """Make the folder, for its owner only; one that somebody has made for a group, with the bit that hands the group
    down, stays the group's.

    Raises StoreError for one that holds something else: it is not ours to close.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = {entry.name for entry in folder.iterdir()}
    if found and not found & {"records", "jobs.sqlite"}:
        raise StoreError(f"The folder {folder} holds other things.", "Name an empty or a new one for the data.")
    mode = folder.stat().st_mode
    closed = 0o2770 if mode & 0o2070 == 0o2070 else 0o700
    if stat.S_IMODE(mode) != closed:
        folder.chmod(closed)


def _make_room(cache: Any, written: str) -> None:
    """Forget what was used least recently until the limit holds, but never the entry just written.

    diskcache would forget ten entries at once, and with few large ones that is all of them.
    """
    oldest = "SELECT key FROM Cache WHERE typeof(key) = 'text' AND key != ? ORDER BY access_time LIMIT 1"
    while cache.volume() > cache.size_limit:
        rows = cache._sql(oldest, (written,)).fetchall()
        if not rows:
            return
        delete(cache, rows[0][0])


def _name(kind: type[R], key: str) -> str:
    return f"{kind.__name__.lower()}/{key}"


def _bound_digest(name: str, data: bytes) -> bytes:
    hashed = hashlib.sha256(f"{name}\0".encode())
    hashed.update(data)
    return hashed.digest()


def _value(cache: Any, name: str) -> bytes | None:
    try:
        data: bytes | None = cache.get(name)
        return data
    except StoreError as error:
        raise _Damaged(str(error)) from error
    except sqlite3.OperationalError as error:
        if is_undecodable(error):
            raise _Damaged("a text in its row is not UTF-8") from error
        raise


def _reason(error: Exception) -> object:
    """diskcache hides why SQLite refused behind a Timeout without words or a failed rollback."""
    if isinstance(error, UnicodeDecodeError):
        return "the description of its tables is no text"
    return error.__context__ if isinstance(error.__context__, sqlite3.Error) else error


def _advice(error: Exception, folder: Path) -> str:
    if is_busy(error):
        return "Another process keeps it locked. Is a database tool or a backup at work on it?"
    if isinstance(error, UnicodeDecodeError) or (
        isinstance(error, sqlite3.DatabaseError) and any(words in str(error) for words in _DAMAGED)
    ):
        return "Its file is damaged. Stop the server, move the file away, and start again: what it held is then gone."
    return f"See whether the disk is full and whether the folder may be written to. {_room(error, folder)}".strip()


def _room(error: Exception, folder: Path) -> str:
    return free_in_words(error, folder) if is_full(error) else ""
