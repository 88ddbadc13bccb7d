"""The hash that identifies local files by their content; kept by size and time, so that none is read twice."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from sparsedash.schema import notes
from sparsedash.schema.notes import NoteName
from sparsedash.storage.store import Store
from sparsedash.storage.upkeep.unpacked import IDENTIFYING, identity_of


def files_identity(folder: Path, store: Store) -> str:
    """The sha256 of all files that make a model in this folder: names and contents."""
    files = sorted(f for f in folder.iterdir() if f.is_file() and f.suffix in IDENTIFYING)
    return identity_of((f.name, file_hash(f, store)) for f in files)


def file_hash(file: Path, store: Store) -> str:
    """The sha256 of one file's content; a file of the same path, size and time is not read again."""
    known = remembered_hash(file, store)
    if known is None:
        # Asked before the content is read: a change while it is read must not be remembered as this state.
        name = _name(file)
        known = content_hash(file)
        store.remember(name, known)
    return known


def remembered_hash(file: Path, store: Store) -> str | None:
    """The hash of a file that was hashed before and has kept its size and time since; else None."""
    return store.recall(_name(file))


def content_hash(file: Path) -> str:
    """The sha256 of a file as it is now, read in any case."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def texts_identity(texts: Iterable[str]) -> str:
    """The sha256 of texts in their order."""
    whole = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        whole.update(len(data).to_bytes(8, "big") + data)
    return "sha256:" + whole.hexdigest()


def _name(file: Path) -> NoteName:
    seen = file.stat()
    return notes.file_hash(str(file.resolve()), seen.st_size, seen.st_mtime_ns)
