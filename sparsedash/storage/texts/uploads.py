"""Text files that visitors uploaded, up to a size: kept in the data folder by their hash, and only ever read as text.

A file is looked through before it is kept; one that is refused leaves nothing behind.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from filelock import FileLock

from sparsedash.schema.errors import CorpusError, StoreError
from sparsedash.schema.pair_settings import records_read
from sparsedash.schema.records import Record
from sparsedash.storage.local_paths import mode_in
from sparsedash.storage.texts.text_files import texts_of
from sparsedash.storage.texts.text_refs import TEXT_KINDS, UPLOAD, file_of, uploads_folder

MAX_MEGABYTES = 50
"""Of a file as it arrives; the same number is in .streamlit/config.toml, so that the server takes no more."""

MAX_BYTES = MAX_MEGABYTES * 1024 * 1024
MAX_TOTAL_BYTES = 1_000_000_000
"""Of all uploads of a data folder together: nobody who uses the page can fill the disk with them."""

_LOCK, _PATIENCE_S = "quotas.lock", 60.0
_HASH_DIGITS = 32
_NAME_LETTERS = 60


class Uploads:
    """The uploads of one data folder. Safe to share between threads and processes."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lock = FileLock(data_dir / _LOCK, timeout=_PATIENCE_S)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock under which a quota is checked and used up, in whatever process. Raises StoreError.

        Within itself, in one thread, it changes nothing.
        """
        try:
            self._lock.acquire()
        except OSError as error:
            reason = error.strerror or "another process has held it for a minute"
            raise StoreError(f"{self._lock.lock_file} could not be locked: {reason}.", "Try again.") from error
        try:
            yield
        finally:
            self._lock.release()

    def keep(self, name: str, content: bytes) -> str:
        """Store a file and return its reference, the same one for the same content. Raises CorpusError.

        name: as the visitor's machine calls it; only letters, digits, `_`, `-` and the kind of it are used.
        """
        called = _harmless(name)
        if len(content) > MAX_BYTES:
            raise CorpusError(
                f"{called} is larger than {MAX_MEGABYTES} MB.",
                "Upload a part of it, or put it on the server and name it file:PATH.",
            )
        digest = hashlib.sha256(content).hexdigest()[:_HASH_DIGITS]
        reference = f"{UPLOAD}{called}@{digest}"
        path = file_of(reference, self._data_dir)
        assert path is not None
        try:
            with self.changing():
                if not path.is_file():
                    self._make_sure_it_fits(called, len(content))
                    _put(path, content)
        except OSError as error:
            raise CorpusError(f"{called} could not be kept: {error}.") from error
        return reference

    def kept(self) -> dict[str, int]:
        """The size in bytes of every upload by its reference, newest first."""
        files = sorted(_files(uploads_folder(self._data_dir)), reverse=True)
        sizes = {f"{UPLOAD}{path.name}@{path.parent.name}": size for _, path, size in files}
        return {name: sizes[name] for name in sizes if file_of(name, self._data_dir) is not None}

    def drop(self, reference: str, in_use: Collection[str]) -> None:
        """Delete an upload; one that is gone already is no error. Raises CorpusError.

        in_use: references of the texts that jobs read, in slices or whole.
        """
        path = file_of(reference, self._data_dir)
        if path is None or not reference.startswith(UPLOAD):
            raise CorpusError(f"There is no upload {reference}.")
        if any(file_of(other, self._data_dir) == path for other in in_use):
            raise CorpusError(
                f"{path.name} is read by a job that waits or runs.",
                "Wait until it has ended, or cancel it on the jobs page.",
            )
        try:
            with self.changing():
                path.unlink(missing_ok=True)
                # The same content may lie there under another name as well.
                with suppress(OSError):
                    path.parent.rmdir()
        except OSError as error:
            raise CorpusError(f"{path.name} could not be deleted: {error}.") from error

    def _make_sure_it_fits(self, called: str, n_bytes: int) -> None:
        left = MAX_TOTAL_BYTES - sum(self.kept().values())
        if n_bytes > left:
            raise CorpusError(
                f"{called} has {_megabytes(n_bytes)}, and there is room for {_megabytes(max(0, left))} more: all "
                f"uploads together have at most {_megabytes(MAX_TOTAL_BYTES)}.",
                "Delete some that are no longer needed.",
            )


def texts_read(request: Mapping[str, Any], record: Callable[[str], Record | None]) -> set[str]:
    """The references of the texts that a job with these settings may read.

    The models that it works with were calibrated on some, and may have to be again. record: gives the record of a key.
    """
    named = {str(part["corpus"]) for part in request.values() if isinstance(part, Mapping) and "corpus" in part}
    compared = map(record, records_read(request))
    return named | {found.pruned.calibration.corpus for found in compared if found and found.pruned}


def _files(folder: Path) -> Iterator[tuple[float, Path, int]]:
    """Time of change, path and size of every file in the folders of this one."""
    for path in folder.glob("*/*"):
        # Somebody may delete it meanwhile.
        with suppress(OSError):
            if path.is_file():
                state = path.stat()
                yield state.st_mtime, path, state.st_size


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"


def _put(path: Path, content: bytes) -> None:
    """Write beside the folder under another name, look through it, and only then give it its own."""
    folder = path.parent.parent
    folder.mkdir(mode=mode_in(folder.parent, 0o700), exist_ok=True)
    with NamedTemporaryFile(dir=folder, suffix=path.suffix, delete=False) as file:
        unfinished = Path(file.name)
        try:
            file.write(content)
            file.flush()
            _look_through(unfinished, path.name)
            path.parent.mkdir(mode=mode_in(folder, 0o700), exist_ok=True)
            unfinished.chmod(mode_in(folder, 0o600))
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _look_through(path: Path, called: str) -> None:
    found = False
    try:
        for text in texts_of(path):
            found = found or bool(text.strip())
    except CorpusError as error:
        raise CorpusError(error.message.replace(path.name, called), error.advice) from error
    if not found:
        raise CorpusError(f"{called} holds no text.", "Upload another file.")


def _harmless(name: str) -> str:
    """The file's name in letters, digits, `_` and `-`, with its kind.

    Raises CorpusError for a kind that cannot be read.
    """
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    stem, _, kind = last.rpartition(".")
    if f".{kind.lower()}" not in TEXT_KINDS:
        raise CorpusError(
            f"{last[:_NAME_LETTERS]} is not of a kind that can be read; possible: {', '.join(TEXT_KINDS)}."
        )
    letters = re.sub(r"[^\w-]+", "-", stem).strip("-")[:_NAME_LETTERS]
    return f"{letters or 'text'}.{kind.lower()}"
