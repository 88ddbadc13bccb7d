"""Hashes of local files, cached by size and modification time."""

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from sparsedash.schema import store_keys
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.plain_values import digest
from sparsedash.schema.settings import RunSettings
from sparsedash.storage.local_machine import file_stamp, local_path, path_kind
from sparsedash.storage.model_folders import IDENTIFYING, identity_of
from sparsedash.storage.store import Store
from sparsedash.storage.task_files import task_files
from sparsedash.storage.text_files import FILE, file_of

_SETTLED_NS = 2 * 10**9
"""File systems count time in steps, some of two seconds: two changes within one have the same
stamp.
"""


def fingerprint(reference: str) -> str:
    """Stamps of the local file or folder of a reference, which show a change without reading it.

    Empty for other references, and for uploads, whose reference holds the hash of the content.
    """
    path = local_path(reference)
    if reference.startswith(FILE):
        path = file_of(reference, Path()) or path
    try:
        return _stamps(
            sorted(path.iterdir()) if path_kind(path) == "folder" else [path]
        )
    except OSError:
        return ""


def model_stamps(folder: Path) -> str:
    """Stamps of all files that make a model in this folder. Raises OSError."""
    return _stamps(_identifying_files(folder))


def _stamps(files: list[Path]) -> str:
    return ",".join(f"{file.name}:{file_stamp(file)}" for file in files)


def content_hash(file: Path) -> str:
    """The sha256 of a file as it is now, read in any case."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_file(file: Path, store: Store) -> str:
    """The sha256 of a file; one with the same path and stamp is not read again."""
    # Before the content is read: a change while it is read must not be noted under this stamp.
    changed_ns = file.stat().st_ctime_ns
    note = store_keys.file_hash_note(str(file.resolve()), file_stamp(file))
    is_settled = time.time_ns() - changed_ns > _SETTLED_NS
    known = store.recall(note)
    if known is None:
        known = content_hash(file)
        if is_settled:
            store.remember(note, known)
    return known


def files_identity(folder: Path, store: Store) -> str:
    """The sha256 of all files that make a model in this folder: names and contents."""
    return identity_of(
        (file.name, hash_file(file, store)) for file in _identifying_files(folder)
    )


def file_hashes_of(
    settings: RunSettings | FindSettings, store: Store
) -> dict[str, str]:
    """Hashes of all local files that a run or a search reads, by the references that name them.

    Without those that cannot be read, of which the run says why.
    """
    texts = (settings.calibration.corpus, settings.evaluation.corpus)
    hashes = {}
    for reference in (settings.model, *texts, *settings.evaluation.tasks):
        with suppress(OSError):
            if reference == settings.model:
                files = _model_files(reference)
            elif not reference.startswith(FILE):
                continue
            elif reference in texts:
                files = _text_files(reference)
            else:
                files = task_files(reference)
            named = [(file.name, hash_file(file, store)) for file in files]
            if named:
                hashes[reference] = digest(named)
    return hashes


def _model_files(reference: str) -> list[Path]:
    path = local_path(reference)
    kind = path_kind(path)
    if kind == "folder":
        return _identifying_files(path)
    return [path] if kind == "file" else []


def _text_files(reference: str) -> list[Path]:
    path = file_of(reference, Path())
    return [path] if path and path_kind(path) == "file" else []


def _identifying_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in IDENTIFYING and path_kind(file) == "file"
    )
