"""Text files that visitors gave: kept in the data folder by the hash of their content, read as text, and never run.

A file is looked through before it is kept; one that is refused leaves nothing behind.
"""

import hashlib
import re
import unicodedata
from pathlib import Path
from tempfile import NamedTemporaryFile

from sparsedash.errors import CorpusError
from sparsedash.references import TEXT_KINDS, UPLOAD, file_of, uploads_folder
from sparsedash.textfiles import texts_of

MAX_MEGABYTES = 50
"""Of a file as it arrives; the same number is in .streamlit/config.toml, so that the server takes no more."""

MAX_BYTES = MAX_MEGABYTES * 1024 * 1024
MAX_TEXT_BYTES = 20 * MAX_BYTES
"""Of all texts together: a small compressed file can hold far more than fits into memory."""

_HASH_DIGITS = 32
_NAME_LETTERS = 60


class Uploads:
    """The uploads of one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def keep(self, name: str, content: bytes) -> str:
        """Keep a file and give its reference; one that is there already gives the same. Raises CorpusError.

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
            if not path.is_file():
                _put(path, content)
        except OSError as error:
            raise CorpusError(f"{called} could not be kept: {error}.") from error
        return reference

    def kept(self) -> tuple[str, ...]:
        """The references of all uploads, newest first."""
        files = [path for path in uploads_folder(self._data_dir).glob("*/*") if path.is_file()]
        files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        references = (f"{UPLOAD}{path.name}@{path.parent.name}" for path in files)
        return tuple(name for name in references if file_of(name, self._data_dir) is not None)


def _put(path: Path, content: bytes) -> None:
    """Write beside the folder under another name, look through it, and only then give it its own."""
    folder = path.parent.parent
    folder.mkdir(mode=0o700, exist_ok=True)
    with NamedTemporaryFile(dir=folder, suffix=path.suffix, delete=False) as file:
        unfinished = Path(file.name)
        try:
            file.write(content)
            file.flush()
            _look_through(unfinished, path.name)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _look_through(path: Path, called: str) -> None:
    n_bytes, found = 0, False
    try:
        for text in texts_of(path):
            found = found or bool(text.strip())
            n_bytes += len(text.encode())
            if n_bytes > MAX_TEXT_BYTES:
                raise CorpusError(f"{called} unpacks to more text than can be handled.")
    except CorpusError as error:
        raise CorpusError(error.message.replace(path.name, called), error.advice) from error
    if not found:
        raise CorpusError(f"{called} holds no text.", "Upload another file.")


def _harmless(name: str) -> str:
    """The file's name in letters, digits, `_` and `-`, with its kind. Raises CorpusError for a kind that cannot be read."""
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    stem, _, kind = last.rpartition(".")
    if f".{kind.lower()}" not in TEXT_KINDS:
        raise CorpusError(
            f"{last[:_NAME_LETTERS]} is not of a kind that can be read; possible: {', '.join(TEXT_KINDS)}."
        )
    letters = re.sub(r"[^\w-]+", "-", stem).strip("-")[:_NAME_LETTERS]
    return f"{letters or 'text'}.{kind.lower()}"
