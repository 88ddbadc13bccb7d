"""The hash that identifies local files by their content; kept by size and time, so that none is read twice."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from sparsedash.schema import notes
from sparsedash.storage.store import Store

_IDENTIFYING = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".gguf")


def files_identity(folder: Path, store: Store) -> str:
    """The sha256 of all files that make a model in this folder: names and contents."""
    files = sorted(f for f in folder.iterdir() if f.is_file() and f.suffix in _IDENTIFYING)
    return "sha256:" + _together((f.name, file_hash(f, store)) for f in files)


def file_hash(file: Path, store: Store) -> str:
    """The sha256 of one file's content; a file of the same path, size and time is not read again."""
    seen = file.stat()
    name = notes.file_hash(str(file.resolve()), seen.st_size, seen.st_mtime_ns)
    known = store.recall(name)
    if known is None:
        with file.open("rb") as stream:
            known = hashlib.file_digest(stream, "sha256").hexdigest()
        store.remember(name, known)
    return known


def texts_identity(texts: Iterable[str]) -> str:
    """The sha256 of texts in their order."""
    whole = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        whole.update(len(data).to_bytes(8, "big") + data)
    return "sha256:" + whole.hexdigest()


def _together(parts: Iterable[tuple[str, str]]) -> str:
    whole = hashlib.sha256()
    for name, content in parts:
        whole.update(f"{name}\0{content}\n".encode())
    return whole.hexdigest()
