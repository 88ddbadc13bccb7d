"""The store of results: records and artefacts in the data folder, read and written without ever unpickling.

Two diskcaches (see docs/adr/0002): `records` holds JSON text and forgets nothing; `artefacts` holds bytes up to a size
limit and forgets what was used least recently. Every value carries its sha256: what does not match is dropped and
reported.
"""

import hashlib
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diskcache

from sparsedash.schema.errors import SettingsError, StoreError
from sparsedash.schema.notes import NoteName
from sparsedash.schema.records import R, from_json, to_json

log = logging.getLogger(__name__)

_DIGEST_BYTES = 32
_OWN_FILE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val")


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
        """As the parent does for bytes. Raises StoreError on any other type."""
        if read or type(value) is not bytes:
            raise StoreError(f"A value in the store is bytes, not {type(value).__name__}.")
        return super().store(value, read, key)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes:
        """The bytes. Raises StoreError on a pickle, a path out of the store, or anything else not ours."""
        if mode not in (diskcache.core.MODE_RAW, diskcache.core.MODE_BINARY) or read:
            raise StoreError("The store holds a value that this program did not write.")
        if mode == diskcache.core.MODE_BINARY and not _is_own_file(filename):
            raise StoreError("The store points to a file that this program did not write.")
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


class Store:
    """Records and artefacts of one data folder. Safe to share between threads and processes.

    folder: created with access for the owner only. artefact_bytes: how much the artefacts may take; None: as
    SPARSEDASH_ARTEFACT_GB says. Raises StoreError when the folder cannot be used, SettingsError on a bad variable.
    """

    def __init__(self, folder: Path, artefact_bytes: int | None = None) -> None:
        self.folder = folder
        room = _asked_room() if artefact_bytes is None else artefact_bytes
        try:
            _claim(folder)
            self._records = _open(folder / "records", 2**62, "none")
            self._artefacts = _open(folder / "artefacts", room, "least-recently-used")
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"The data folder {folder} cannot be used: {error}.",
                "Name another one with --data-dir or SPARSEDASH_DATA_DIR.",
            ) from error

    def put(self, key: str, record: R) -> None:
        """Store a record under its kind and key, in place of an earlier one, in one transaction."""
        _write(self._records, _name(type(record), key), to_json(record).encode())

    def change(self, kind: type[R], key: str, change: Callable[[R | None], R]) -> R:
        """Replace the record by what `change` makes of it, or of None, and return that; in one transaction."""
        with _reported("written"), self._records.transact(retry=True):
            record = change(self.get(kind, key))
            self.put(key, record)
            return record

    def get(self, kind: type[R], key: str) -> R | None:
        """The record, or None where there is none; a damaged one is dropped and counts as none."""
        name = _name(kind, key)
        data = _read(self._records, name)
        if data is None:
            return None
        try:
            return from_json(kind, data.decode())
        except (StoreError, UnicodeDecodeError) as error:
            _drop(self._records, name, error)
            return None

    def has(self, kind: type[R], key: str) -> bool:
        """Whether the record is there; it is not read."""
        with _reported("read"):
            return _name(kind, key) in self._records

    def keys(self, kind: type[R]) -> Iterator[str]:
        """The keys of all records of a kind, oldest first."""
        prefix = _name(kind, "")
        with _reported("read"):
            names = list(self._records)
        for name in names:
            if name.startswith(prefix):
                yield name.removeprefix(prefix)

    @property
    def artefact_room(self) -> int:
        """Bytes that all artefacts may take together."""
        return int(self._artefacts.size_limit)

    def put_artefact(self, key: str, data: bytes) -> None:
        """Store bytes that can be computed again; they may be dropped when room runs short."""
        _write(self._artefacts, key, data)
        _make_room(self._artefacts, key)

    def get_artefact(self, key: str) -> bytes | None:
        """The bytes, or None where there are none (any more); damaged ones are dropped and count as none."""
        return _read(self._artefacts, key)

    def remember(self, name: NoteName, text: str) -> None:
        """Store a short note, such as an identity, under a name from schema.notes."""
        _write(self._records, f"note/{name}", text.encode())

    def recall(self, name: NoteName) -> str | None:
        """The note, or None."""
        data = _read(self._records, f"note/{name}")
        return None if data is None else data.decode(errors="replace")

    def forget(self, name: NoteName) -> None:
        """Delete the note, if there is one."""
        with _reported("written"):
            self._records.delete(f"note/{name}")

    def close(self) -> None:
        """Close the files; the store cannot be used afterwards."""
        self._records.close()
        self._artefacts.close()


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
    """Make the folder, for its owner only.

    Raises StoreError for one that holds something else: it is not ours to close.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = {entry.name for entry in folder.iterdir()}
    if found and not found & {"records", "jobs.sqlite"}:
        raise StoreError(f"The folder {folder} holds other things.", "Name an empty or a new one for the data.")
    folder.chmod(0o700)


def _open(folder: Path, limit: int, policy: str) -> Any:
    return diskcache.Cache(str(folder), disk=PlainDisk, size_limit=limit, eviction_policy=policy, cull_limit=0)


def _make_room(cache: Any, written: str) -> None:
    """Forget what was used least recently until the limit holds, but never the entry just written.

    diskcache would forget ten entries at once, and with few large ones that is all of them.
    """
    oldest = "SELECT key FROM Cache WHERE typeof(key) = 'text' AND key != ? ORDER BY access_time LIMIT 1"
    with _reported("written"):
        while cache.volume() > cache.size_limit:
            rows = cache._sql(oldest, (written,)).fetchall()
            if not rows:
                return
            cache.delete(rows[0][0])


def _name(kind: type[R], key: str) -> str:
    return f"{kind.__name__.lower()}/{key}"


@contextmanager
def _reported(verb: str) -> Iterator[None]:
    """Turn what the disk and SQLite raise into a StoreError. verb: what could not be done."""
    try:
        yield
    except (OSError, sqlite3.Error, diskcache.Timeout) as error:
        # diskcache hides why SQLite refused behind a Timeout without words or a failed rollback.
        reason = error.__context__ if isinstance(error.__context__, sqlite3.Error) else error
        raise StoreError(
            f"The data folder could not be {verb}: {reason}.",
            "See whether the disk is full and whether the folder may be written to.",
        ) from error


def _is_own_file(name: object) -> bool:
    return isinstance(name, str) and _OWN_FILE.fullmatch(name) is not None


def _write(cache: Any, name: str, data: bytes) -> None:
    with _reported("written"):
        cache.set(name, hashlib.sha256(data).digest() + data)


def _read(cache: Any, name: str) -> bytes | None:
    with _reported("read"):
        try:
            data = cache.get(name)
        except StoreError as error:
            _drop(cache, name, error)
            return None
    if data is None:
        return None
    digest, value = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(value).digest() != digest:
        _drop(cache, name, StoreError("its checksum does not match"))
        return None
    return bytes(value)


def _drop(cache: Any, name: str, error: Exception) -> None:
    log.warning("Dropped the damaged entry %s: %s", name, error)
    with _reported("written"):
        cache.delete(name)
