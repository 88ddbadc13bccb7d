"""Models that were made into safetensors once, in the data folder: made again where their files are damaged.

Sizes, times and hashes of what was written are noted in the store. Sizes and times are compared before every use,
hashes before the first in a process: a disk may change bytes and leave the time.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sparsedash.engine.models.content_hash import content_hash, file_hash, remembered_hash
from sparsedash.schema import notes
from sparsedash.schema.hashing import digest
from sparsedash.storage.local_paths import mode_in
from sparsedash.storage.store import Store
from sparsedash.storage.upkeep.unpacked import MODELS, UNFINISHED, noted_files

log = logging.getLogger(__name__)

_read: set[str] = set()
"""Folders, with the sizes and times of their files, whose contents this process has hashed."""
_LONGEST_NAME = 200
"""Bytes; most file systems allow 255, and what is unfinished has a longer name."""


def unpacked(name: str, write: Callable[[Path], None], store: Store) -> Path:
    """The folder of this name among the unpacked models; made on the first call, found on later ones.

    It appears under its final name only when it is whole, and is made again where a file in it has changed. write: is
    given an empty folder, and fills it; what it raises is raised.
    """
    if len(name.encode()) > _LONGEST_NAME:
        name = digest(name)
    models = store.folder / MODELS
    models.mkdir(mode=mode_in(models.parent, 0o700), exist_ok=True)
    folder = models / name
    if _is_unchanged(folder, store):
        return folder
    # One process makes it, others wait; the lock ends with its process.
    with FileLock(models / f"{name}.lock"):
        _sweep(models, name)
        if not _is_unchanged(folder, store):
            _make(write, folder, store)
    return folder


def _make(write: Callable[[Path], None], folder: Path, store: Store) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{folder.name}-", dir=folder.parent))
    try:
        write(unfinished)
        if folder.is_dir():
            log.warning("The files of %s have changed since they were unpacked; they are unpacked again.", folder.name)
            # Renamed first: who has them open goes on reading what was there.
            folder.rename(Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{folder.name}-", dir=folder.parent)) / "old")
        unfinished.rename(folder)
    finally:
        _sweep(folder.parent, folder.name)
    noted = {part.name: (*_state(part), file_hash(part, store)) for part in sorted(folder.iterdir())}
    _read.add(_named(folder, {part.name: _state(part) for part in folder.iterdir()}))
    store.remember(notes.unpacked_files(folder.name), json.dumps(noted))


def _is_unchanged(folder: Path, store: Store) -> bool:
    """Whether every file that was written is there as it was written, and no other."""
    if not folder.is_dir():
        return False
    now = {part.name: _state(part) for part in folder.iterdir()}
    noted = noted_files(folder.name, store)
    if noted is None and _adopted(folder, now, store):
        noted = noted_files(folder.name, store)
    if noted is None or now != {name: (size, changed) for name, (size, changed, _) in noted.items()}:
        return False
    if (named := _named(folder, now)) not in _read:
        if any(content_hash(folder / name) != digest for name, (_, _, digest) in noted.items()):
            return False
        _read.add(named)
    return True


def _named(folder: Path, state: dict[str, tuple[int, int]]) -> str:
    return json.dumps([str(folder), sorted(state.items())])


def _adopted(folder: Path, now: dict[str, tuple[int, int]], store: Store) -> bool:
    """Take over a folder of a version that noted nothing: one whose every file was hashed when it was first used.

    A hash is remembered by size and time, so that a file that has one has not changed since.
    """
    hashes = {name: remembered_hash(folder / name, store) for name in now}
    if not now or not all(hashes.values()):
        return False
    store.remember(notes.unpacked_files(folder.name), json.dumps({name: [*now[name], hashes[name]] for name in now}))
    return True


def _state(file: Path) -> tuple[int, int]:
    seen = file.stat()
    return seen.st_size, seen.st_mtime_ns


def _sweep(models: Path, name: str) -> None:
    """Remove what killed processes left: of this model, since its lock is ours, and of others that nobody unpacks."""
    for left in models.glob(f"{UNFINISHED}*"):
        other = left.name.removeprefix(UNFINISHED).rpartition("-")[0]
        if other in (name, ""):
            shutil.rmtree(left, ignore_errors=True)
            continue
        # Its lock says whether a process is at it; an age would not, where the clock was set.
        with suppress(Timeout), FileLock(models / f"{other}.lock", timeout=0):
            shutil.rmtree(left, ignore_errors=True)
