"""How diskcache keeps keys and values here: as they are, never pickled."""

import io
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diskcache

from sparsedash.schema.errors import StoreError
from sparsedash.storage.local_paths import kind_of

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
        if filename is not None and kind_of(Path(self._directory, filename)) in ("folder", "other"):
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
