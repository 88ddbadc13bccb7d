"""Verification: reads everything in the data folder that carries a checksum, and lists the damage.

Nothing is changed, dropped or counted as used. What is deleted meanwhile is no damage.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

from sparsedash.schema.errors import StoreError
from sparsedash.schema.export_settings import Export
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import (
    MAX_NAMED,
    Checked,
    Damage,
    Verification,
    VerifySettings,
    from_json,
)
from sparsedash.storage.disk_cache import DAMAGED, CacheEntry, DamagedEntry
from sparsedash.storage.model_folders import (
    MODELS,
    is_there,
    located_export,
    noted_files,
    unpacked_models,
)
from sparsedash.storage.store import Shelf, Store
from sparsedash.storage.text_files import Uploads, file_of

_PIECE_BYTES = 8 * 1024 * 1024
"""Read at once: between two pieces the work can be stopped."""

_SHELVES: dict[Shelf, Checked] = {"records": "record", "artefacts": "artefact"}

OnBytes = Callable[[int], None]


class _Check(NamedTuple):
    """One thing to read. look: its fault in words, or nothing; calls its argument with the bytes
    read.

    entry: as in Damage.
    """

    kind: Checked
    name: str
    n_bytes: int
    look: Callable[[OnBytes], str]
    entry: str = ""


def verify(store: Store, on_step: OnStep) -> Verification:
    """The result of reading everything; `on_step` gets megabytes, and may raise Cancelled."""
    started_at = time.time()
    todo = []
    for shelf, shelf_kind in _SHELVES.items():
        for stored in store.entries(shelf):
            look = partial(_entry_fault, store, shelf, stored)
            todo.append(_Check(shelf_kind, stored.name, stored.n_bytes, look))
    for kind, name, file, digest, folder, entry in _files(store):
        n_bytes = 0
        with suppress(OSError):
            n_bytes = file.stat().st_size
        look = partial(_file_fault, file, digest, folder)
        todo.append(_Check(kind, name, n_bytes, look, entry))
    progress = _Progress(on_step, sum(check.n_bytes for check in todo))
    damaged = []
    n_checked: dict[str, int] = dict.fromkeys(get_args(Checked), 0)
    for check in todo:
        progress.message = f"{check.kind}: {check.name}"[:120]
        progress.advance(0)
        fault = check.look(progress.advance)
        n_checked[check.kind] += 1
        if fault:
            damaged.append(
                Damage(kind=check.kind, name=check.name, what=fault, entry=check.entry)
            )
    return Verification(
        key=VerifySettings().key(),
        started_at=started_at,
        finished_at=time.time(),
        n_checked=n_checked,
        n_bytes=progress.total,
        damaged=tuple(damaged[:MAX_NAMED]),
        n_damaged=len(damaged),
    )


@dataclass
class _Progress:
    """Bytes read so far of the total, reported in megabytes."""

    on_step: OnStep
    total: int
    done: int = 0
    message: str = ""

    def advance(self, n_bytes: int) -> None:
        """Report so many bytes more. May raise Cancelled."""
        self.done += n_bytes
        total = max(1, self.total // 10**6)
        done = self.done // 10**6
        self.on_step(
            Step("verify", done, total, unit="megabytes", message=self.message)
        )


def _entry_fault(store: Store, shelf: Shelf, entry: CacheEntry, read: OnBytes) -> str:
    try:
        value = store.raw_value(shelf, entry.name)
    except DamagedEntry as error:
        return str(error) if store.has_entry(shelf, entry.name) else ""
    read(entry.n_bytes)
    if value is None:
        return ""
    if entry.name.startswith(DAMAGED):
        return "it was damaged when it was read, and is set aside"
    _, is_sound = value
    return "" if is_sound else "its checksum does not match"


def _files(store: Store) -> Iterator[tuple[Checked, str, Path, str, Path | None, str]]:
    """Kind, name, path, start of the hash, required folder and entry of each file."""
    for model in unpacked_models(store):
        folder = store.folder / MODELS / model.name
        for name, digest in (noted_files(model.name, store) or {}).items():
            yield (
                "unpacked model",
                f"{model.name}/{name}",
                folder / name,
                digest,
                folder,
                model.name,
            )
    for reference in Uploads(store.folder).kept():
        if (file := file_of(reference, store.folder)) is not None:
            # The folder is the beginning of the hash; a file that is gone was deleted.
            yield "upload", reference, file, file.parent.name, None, reference
    for key in store.keys(Export):
        # Of undamaged entries only: the others are listed already.
        with suppress(StoreError):
            data, is_sound = store.raw_value("records", f"export/{key}") or (b"", False)
            if is_sound:
                export = located_export(from_json(Export, data.decode()), store.folder)
                folder = Path(export.folder)
                for name, digest in export.files.items() if is_there(export) else ():
                    yield (
                        "export",
                        str(folder / name),
                        folder / name,
                        digest,
                        folder,
                        key,
                    )


def _file_fault(file: Path, digest: str, folder: Path | None, read: OnBytes) -> str:
    """digest: the sha256 of the content, or the beginning of it.

    folder: while it is there, the file must be there.
    """
    whole = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while piece := stream.read(_PIECE_BYTES):
                whole.update(piece)
                read(len(piece))
    except FileNotFoundError:
        return "it is missing" if folder is not None and folder.is_dir() else ""
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return (
        ""
        if whole.hexdigest().startswith(digest)
        else "its content is not what was written"
    )
