"""A run as one file, to move results between machines: gzipped lines of records, and a checksum.

The checksum shows damage, not forgery: open files only from people you trust. Every line is checked
as in the store. A file is unpacked line by line, twice, so that memory never holds more than one
record of it.
"""

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, TypeVar

from sparsedash.schema.errors import StoreError
from sparsedash.schema.find_settings import FindResult
from sparsedash.schema.pair_records import Continuation
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.records import Passages, Record, Run, from_lines, to_line
from sparsedash.storage.store import LAYOUT, Store

SUFFIX = ".sparsedash-run"
MAX_BYTES = 1_000_000_000
"""Limit of an unpacked file: five thousand passages answered by fifty models are a fifth of
that.
"""
MAX_LINE_BYTES = 64_000_000
"""Limit of one line: the answers to 80,000 passages, or to the 10,042 questions of HellaSwag with
ten examples before each. In memory a line can take ten times as much.
"""
_MAGIC = f"sparsedash-run {LAYOUT}"
_MAX_HEADER = 200
_KEY = re.compile("[0-9a-f]{64}")
_ADVICE = "Export the run again on the machine that made it."

Part = Run | Record | Passages | QuestionSet | FindResult | Continuation
P = TypeVar("P", Record, Passages, QuestionSet)
_KINDS: tuple[type[Part], ...] = (
    Run,
    Record,
    Passages,
    QuestionSet,
    FindResult,
    Continuation,
)


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A checked file of one complete run, not stored yet. packed: its gzipped lines."""

    run: Run
    has_search: bool
    packed: bytes


def run_file(run: Run, store: Store) -> bytes:
    """The file of a run. Raises StoreError when parts are missing, or it would be too large."""
    written = io.BytesIO()
    digest = hashlib.sha256()
    n_bytes = 0
    with gzip.GzipFile(fileobj=written, mode="wb", mtime=0) as packed:
        for part in _parts_in(store, run):
            line = to_line(part).encode()
            n_bytes += len(line)
            _require_small(len(line), n_bytes, "This run is too large for a file")
            digest.update(line)
            packed.write(line)
    return f"{_MAGIC} {digest.hexdigest()}\n".encode() + written.getvalue()


def read_run_file(data: bytes) -> RunFile:
    """The run in a file. Raises StoreError for anything that `run_file` did not write."""
    header, _, packed = data.partition(b"\n")
    magic, _, checksum = header[:_MAX_HEADER].decode(errors="replace").rpartition(" ")
    if magic != _MAGIC:
        raise StoreError(
            "This is not a run file of this version.",
            f"Choose one that ends in {SUFFIX}.",
        )
    digest = hashlib.sha256()
    contents = _Contents()
    for line, part in _lines(packed):
        digest.update(line)
        contents.add(part)
    if digest.hexdigest() != checksum:
        raise StoreError("This file was changed, or a part of it is missing.", _ADVICE)
    run = contents.run
    if run is None or not contents.is_complete(run):
        raise StoreError("This file is not one complete run.", _ADVICE)
    return RunFile(
        run=run,
        has_search=run.key in contents.searches,
        packed=packed,
    )


class _RecordSummary(NamedTuple):
    model_identity: str
    is_sparse: bool
    passages_key: str
    n_answers: int


class _Contents:
    """Contents of a file, without texts and answers, which may be more than fits in memory."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.searches = set[str]()
        self._records = dict[str, _RecordSummary]()
        self._n_passages = dict[str, int]()
        self._prompts = dict[str, str]()
        self._answers = set[str]()
        self._n_runs = 0

    def add(self, part: Part) -> None:
        match part:
            case Run():
                self._n_runs += 1
                self.run = part
            case Record():
                self._records[part.key] = _RecordSummary(
                    part.model_identity,
                    part.pruned is not None,
                    part.passages_key,
                    len(part.outcomes),
                )
            case Passages():
                self._n_passages[part.key] = len(part.indices)
            case Continuation():
                self._prompts[part.key] = part.prompt
            case QuestionSet():
                self._answers.add(part.key)
            case FindResult():
                self.searches.add(part.key)

    def is_complete(self, run: Run) -> bool:
        """Whether the parts are those of this one run and no others."""
        if (
            self._n_runs > 1
            or run.made_on
            or self._records.keys() != {run.dense, *run.sparse}
        ):
            return False
        for key, record in self._records.items():
            if record.model_identity != run.model_identity:
                return False
            if record.is_sparse != (key != run.dense):
                return False
            if record.n_answers > self._n_passages.get(record.passages_key, -1):
                return False
        return (
            self._n_passages.keys()
            == {record.passages_key for record in self._records.values()}
            and self._answers == set(chain.from_iterable(run.answers.values()))
            and self._prompts.keys() <= run.continuations.keys()
            and set(self._prompts.values()) <= set(run.settings.prompts)
            and self.searches <= {run.key}
            and all(
                map(
                    _KEY.fullmatch,
                    (run.key, *self._records, *self._n_passages, *self._answers),
                )
            )
        )


def keep_run(file: RunFile, store: Store) -> Run:
    """Store the run of a file; existing results stay as they are. Returns the stored run.

    The run comes last, so that it never refers to missing records. Raises StoreError.
    """
    keep_results(file, store)
    known = store.get(Run, file.run.key)
    if known is not None and known.finished:
        return known
    store.put(file.run.key, file.run)
    return file.run


def keep_results(file: RunFile, store: Store) -> None:
    """Store everything of a file but the run; existing results stay as they are.

    Raises StoreError.
    """
    for _, part in _lines(file.packed):
        if not isinstance(part, Run) and store.get(type(part), part.key) is None:
            store.put(part.key, part)


def _parts_in(store: Store, run: Run) -> Iterator[Part]:
    """Every part of a run; the run comes last."""

    def stored(kind: type[P], key: str) -> P:
        part = store.get(kind, key)
        if part is None:
            raise StoreError(
                "Some results of this run are no longer in the data folder.",
                "Run it again.",
            )
        return part

    passages_keys: dict[str, None] = {}
    for key in dict.fromkeys((run.dense, *run.sparse)):
        record = stored(Record, key)
        passages_keys[record.passages_key] = None
        yield record
    for key in passages_keys:
        yield stored(Passages, key)
    for key in dict.fromkeys(chain.from_iterable(run.answers.values())):
        yield stored(QuestionSet, key)
    for key in run.continuations:
        if written := store.get(Continuation, key):
            yield written
    if run.find is not None and (search := store.get(FindResult, run.key)) is not None:
        yield search
    yield run


def _lines(packed: bytes) -> Iterator[tuple[bytes, Part]]:
    """These gzipped lines with their parts, read lazily. Raises StoreError."""
    n_bytes = 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as lines:
            while line := lines.readline(MAX_LINE_BYTES + 1):
                n_bytes += len(line)
                _require_small(len(line), n_bytes, "This file is too large")
                for part in from_lines(line.decode(errors="replace"), _KINDS):
                    yield line, part
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError(
            "This file is damaged: it cannot be unpacked.", _ADVICE
        ) from error


def _require_small(line_bytes: int, file_bytes: int, problem: str) -> None:
    if line_bytes > MAX_LINE_BYTES or file_bytes > MAX_BYTES:
        raise StoreError(
            f"{problem}: it unpacks to more than {MAX_BYTES // 10**6:,} MB, "
            f"or to {MAX_LINE_BYTES // 10**6:,} MB of one record."
        )
