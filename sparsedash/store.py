"""The data folder: what is kept between runs, behind a few verbs, and never a pickle.

Two diskcaches (see docs/adr/0002): `records` holds JSON text and forgets nothing; `artefacts` holds bytes up to a size
limit and forgets what was used least recently. Every value carries its sha256: what does not match is dropped and reported.
"""

import hashlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diskcache

from sparsedash.errors import StoreError
from sparsedash.records import R, from_json, to_json

log = logging.getLogger(__name__)

DEFAULT_ARTEFACT_BYTES = 20 * 2**30
_DIGEST_BYTES = 32


class PlainDisk(diskcache.Disk):  # type: ignore[misc]
    """Keeps str keys and bytes values, and refuses to write or read anything pickled (CVE-2025-69872)."""

    def put(self, key: object) -> tuple[str, bool]:
        """The key as it is. Raises StoreError when it is not text."""
        if type(key) is not str:
            raise StoreError(f"A key in the store is text, not {type(key).__name__}.")
        return key, True

    def get(self, key: Any, raw: int) -> str:
        """The key as it was put. Raises StoreError on a pickled one."""
        if not raw or type(key) is not str:
            raise StoreError("The store holds a key that this program did not write.")
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
        if filename is not None and (".." in filename or Path(filename).is_absolute()):
            raise StoreError("The store points outside its own folder.")
        found = super().fetch(mode, filename, value, read)
        if type(found) is not bytes:
            raise StoreError("The store holds a value that this program did not write.")
        return found


class Store:
    """Records and artefacts of one data folder. Safe to share between threads and processes.

    folder: created with access for the owner only. artefact_bytes: how much the artefacts may take.
    Raises StoreError when the folder cannot be used.
    """

    def __init__(self, folder: Path, artefact_bytes: int = DEFAULT_ARTEFACT_BYTES) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
            self._records = _open(folder / "records", 2**62, "none")
            self._artefacts = _open(folder / "artefacts", artefact_bytes, "least-recently-used")
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"The data folder {folder} cannot be used: {error}.",
                "Name another one with --data-dir or SPARSEDASH_DATA_DIR.",
            ) from error

    def put(self, key: str, record: R) -> None:
        """Keep a record under its kind and key, replacing what was there in one transaction."""
        _write(self._records, _name(type(record), key), to_json(record).encode())

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

    def keys(self, kind: type[R]) -> Iterator[str]:
        """The keys of all records of a kind, oldest first."""
        prefix = _name(kind, "")
        for name in self._records:
            if name.startswith(prefix):
                yield name.removeprefix(prefix)

    def put_artefact(self, key: str, data: bytes) -> None:
        """Keep bytes that can be computed again; they may be forgotten when room runs short."""
        _write(self._artefacts, key, data)

    def get_artefact(self, key: str) -> bytes | None:
        """The bytes, or None where there are none (any more); damaged ones are dropped and count as none."""
        return _read(self._artefacts, key)

    def has_artefact(self, key: str) -> bool:
        """Whether the bytes are there; they are not read."""
        return key in self._artefacts

    def remember(self, name: str, text: str) -> None:
        """Keep one short note (an identity, a measured speed) under a name."""
        _write(self._records, f"note/{name}", text.encode())

    def recall(self, name: str) -> str | None:
        """The note, or None."""
        data = _read(self._records, f"note/{name}")
        return None if data is None else data.decode(errors="replace")

    def close(self) -> None:
        """Close the files; the store cannot be used afterwards."""
        self._records.close()
        self._artefacts.close()


def _open(folder: Path, limit: int, policy: str) -> Any:
    cull = 10 if policy != "none" else 0
    return diskcache.Cache(
        str(folder), disk=PlainDisk, size_limit=limit, eviction_policy=policy, cull_limit=cull
    )


def _name(kind: type[R], key: str) -> str:
    return f"{kind.__name__.lower()}/{key}"


def _write(cache: Any, name: str, data: bytes) -> None:
    try:
        cache.set(name, hashlib.sha256(data).digest() + data)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"The data folder could not be written: {error}.", "Is the disk full?"
        ) from error


def _read(cache: Any, name: str) -> bytes | None:
    try:
        data = cache.get(name)
    except (StoreError, OSError, sqlite3.Error) as error:
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
    cache.delete(name)
