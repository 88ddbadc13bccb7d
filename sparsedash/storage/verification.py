"""Verification: reads everything in the data folder that carries a checksum and lists the damage."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

from sparsedash.schema.errors import StoreError
from sparsedash.schema.export_settings import Export
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import (
    KINDS,
    MOST_NAMED,
    Checked,
    Damage,
    R,
    Verification,
    VerifySettings,
    from_json,
    names_itself,
)
from sparsedash.storage.disk_cache import DAMAGED
from sparsedash.storage.model_folders import MODELS, located_export, noted_files, unpacked_models
from sparsedash.storage.store import DamagedEntry, Shelf, Store
from sparsedash.storage.text_files import Uploads, file_of

_PIECE_BYTES = 8 * 1024 * 1024
"""Read at once: between two pieces somebody can stop the work."""

_CHANGED = "its content is not what was written"
_MISSING = "it is missing"
_SET_ASIDE = "it was damaged when it was read, and is set aside"

_SHELVES: dict[Shelf, Checked] = {"records": "record", "artefacts": "artefact"}

OnBytes = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class _Check:
    """One thing to read. look: says what is wrong with it, or nothing; is told of a function to call with bytes read.

    is_there: asked where something is wrong: it may have been deleted meanwhile.
    """

    kind: Checked
    name: str
    n_bytes: int
    look: Callable[[OnBytes], str]
    is_there: Callable[[], bool]
    entry: str = ""


def verify(store: Store, on_step: OnStep) -> Verification:
    """What was found; `on_step` is told the megabytes that were read, and may raise Cancelled."""
    begun = time.time()
    todo = [*_entries(store), *_unpacked(store), *_uploads(store), *_exports(store)]
    total, done = sum(check.n_bytes for check in todo), 0
    damaged = list(_nameless(store))
    message = ""
    n_checked: dict[str, int] = dict.fromkeys(get_args(Checked), 0)

    def read(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        on_step(Step("verify", done // 10**6, max(1, total // 10**6), unit="megabytes", message=message))

    for check in todo:
        message = f"{check.kind}: {check.name}"[:120]
        read(0)
        what = check.look(read)
        n_checked[check.kind] += 1
        if what and check.is_there():
            damaged.append(Damage(kind=check.kind, name=check.name, what=what, entry=check.entry))
    return Verification(
        key=VerifySettings().key(),
        started_at=begun,
        finished_at=time.time(),
        n_checked=n_checked,
        n_bytes=total,
        damaged=tuple(damaged[:MOST_NAMED]),
        n_damaged=len(damaged),
    )


def _nameless(store: Store) -> Iterator[Damage]:
    for shelf, kind in _SHELVES.items():
        if n := store.n_nameless(shelf):
            what = f"{n} of them in {shelf}/cache.db: what they are called cannot be read"
            yield Damage(kind=kind, name="", what=what)


def _entries(store: Store) -> Iterator[_Check]:
    for shelf, kind in _SHELVES.items():
        for entry in store.entries(shelf):
            yield _Check(
                kind=kind,
                name=entry.name,
                n_bytes=entry.n_bytes,
                look=partial(_entry_fault, store, shelf, entry.name, entry.n_bytes),
                is_there=partial(_has, store, shelf, entry.name),
            )


def _has(store: Store, shelf: Shelf, name: str) -> bool:
    try:
        return store.raw_value(shelf, name) is not None
    except DamagedEntry:
        return True


def _entry_fault(store: Store, shelf: Shelf, name: str, n_bytes: int, read: OnBytes) -> str:
    if name.startswith(DAMAGED):
        return _SET_ASIDE
    try:
        found = store.raw_value(shelf, name)
    except DamagedEntry as error:
        return str(error)
    read(n_bytes)
    if found is None:
        return ""
    value, is_sound = found
    if not is_sound:
        return "its checksum does not match"
    kind, _, key = name.partition("/")
    if shelf == "records" and kind in KINDS:
        return _record_fault(KINDS[kind], key, value.decode(errors="replace"))  # type: ignore[type-var]
    return ""


def _record_fault(kind: type[R], key: str, text: str) -> str:
    """A whole record of another form is a newer version's, and no damage."""
    with suppress(StoreError):
        if from_json(kind, text).key == key:
            return ""
    return "" if names_itself(kind, key, text) else "it is the entry of another key"


def _unpacked(store: Store) -> Iterator[_Check]:
    for model in unpacked_models(store):
        for name, (size, _, digest) in (noted_files(model.name, store) or {}).items():
            file = store.folder / MODELS / model.name / name
            yield _file_check("unpacked model", f"{model.name}/{name}", file, size, digest, model.name)


def _uploads(store: Store) -> Iterator[_Check]:
    for reference, size in Uploads(store.folder).kept().items():
        file = file_of(reference, store.folder)
        if file is not None:
            check = _file_check("upload", reference, file, size, file.parent.name, reference)
            # The folder is the beginning of the hash; a file that is gone was deleted.
            yield replace(check, is_there=file.is_file)


def _exports(store: Store) -> Iterator[_Check]:
    """Of those whose own entries are sound: the others are damaged entries already."""
    for entry in store.entries("records"):
        kind, _, key = entry.name.partition("/")
        if KINDS.get(kind) is not Export:
            continue
        with suppress(DamagedEntry, StoreError):
            found = store.raw_value("records", entry.name)
            if not found or not found[1]:
                continue
            export = located_export(from_json(Export, found[0].decode()), store.folder)
            folder = Path(export.folder)
            for name, digest in export.files.items() if folder.is_dir() else ():
                file = folder / name
                yield _file_check("export", str(file), file, _size(file), digest, key)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _file_check(kind: Checked, name: str, file: Path, n_bytes: int, digest: str, entry: str) -> _Check:
    """digest: the sha256 of the content, or the beginning of it."""
    look = partial(_file_fault, file, digest)
    return _Check(kind=kind, name=name, n_bytes=n_bytes, look=look, is_there=file.parent.is_dir, entry=entry)


def _file_fault(file: Path, digest: str, read: OnBytes) -> str:
    try:
        whole = hashlib.sha256()
        with file.open("rb") as stream:
            while piece := stream.read(_PIECE_BYTES):
                whole.update(piece)
                read(len(piece))
    except FileNotFoundError:
        return _MISSING
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return "" if whole.hexdigest().startswith(digest) else _CHANGED
