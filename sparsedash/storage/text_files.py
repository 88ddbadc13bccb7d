"""Text files: references (`file:PATH`, `upload:NAME@HASH`), their texts, uploads with quotas.

`[3600:]` after a reference takes a slice of its texts.
"""

import hashlib
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock

from sparsedash.schema.errors import CorpusError, StoreError, first_line
from sparsedash.schema.pair_records import records_read
from sparsedash.schema.records import Record
from sparsedash.storage.local_machine import file_stamp, local_path, mode_in, path_kind
from sparsedash.storage.model_folders import swept_folder
from sparsedash.storage.trials import run_trial, trial_problem

FILE = "file:"
UPLOAD = "upload:"
_UPLOADS = "uploads"
"""Subfolder of the data folder; each upload lies in a folder named by the hash of its content."""
TEXT_KINDS = (".jsonl", ".txt", ".parquet")

_SLICED = re.compile(r"(.+?)(?:\[(\d*):(\d*)\])?", re.DOTALL)
# No slash and no leading dot can pass, so that no name leads out of the folder of uploads.
_UPLOADED = re.compile(
    r"(?P<file>[\w-]+\.(?:jsonl|txt|parquet))@(?P<hash>[0-9a-f]{32})"
)


def names_file(reference: str) -> bool:
    """Whether a reference names a file, not a text set of the catalog."""
    return reference.startswith((FILE, UPLOAD))


def file_of(reference: str, data_dir: Path) -> Path | None:
    """The file of a reference, whether or not it exists; None for a name that no file can have."""
    name, _ = _parted(reference)
    if reference.startswith(FILE):
        return local_path(name)
    uploaded = _UPLOADED.fullmatch(name) if reference.startswith(UPLOAD) else None
    return uploaded and data_dir / _UPLOADS / uploaded["hash"] / uploaded["file"]


def text_slice(reference: str) -> slice:
    """The slice of the file's texts that a reference names."""
    return _parted(reference)[1]


def _parted(reference: str) -> tuple[str, slice]:
    match = _SLICED.fullmatch(reference.partition(":")[2])
    if not match:
        return "", slice(None)
    name, start, stop = match.groups()
    return name, slice(_slice_end(start), _slice_end(stop))


def _slice_end(digits: str | None) -> int | None:
    # `islice` takes no more than sys.maxsize, and no file has so many texts.
    return min(int(digits), sys.maxsize) if digits else None


MAX_TEXT_BYTES = 200 * 1024 * 1024
"""Of all texts of a file, some fifty million tokens: a small compressed file can hold more than
memory.
"""

_BATCH_ROWS = 1024
_TRIAL_S = 60
_TRIAL_BYTES = 2 * 10**9
_LONGEST_SHOWN = 200
"""Characters that are kept of a text to be shown."""


def texts_of(path: Path) -> Iterator[str]:
    """The texts of a file in order, read lazily.

    `.jsonl` with a `text` field, `.txt` with blank lines between texts, `.parquet` with a `text`
    column. Raises CorpusError with the place of one that cannot be read, and above MAX_TEXT_BYTES.
    """
    match path.suffix:
        case ".jsonl":
            texts: Iterable[str] = json_lines(path)
        case ".txt":
            if path.stat().st_size > MAX_TEXT_BYTES:
                raise _too_large(path)
            texts = re.split(r"\n\s*\n", "".join(_lines(path)))
        case ".parquet":
            texts = _column(path)
        case _:
            raise _unreadable_kind(path.name)
    n_bytes = 0
    for text in texts:
        n_bytes += len(text.encode())
        if n_bytes > MAX_TEXT_BYTES:
            raise _too_large(path)
        yield text


def is_running(path: Path) -> bool:
    """Whether the texts are parts of one running text, not documents of their own."""
    return path.suffix == ".txt"


def json_lines(path: Path) -> Iterator[str]:
    """The `text` of every line. Raises CorpusError with the number of the line that has none."""
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
            # A string with half a character cannot be encoded.
            text.encode()
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise CorpusError(
                f"Line {number} of {path.name} is not a JSON object with a text field.",
                'Write one object a line: {"text": "..."}.',
            ) from error
        yield text


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file with their ends, read lazily."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            while line := file.readline(MAX_TEXT_BYTES + 1):
                if len(line) > MAX_TEXT_BYTES:
                    raise _too_large(path)
                yield line
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path.name} is not text in UTF-8.", "Save it as UTF-8."
        ) from error
    except OSError as error:
        raise CorpusError(
            f"{path.name} could not be read: {first_line(error)}."
        ) from error


def _column(path: Path) -> Iterator[str]:
    # Here, since it takes a third of a second and most files are not of this kind.
    import pyarrow
    from pyarrow import parquet

    try:
        # As a dictionary, so that a value that stands in a million rows is in memory once.
        with parquet.ParquetFile(path, read_dictionary=["text"]) as file:
            about = file.metadata
            schema = file.metadata.schema
            column = [schema.column(i).path for i in range(len(schema))].index("text")
            groups = (
                about.row_group(i).column(column) for i in range(about.num_row_groups)
            )
            # By the file's own header; each distinct value counts once.
            if sum(group.total_uncompressed_size for group in groups) > MAX_TEXT_BYTES:
                raise _too_large(path)
            batches = file.iter_batches(_BATCH_ROWS, columns=["text"])
            for batch in batches:
                for text in batch.column("text").to_pylist():
                    if not isinstance(text, str):
                        raise CorpusError(
                            f"The column text of {path.name} holds values that are not text."
                        )
                    yield text
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise CorpusError(
            f"{path.name} could not be read: {first_line(error)}.",
            "It needs a column named text.",
        ) from error


def _too_large(path: Path) -> CorpusError:
    return CorpusError(
        f"{path.name} holds more than {MAX_TEXT_BYTES // 2**20} MB of text.",
        "Use a part of it.",
    )


def _unreadable_kind(name: str) -> CorpusError:
    return CorpusError(
        f"{name} cannot be read as text; possible: {', '.join(TEXT_KINDS)}."
    )


MIN_UPLOADED = 5
"""Of a text that is uploaded to be answered."""


@dataclass(frozen=True, kw_only=True)
class TextCount:
    """Texts and passages of a text file. n_texts: not empty. n_passages: different ones with a last word after
    others.

    gaps: the last words of the first passages. no_gap: the first text that is no passage, or
    empty; all cut.
    """

    n_texts: int
    n_characters: int
    n_passages: int
    gaps: tuple[str, ...]
    no_gap: str

    def passages_problem(self, fewest: int) -> str:
        """The reason these texts cannot be answered, as the end of a sentence that begins with the file's
        name, or empty.

        fewest: MIN_UPLOADED of an upload, where each text must be a passage; less of a file,
        which may be longer than what a run reads of it.
        """
        rule = (
            "A passage has two words or more, the last is the gap; repeats count once."
        )
        if self.n_passages < fewest:
            unit = "passages" if self.n_passages > 1 else "passage"
            return f"gives {self.n_passages or 'no'} {unit}; {fewest} or more needed. {rule}"
        if fewest < MIN_UPLOADED or not self.no_gap:
            return ""
        return f"holds a text without a gap: {self.no_gap[:40]!r}. {rule}"


_STOPS = ".!?…"
_CLOSING = "\"'”’»)]"
_GAPS_SHOWN = 3


def split_passage(text: str) -> tuple[str, str] | None:
    """A passage before its last word, and that word with the white space before it; None where it
    has no such word.

    White space at the end of the text is left out, and the full stop of its sentence: no model is
    judged by a stop that may follow as well.
    """
    text = text.rstrip()
    sentence = text.rstrip(_CLOSING)
    if sentence.endswith(tuple(_STOPS)):
        text = sentence.rstrip(_STOPS).rstrip()
    context, space, word = text.rpartition(" ")
    if not context.strip() or not word:
        return None
    # White space at the end of the context belongs to the target, or the words would be encoded
    # differently.
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + space + word


def count_texts(texts: Iterable[str]) -> TextCount:
    """Count of these texts and their passages."""
    seen = set[int]()
    n_texts = 0
    n_characters = 0
    gaps: list[str] = []
    no_gap = ""
    for text in filter(str.strip, texts):
        n_texts = n_texts + 1
        n_characters = n_characters + len(text)
        parts = split_passage(text)
        if parts:
            # By its hash, and not split into words: one text may have millions.
            seen.add(hash(re.sub(r"\s+", " ", text.strip())))
            if len(gaps) < _GAPS_SHOWN:
                gaps.append(parts[1].strip()[:_LONGEST_SHOWN])
        else:
            no_gap = no_gap or text.strip()[:_LONGEST_SHOWN]
    return TextCount(
        n_texts=n_texts,
        n_characters=n_characters,
        n_passages=len(seen),
        gaps=tuple(gaps),
        no_gap=no_gap,
    )


def named_text_count(reference: str, data_dir: Path) -> TextCount | None:
    """Count of a reference's file; None if it is not there or larger than an upload.

    Raises CorpusError.
    """
    path = file_of(reference, data_dir)
    if path is None or path_kind(path) != "file" or path.stat().st_size > MAX_BYTES:
        return None
    part = text_slice(reference)
    return _count_file(path, part.start, part.stop, file_stamp(path))


@lru_cache(maxsize=64)
def _count_file(
    path: Path, start: int | None, stop: int | None, stamp: str
) -> TextCount:
    """The count of a part of a file, cached until its stamp changes. Raises CorpusError."""
    if path.suffix != ".parquet":
        return count_texts(islice(texts_of(path), start, stop))
    count = _parquet_count(path, start, stop, stamp)
    if isinstance(count, str):
        raise CorpusError(count)
    return count


@lru_cache(maxsize=64)
def _parquet_count(
    path: Path, start: int | None, stop: int | None, _stamp: str
) -> TextCount | str:
    """The count of a part of a Parquet file, or why it cannot be read, from a process of its own.

    A file may unpack to far more than its header says, and what is unpacked at once has no limit.
    """
    bounds = ("" if bound is None else str(bound) for bound in (start, stop))
    too_much = f"takes more than {_TRIAL_S} s or {_TRIAL_BYTES / 1e9:.0f} GB to read"
    answer = trial_problem(
        __name__,
        str(path),
        *bounds,
        seconds=_TRIAL_S,
        too_much=too_much,
    )
    try:
        return msgspec.json.decode(answer, type=TextCount)
    except msgspec.MsgspecError:
        return answer if answer.endswith(".") else f"{path.name} {answer}."


MAX_MEGABYTES = 50
"""Of one upload; the server's own limit in .streamlit/config.toml is the same."""

MAX_BYTES = MAX_MEGABYTES * 1024 * 1024
MAX_TOTAL_BYTES = 1_000_000_000
"""Of all uploads of a data folder, so that they cannot fill the disk."""

_LOCK = "quotas.lock"
_QUOTA_TIMEOUT_S = 60.0
_HASH_DIGITS = 32
_NAME_LETTERS = 60


class Uploads:
    """The uploads of one data folder. Safe to share between threads and processes.

    A file is checked before it is kept, and only ever read as text.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lock = FileLock(data_dir / _LOCK, timeout=_QUOTA_TIMEOUT_S)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock of quotas, over all processes; reentrant. Raises StoreError."""
        try:
            self._lock.acquire()
        except OSError as error:
            reason = error.strerror or "another process has held it for a minute"
            raise StoreError(
                f"{self._lock.lock_file} could not be locked: {reason}.", "Try again."
            ) from error
        try:
            yield
        finally:
            self._lock.release()

    def keep(self, name: str, content: bytes, n_passages: int = 0) -> str:
        """Store a file and return its reference, the same one for the same content. Raises
        CorpusError.

        name: as on the user's machine; only its letters, digits, `_`, `-` and its suffix are used.
        n_passages: that it must give at least, to be answered; 0: it need not.
        """
        called = _harmless(name)
        if len(content) > MAX_BYTES:
            raise CorpusError(
                f"{called} is larger than {MAX_MEGABYTES} MB.",
                "Upload a part of it, or put it on the server and name it file:PATH.",
            )
        reference = self.reference(name, content)
        path = self._data_dir / _UPLOADS / reference.rpartition("@")[2] / called
        try:
            with self.changing():
                if path.is_file() and path.read_bytes() == content:
                    _require_texts(path, n_passages)
                    return reference
                room = max(0, MAX_TOTAL_BYTES - sum(self.kept().values()))
                if len(content) > room:
                    raise CorpusError(
                        f"{called} has {len(content) / 1e6:,.1f} MB; "
                        f"uploads have room for {room / 1e6:,.1f} MB more.",
                        "Delete some that are no longer needed.",
                    )
                _put(path, content, n_passages)
        except OSError as error:
            raise CorpusError(f"{called} could not be kept: {error}.") from error
        return reference

    def reference(self, name: str, content: bytes) -> str:
        """Reference to an upload of this content, kept or not."""
        return f"{UPLOAD}{_harmless(name)}@{hashlib.sha256(content).hexdigest()[:_HASH_DIGITS]}"

    def kept(self) -> dict[str, int]:
        """Size in bytes of every upload by reference, newest first."""
        uploads = []
        for path in (self._data_dir / _UPLOADS).glob("*/*"):
            reference = f"{UPLOAD}{path.name}@{path.parent.name}"
            # It may be deleted meanwhile.
            with suppress(OSError):
                if path.is_file() and file_of(reference, self._data_dir) is not None:
                    uploads.append(
                        (path.stat().st_mtime, reference, path.stat().st_size)
                    )
        return {reference: size for _, reference, size in sorted(uploads, reverse=True)}

    def drop(self, reference: str, in_use: Collection[str]) -> None:
        """Delete an upload, if it exists.

        Raises CorpusError. in_use: references of the texts that jobs read.
        """
        path = file_of(reference, self._data_dir)
        if path is None or not reference.startswith(UPLOAD):
            raise CorpusError(f"There is no upload {reference}.")
        if path in (file_of(text, self._data_dir) for text in in_use):
            raise CorpusError(
                f"{path.name} is read by a job that waits or runs.",
                "Wait until it has ended, or cancel it on the runs page.",
            )
        try:
            with self.changing():
                path.unlink(missing_ok=True)
                # The same content may lie there under another name as well.
                with suppress(OSError):
                    path.parent.rmdir()
        except OSError as error:
            raise CorpusError(f"{path.name} could not be deleted: {error}.") from error


def texts_read(
    request: Mapping[str, Any], record: Callable[[str], Record | None]
) -> set[str]:
    """References of the texts that a job with these settings may read, and those that its models
    were calibrated on.

    record: gives the record of a key.
    """
    texts = {
        str(part["corpus"])
        for part in request.values()
        if isinstance(part, Mapping) and "corpus" in part
    }
    for compared in map(record, records_read(request)):
        if compared and compared.pruned:
            texts.add(compared.pruned.calibration.corpus)
    return texts


def _put(path: Path, content: bytes, n_passages: int) -> None:
    """Write under another name, check the content, then rename."""
    folder = path.parent.parent
    folder.mkdir(mode=mode_in(folder.parent, 0o700), exist_ok=True)
    with swept_folder(folder) as unfinished:
        file = unfinished / path.name
        file.write_bytes(content)
        _require_texts(file, n_passages)
        path.parent.mkdir(mode=mode_in(folder, 0o700), exist_ok=True)
        file.chmod(mode_in(folder, 0o600))
        file.replace(path)


def _require_texts(file: Path, n_passages: int) -> None:
    # Every text is read, so that any that cannot be is refused now.
    count = _count_file(file, None, None, file_stamp(file))
    if not count.n_texts:
        raise CorpusError(f"{file.name} holds no text.", "Upload another file.")
    if n_passages and (problem := count.passages_problem(n_passages)):
        raise CorpusError(f"{file.name} {problem}")


def main(file: str, start: str, stop: str) -> None:
    """Print the count of a part of a file's texts as JSON, or why it cannot be read."""

    def count() -> str:
        texts = texts_of(Path(file))
        try:
            # In ASCII, whatever this process prints in.
            return json.dumps(
                asdict(count_texts(islice(texts, _slice_end(start), _slice_end(stop))))
            )
        except CorpusError as error:
            return str(error)

    run_trial(count, _TRIAL_BYTES, _TRIAL_S)


def _harmless(name: str) -> str:
    """The file's name in letters, digits, `_` and `-`, with its kind.

    Raises CorpusError for a kind that cannot be read.
    """
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    stem, _, kind = last.rpartition(".")
    suffix = f".{kind.lower()}"
    if suffix not in TEXT_KINDS:
        raise _unreadable_kind(last[:_NAME_LETTERS])
    letters = re.sub(r"[^\w-]+", "-", stem).strip("-")[:_NAME_LETTERS]
    return (letters or "text") + suffix


if __name__ == "__main__":
    main(*sys.argv[1:])
