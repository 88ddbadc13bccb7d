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
from typing import TypeVar

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
LONGEST_TEXT = 4_000
"""Limit of what a model wrote, in characters: its few tokens are never that long."""
_MAGIC = f"sparsedash-run {LAYOUT}"
_MAX_HEADER = 200
_KEY = re.compile("[0-9a-f]{64}")
_ADVICE = "Export the run again on the machine that made it."

Part = Run | Record | Passages | QuestionSet | FindResult | Continuation
P = TypeVar("P", Record, Passages, QuestionSet)
_KINDS: tuple[type[Part], ...] = (Run, Record, Passages, QuestionSet, FindResult, Continuation)


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A checked file of one complete run, not stored yet. packed: its gzipped lines."""

    run: Run
    has_search: bool
    packed: bytes


def run_file(run: Run, store: Store) -> bytes:
    """The file of a run. Raises StoreError when parts of it are gone, or it is larger than could be
    read again.
    """
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
    magic, _, stated = header[:_MAX_HEADER].decode(errors="replace").rpartition(" ")
    if magic != _MAGIC:
        raise StoreError(
            "This is not a run file of this version.", f"Choose one that ends in {SUFFIX}."
        )
    digest = hashlib.sha256()
    runs: list[Run] = []
    records: dict[str, tuple[str, bool, str, int]] = {}
    n_texts: dict[str, int] = {}
    searches = []
    written = dict[str, str]()
    longest = 0
    answers = set[str]()
    for line, part in _lines(packed):
        digest.update(line)
        if isinstance(part, Run):
            runs.append(part)
        elif isinstance(part, Record):
            about = (
                part.model_identity,
                part.pruned is not None,
                part.passages_key,
                len(part.outcomes),
            )
            records[part.key] = about
        elif isinstance(part, Passages):
            n_texts[part.key] = len(part.indices)
        elif isinstance(part, Continuation):
            written[part.key] = part.prompt
            longest = max(longest, *map(len, (part.left, part.right, *part.others)))
        elif isinstance(part, QuestionSet):
            answers.add(part.key)
        else:
            searches.append(part.key)
    if digest.hexdigest() != stated:
        raise StoreError("This file was changed, or a part of it is missing.", _ADVICE)
    is_whole = (
        len(runs) == 1
        and records.keys() == {runs[0].dense, *runs[0].sparse}
        and not runs[0].made_on
    )
    is_whole = (
        is_whole
        and written.keys() <= runs[0].continuations.keys()
        and set(written.values()) <= set(runs[0].settings.prompts)
        and longest <= LONGEST_TEXT
        and answers == {key for keys in runs[0].answers.values() for key in keys}
        and searches in ([], [runs[0].key])
        and n_texts.keys() == {of[2] for of in records.values()}
    )
    for key, (model, is_sparse, texts, n_answers) in records.items() if is_whole else ():
        is_whole &= model == runs[0].model_identity and is_sparse == (key != runs[0].dense)
        is_whole &= n_answers <= n_texts[texts]
    if not is_whole or not all(map(_KEY.fullmatch, (runs[0].key, *records, *n_texts, *answers))):
        raise StoreError("This file is not one complete run.", _ADVICE)
    return RunFile(run=runs[0], has_search=bool(searches), packed=packed)


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
    """Store everything of a file but the run; existing results stay as they are. Raises
    StoreError.
    """
    for _, part in _lines(file.packed):
        if not isinstance(part, Run) and store.get(type(part), part.key) is None:
            store.put(part.key, part)


def _parts_in(store: Store, run: Run) -> Iterator[Part]:
    """Every part of a run; the run comes last."""

    def stored(kind: type[P], key: str) -> P:
        if (found := store.get(kind, key)) is None:
            raise StoreError(
                "Some results of this run are no longer in the data folder.", "Run it again."
            )
        return found

    texts: dict[str, None] = {}
    for key in dict.fromkeys((run.dense, *run.sparse)):
        record = stored(Record, key)
        texts[record.passages_key] = None
        yield record
    for key in texts:
        yield stored(Passages, key)
    for key in dict.fromkeys(key for keys in run.answers.values() for key in keys):
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
                try:
                    parts = list(from_lines(line.decode(errors="replace"), _KINDS))
                except StoreError as error:
                    if error.__cause__ is None:
                        # Not damaged, but of a kind that this version does not know.
                        raise
                    raise StoreError(
                        "This file is damaged: a part of it cannot be read.", _ADVICE
                    ) from error
                for part in parts:
                    yield line, part
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError("This file is damaged: it cannot be unpacked.", _ADVICE) from error


def _require_small(of_line: int, of_all: int, problem: str) -> None:
    if of_line > MAX_LINE_BYTES or of_all > MAX_BYTES:
        most = f"{MAX_BYTES // 10**6:,} MB"
        of_one = f"{MAX_LINE_BYTES // 10**6:,} MB"
        raise StoreError(
            f"{problem}: it unpacks to more than {most}, or to {of_one} of one record."
        )
