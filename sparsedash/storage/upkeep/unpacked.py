"""Models that were unpacked from .gguf files into the data folder: what was written of each, and how one is deleted."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sparsedash.schema import notes
from sparsedash.schema.errors import StoreError
from sparsedash.storage.store import Store
from sparsedash.storage.upkeep.folder_sizes import folder_size

MODELS = "models"
"""The folder of the data folder where they lie."""

UNFINISHED = "unfinished-"
"""How the name begins of what is being written or was left by a process that was killed."""

IDENTIFYING = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".gguf")
"""The kinds of files that make a model."""

Noted = Mapping[str, tuple[int, int, str]]
"""Of each file: bytes, time of the last change in nanoseconds, sha256."""


@dataclass(frozen=True, kw_only=True)
class UnpackedModel:
    """One of them. name: of its folder. identity: of the model; empty where nobody noted what was written."""

    name: str
    identity: str
    n_files: int
    n_bytes: int
    written_at: float


def unpacked_models(store: Store) -> list[UnpackedModel]:
    """All that are whole, by name."""
    found = []
    for folder in sorted((store.folder / MODELS).glob("*/")):
        if folder.name.startswith(UNFINISHED) or folder.is_symlink():
            continue
        noted, size = noted_files(folder.name, store) or {}, folder_size(folder)
        hashes = [(name, digest) for name, (_, _, digest) in noted.items()]
        found.append(
            UnpackedModel(
                name=folder.name,
                identity=identity_of(hashes) if hashes else "",
                n_files=size.n_files,
                n_bytes=size.n_bytes,
                written_at=size.written_at,
            )
        )
    return found


def noted_files(folder: str, store: Store) -> Noted | None:
    """What was written into the folder of this name; None where that was not noted, or cannot be read."""
    text = store.recall(notes.unpacked_files(folder), drop=False)
    if text is None:
        return None
    try:
        listed = json.loads(text).items()
        return {name: (int(size), int(changed), str(digest)) for name, (size, changed, digest) in listed}
    except (ValueError, TypeError, AttributeError):
        return None


def identity_of(files: Iterable[tuple[str, str]]) -> str:
    """The identity of the model that these files make. files: names with the sha256 of their contents."""
    whole = hashlib.sha256()
    for name, content in sorted(files):
        if Path(name).suffix in IDENTIFYING:
            whole.update(f"{name}\0{content}\n".encode())
    return "sha256:" + whole.hexdigest()


def drop_unpacked(name: str, store: Store) -> None:
    """Delete an unpacked model; one that is gone already is no error. It is unpacked again when it is needed.

    Raises StoreError while it is being unpacked, for a name that is none, or where deleting fails.
    """
    folder = store.folder / MODELS / name
    if not name or Path(name).name != name or name.startswith((UNFINISHED, ".")):
        raise StoreError(f"There is no unpacked model {name!r}.")
    gone = folder.with_name(f"{UNFINISHED}{name}-deleted")
    try:
        with FileLock(folder.with_name(f"{name}.lock"), timeout=0):
            store.forget(notes.unpacked_files(name))
            with suppress(FileNotFoundError):
                # Renamed first: no half of it stands under its name, and who has it open goes on reading.
                folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
    except Timeout as error:
        raise StoreError(f"{name} is being unpacked just now.", "Wait until that is done.") from error
    except OSError as error:
        raise StoreError(f"{folder} could not be deleted: {error.strerror}.") from error
