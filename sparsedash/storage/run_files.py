"""A run as one file, to move results between machines: gzipped lines of records, and a checksum.

The checksum shows damage, not forgery: open files only from people you trust. Every line is checked as in the store. A
file is unpacked line by line, several times over, so that memory never holds more than one record of it.
"""

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar, assert_never

from sparsedash.schema.errors import StoreError
from sparsedash.schema.records import Passages, Record, Run, from_lines, to_line
from sparsedash.schema.settings import FindResult
from sparsedash.storage.store import LAYOUT, Store

SUFFIX = ".sparsedash-run"
MAX_BYTES = 1_000_000_000
"""Limit of an unpacked file: five thousand passages answered by fifty models are a fifth of that."""
MAX_LINE_BYTES = 32_000_000
"""Limit of one line: the answers to 40,000 passages. In memory a line can take ten times as much."""
MAX_LINES = 10_000
_PIECE_BYTES = 2**20
_MAGIC = f"sparsedash-run {LAYOUT}"
_MAX_HEADER = 200
_KEY = re.compile(r"[0-9a-f]{64}")
_ADVICE = "Write the file anew where the run was made."

Part = Run | Record | Passages | FindResult
P = TypeVar("P", Run, Record, Passages, FindResult)
_KINDS: tuple[type[Part], ...] = (Run, Record, Passages, FindResult)


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A checked file of one complete run, not stored yet. packed: its gzipped lines."""

    run: Run
    has_search: bool
    packed: bytes


def run_file(run: Run, store: Store) -> bytes:
    """The file of a run. Raises StoreError when parts of it are gone."""
    written, found, digest = io.BytesIO(), _Found(), hashlib.sha256()
    with gzip.GzipFile(fileobj=written, mode="wb", mtime=0) as packed:
        for part in _parts_in(store, run):
            found.add(part)
            line = to_line(part).encode()
            _require_short(line)
            digest.update(line)
            packed.write(line)
    found.whole_run()
    return f"{_MAGIC} {digest.hexdigest()}\n".encode() + written.getvalue()


def read_run_file(data: bytes) -> RunFile:
    """The run in a file. Raises StoreError for anything that `run_file` did not write."""
    if len(data) > MAX_BYTES:
        raise StoreError(f"This file is larger than {MAX_BYTES // 10**6:,} MB.", f"Choose one that ends in {SUFFIX}.")
    header, _, packed = data.partition(b"\n")
    if len(header) > _MAX_HEADER or not header.startswith(_MAGIC.rpartition(" ")[0].encode()):
        raise StoreError("This is no file of a run.", f"Choose one that ends in {SUFFIX}.")
    magic, _, digest = header.decode(errors="replace").rpartition(" ")
    if magic != _MAGIC:
        raise StoreError("This file was written by another version of SparseDash.", "Read it with that version.")
    if _digest(packed) != digest:
        raise StoreError("This file is not as it was written: it was changed, or a part of it is missing.", _ADVICE)
    found = _Found()
    for part in _parts(packed):
        found.add(part)
    return RunFile(run=found.whole_run(), has_search=bool(found.searches), packed=packed)


def keep_run(file: RunFile, store: Store) -> Run:
    """Store the run of a file; existing results stay as they are. Returns the stored run.

    The run comes last, so that it never refers to missing records. Raises StoreError.
    """
    keep_results(file, store)
    known = store.get(Run, file.run.key)
    if known is None or not known.finished:
        store.put(file.run.key, file.run)
    return _got(store.get(Run, file.run.key), "run")


def keep_results(file: RunFile, store: Store) -> None:
    """Store everything of a file but the run; existing results stay as they are. Raises StoreError."""
    for part in _parts(file.packed):
        if not isinstance(part, Run) and store.get(type(part), part.key) is None:
            store.put(part.key, part)


@dataclass
class _Found:
    """Summary of the parts read so far, to check whether they belong together.

    records: model, passages and number of answers of each, and whether it is sparse. n_texts: of each set of passages.
    """

    runs: list[Run] = field(default_factory=list)
    records: dict[str, tuple[str, str, int, bool]] = field(default_factory=dict)
    n_texts: dict[str, int] = field(default_factory=dict)
    searches: list[str] = field(default_factory=list)
    n_records: int = 0

    def add(self, part: Part) -> None:
        """Add a part. Raises StoreError for one that cannot be in a run file."""
        if not _KEY.fullmatch(part.key):
            raise StoreError("This is no run that was made in a data folder.", "The example ships with the program.")
        match part:
            case Run():
                self.runs.append(part)
            case Record():
                self.n_records += 1
                about = part.model_identity, part.passages_key, len(part.outcomes), part.pruned is not None
                self.records[part.key] = about
            case Passages():
                self.n_texts[part.key] = len(part.indices)
            case FindResult():
                self.searches.append(part.key)
            case _:
                assert_never(part)

    def whole_run(self) -> Run:
        """The run, if all its parts were found. Raises StoreError."""
        if len(self.runs) != 1 or len(self.searches) > 1:
            raise StoreError("This file does not hold one run.", _ADVICE)
        (run,) = self.runs
        if run.made_on:
            raise StoreError("This is no run that was made in a data folder.", "The example ships with the program.")
        if not run.dense or {*self.records} != {run.dense, *run.sparse} or self.n_records > len(self.records):
            raise StoreError("The run and its records do not belong together.", _ADVICE)
        for key, (model, passages, n_answers, is_sparse) in self.records.items():
            if model != run.model_identity:
                raise StoreError("One of its records is of another model.", _ADVICE)
            if (key != run.dense) != is_sparse:
                raise StoreError("Its dense and its sparse records are mixed up.", _ADVICE)
            if n_answers > self.n_texts.get(passages, 0):
                raise StoreError("The passages of one of its records are missing.", _ADVICE)
        if self.searches and self.searches != [run.key]:
            raise StoreError("The search in it is another one.", _ADVICE)
        return run


def _parts_in(store: Store, run: Run) -> Iterator[Part]:
    """Every part of a run; the run comes last."""
    texts: dict[str, None] = {}
    for key in dict.fromkeys((run.dense, *run.sparse)):
        record = _got(store.get(Record, key), "records")
        texts[record.passages_key] = None
        yield record
    for key in texts:
        yield _got(store.get(Passages, key), "passages")
    if run.find is not None and (search := store.get(FindResult, run.key)) is not None:
        yield search
    yield run


def _parts(packed: bytes) -> Iterator[Part]:
    """The parts in these gzipped lines, read lazily. Raises StoreError."""
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as lines:
        for _ in range(MAX_LINES):
            line = lines.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            _require_short(line)
            try:
                yield from from_lines(line.decode(errors="replace"), _KINDS)
            except StoreError as error:
                raise StoreError(f"This file cannot be read. {error.message}", _ADVICE) from error
    raise StoreError(f"This file has more than {MAX_LINES:,} lines.", "Move a smaller run.")


def _digest(packed: bytes) -> str:
    """The sha256 of the unpacked lines. Raises StoreError when they are damaged, or too many."""
    digest, n_bytes = hashlib.sha256(), 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as lines:
            while piece := lines.read(_PIECE_BYTES):
                digest.update(piece)
                n_bytes += len(piece)
                if n_bytes > MAX_BYTES:
                    most = f"{MAX_BYTES // 10**6:,} MB"
                    raise StoreError(f"This file unpacks to more than {most}.", "Move a smaller run.")
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError("This file is damaged: it cannot be unpacked.", _ADVICE) from error
    return digest.hexdigest()


def _require_short(line: bytes) -> None:
    if len(line) > MAX_LINE_BYTES:
        most = f"{MAX_LINE_BYTES // 10**6:,} MB"
        raise StoreError(f"A record of this run takes more than {most}.", "Run it on fewer passages to move it.")


def _got(found: P | None, what: str) -> P:
    if found is None:
        raise StoreError(f"Some {what} of this run are not in the data folder any more.", "Run it again.")
    return found
