"""Unpacks a .gguf file into the data folder as safetensors: once, and again where the unpacked files are damaged.

Sizes, times and hashes of what was written are noted in the store. Sizes and times are compared before every use, which
takes no time; `damaged_files` reads everything.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from sparsedash.engine.models.checkpoint import UNREADABLE, first_line, read_model, refuse_impossible, refuse_oversized
from sparsedash.engine.models.content_hash import content_hash, file_hash, remembered_hash
from sparsedash.engine.models.gguf_reader import GgufReader, quick_gguf
from sparsedash.engine.models.modules import family_named
from sparsedash.schema import notes
from sparsedash.schema.errors import ModelError
from sparsedash.storage.local_paths import mode_in
from sparsedash.storage.store import Store

log = logging.getLogger(__name__)

_UNFINISHED = "unfinished-"

_Noted = dict[str, tuple[int, int, str]]
"""Of each file: bytes, time of the last change in nanoseconds, sha256."""


def dequantised(file: Path, store: Store) -> Path:
    """The folder that holds this file's model in FP32 with its tokenizer; made on the first call, found on later ones.

    It appears under its final name only when it is whole, and is made again where a file in it has changed. Raises
    ModelError when the .gguf file cannot be read.
    """
    models = store.folder / "models"
    models.mkdir(mode=mode_in(models.parent, 0o700), exist_ok=True)
    folder = models / f"{file.stem}-{file_hash(file, store)[:16]}"
    if _is_unchanged(folder, store):
        return folder
    # One process makes it, others wait; the lock ends with its process.
    with FileLock(models / f"{folder.name}.lock"):
        _sweep(models, folder.name)
        if not _is_unchanged(folder, store):
            _make(file, folder, store)
    return folder


def damaged_files(store: Store) -> list[str]:
    """The files among all unpacked models whose content is not what was written, by name; reads all of them."""
    found = []
    for folder in sorted((store.folder / "models").glob("*/")):
        for name, (_, _, digest) in (_noted(folder, store) or {}).items():
            if not (folder / name).is_file() or content_hash(folder / name) != digest:
                found.append(f"{folder.name}/{name}")
    return found


def _make(file: Path, folder: Path, store: Store) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=f"{_UNFINISHED}{folder.name}-", dir=folder.parent))
    try:
        _write(file, unfinished)
        if folder.is_dir():
            log.warning("The files of %s have changed since they were unpacked; they are unpacked again.", folder.name)
            # Renamed first: who has them open goes on reading what was there.
            folder.rename(Path(tempfile.mkdtemp(prefix=f"{_UNFINISHED}{folder.name}-", dir=folder.parent)) / "old")
        unfinished.rename(folder)
    finally:
        _sweep(folder.parent, folder.name)
    noted = {part.name: (*_state(part), file_hash(part, store)) for part in sorted(folder.iterdir())}
    store.remember(notes.unpacked_files(folder.name), json.dumps(noted))


def _is_unchanged(folder: Path, store: Store) -> bool:
    """Whether every file that was written is there with its size and time, and no other."""
    if not folder.is_dir():
        return False
    noted = _noted(folder, store)
    now = {part.name: _state(part) for part in folder.iterdir()}
    if noted is None:
        return _adopted(folder, now, store)
    return now == {name: (size, changed) for name, (size, changed, _) in noted.items()}


def _adopted(folder: Path, now: dict[str, tuple[int, int]], store: Store) -> bool:
    """Take over a folder of a version that noted nothing: one whose every file was hashed when it was first used.

    A hash is remembered by size and time, so that a file that has one has not changed since.
    """
    hashes = {name: remembered_hash(folder / name, store) for name in now}
    if not now or not all(hashes.values()):
        return False
    store.remember(notes.unpacked_files(folder.name), json.dumps({name: [*now[name], hashes[name]] for name in now}))
    return True


def _noted(folder: Path, store: Store) -> _Noted | None:
    text = store.recall(notes.unpacked_files(folder.name))
    if text is None:
        return None
    return {name: (size, changed, digest) for name, (size, changed, digest) in json.loads(text).items()}


def _state(file: Path) -> tuple[int, int]:
    seen = file.stat()
    return seen.st_size, seen.st_mtime_ns


def _sweep(models: Path, name: str) -> None:
    """Remove what killed processes left: of this model, since its lock is ours, and of others that nobody unpacks."""
    for left in models.glob(f"{_UNFINISHED}*"):
        other = left.name.removeprefix(_UNFINISHED).rpartition("-")[0]
        if other in (name, ""):
            shutil.rmtree(left, ignore_errors=True)
            continue
        # Its lock says whether a process is at it; an age would not, where the clock was set.
        with suppress(Timeout), FileLock(models / f"{other}.lock", timeout=0):
            shutil.rmtree(left, ignore_errors=True)


def _write(file: Path, folder: Path) -> None:
    opened_gguf(file)
    # The conversion's own bar would tear the shell's.
    with _alone(file) as where, quick_gguf(), redirect_stderr(StringIO()):
        try:
            config = AutoConfig.from_pretrained(**where, trust_remote_code=False, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False, local_files_only=True)
        except UNREADABLE as error:
            raise _unreadable(file, error) from error
        family_named(config.model_type)
        refuse_impossible(config, file.name)
        refuse_oversized(file.name, config, file.stat().st_size, "gguf")
        model = read_model(file.name, config, torch.float32, **where)
        # A model read from GGUF refuses to be saved while it remembers that it was quantised.
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        try:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        except SafetensorError as error:
            reason = f"{file.name} could not be unpacked: {first_line(error)}."
            raise ModelError(reason, "See whether the disk is full.") from error


@contextmanager
def _alone(file: Path) -> Iterator[dict[str, str]]:
    """The file's place as `from_pretrained` takes it, in a folder of its own: nothing that lies beside it is read."""
    with tempfile.TemporaryDirectory(prefix="sparsedash-") as empty:
        (Path(empty) / file.name).symlink_to(file.resolve())
        yield {"pretrained_model_name_or_path": empty, "gguf_file": file.name}


def opened_gguf(file: Path) -> GgufReader:
    """The file's keys and tensors. Raises ModelError unless all of them can be read and lie within it."""
    try:
        return GgufReader(file)
    except UNREADABLE as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{file.name} could not be read as a GGUF model: {first_line(error)}",
        "The file must be whole, and its architecture one that transformers can read from GGUF.",
    )
