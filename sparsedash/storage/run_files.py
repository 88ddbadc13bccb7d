"""A run as one file, so that results move between machines: gzipped lines of the program's own records, and a digest.

The digest tells of a file that was cut or changed on its way, and every line is checked as one of the store is. Whoever
wants to lie can make another file with another digest: trust a run as you trust the hand that it comes from.
"""

import gzip
import hashlib
import io
import re
import zlib
from dataclasses import dataclass
from typing import TypeVar

from sparsedash.schema.errors import StoreError
from sparsedash.schema.records import Passages, Record, Run, from_lines, to_line
from sparsedash.schema.searches import FindResult
from sparsedash.storage.store import Store

SUFFIX = ".sparsedash-run"
MAX_BYTES = 1_000_000_000
"""Of what a file unpacks to: five thousand passages answered by fifty models are a fifth of that."""
_MAGIC = "sparsedash-run 1"
_MAX_HEADER = 200
_KEY = re.compile(r"[0-9a-f]{64}")
_ADVICE = "Write the file anew where the run was made."

Part = Run | Record | Passages | FindResult
P = TypeVar("P", Run, Record, Passages, FindResult)
_KINDS: tuple[type[Part], ...] = (Run, Record, Passages, FindResult)


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """A run with everything that its pages show: its records, the passages that they answer, what a search found."""

    run: Run
    records: tuple[Record, ...]
    passages: tuple[Passages, ...]
    search: FindResult | None = None

    def __post_init__(self) -> None:
        if self.run.made_on or not all(_KEY.fullmatch(part.key) for part in self.all):
            raise StoreError("This is no run that was made in a data folder.", "The example ships with the program.")
        found = [record.key for record in self.records]
        if sorted(found) != sorted({self.run.dense, *self.run.sparse}) or not self.run.dense:
            raise StoreError("The run and its records do not belong together.", _ADVICE)
        texts = {passages.key: len(passages.indices) for passages in self.passages}
        for record in self.records:
            if record.model_identity != self.run.model_identity:
                raise StoreError("One of its records is of another model.", _ADVICE)
            if (record.key == self.run.dense) != (record.pruned is None):
                raise StoreError("Its dense and its sparse records are mixed up.", _ADVICE)
            if len(record.outcomes) > texts.get(record.passages_key, 0):
                raise StoreError("The passages of one of its records are missing.", _ADVICE)
        if self.search is not None and self.search.key != self.run.key:
            raise StoreError("The search in it is another one.", _ADVICE)

    @property
    def all(self) -> tuple[Part, ...]:
        """Every part; the run last, so that where it is kept the others are."""
        search = () if self.search is None else (self.search,)
        return (*self.passages, *self.records, *search, self.run)


def run_file(run: Run, store: Store) -> bytes:
    """The file of a run. Raises StoreError where parts of it are gone."""
    records = tuple(_got(store.get(Record, key), "records") for key in dict.fromkeys((run.dense, *run.sparse)))
    keys = dict.fromkeys(record.passages_key for record in records)
    parts = RunParts(
        run=run,
        records=records,
        passages=tuple(_got(store.get(Passages, key), "passages") for key in keys),
        search=store.get(FindResult, run.key) if run.find is not None else None,
    )
    lines = "".join(map(to_line, parts.all)).encode()
    header = f"{_MAGIC} {hashlib.sha256(lines).hexdigest()}\n".encode()
    return header + gzip.compress(lines, mtime=0)


def read_run_file(data: bytes) -> RunParts:
    """The parts of a file, nothing of which is kept yet. Raises StoreError for what `run_file` did not write."""
    header, _, packed = data.partition(b"\n")
    if len(header) > _MAX_HEADER or not header.startswith(_MAGIC.rpartition(" ")[0].encode()):
        raise StoreError("This is no file of a run.", f"Choose one that ends in {SUFFIX}.")
    magic, _, digest = header.decode(errors="replace").rpartition(" ")
    if magic != _MAGIC:
        raise StoreError("This file was written by another version of SparseDash.", "Read it with that version.")
    lines = _unpacked(packed)
    if hashlib.sha256(lines).hexdigest() != digest:
        raise StoreError("This file is not as it was written: it was changed, or a part of it is missing.", _ADVICE)
    found = _parts(lines)
    runs, searches = _of(found, Run), _of(found, FindResult)
    if len(runs) != 1 or len(searches) > 1:
        raise StoreError("This file does not hold one run.", _ADVICE)
    return RunParts(
        run=runs[0],
        records=tuple(_of(found, Record)),
        passages=tuple(_of(found, Passages)),
        search=next(iter(searches), None),
    )


def keep_run(parts: RunParts, store: Store) -> Run:
    """Keep a run of a file among those that were made here; what is here already stays as it is.

    Returns the run that is here now. Raises StoreError where it cannot be kept, or is here in a newer form; then no run
    points at what is missing.
    """
    for passages in parts.passages:
        _keep(passages, store)
    for record in parts.records:
        _keep(record, store)
    if parts.search is not None:
        _keep(parts.search, store)
    _keep(parts.run, store)
    return _got(store.get(Run, parts.run.key), "run")


def _keep(part: P, store: Store) -> None:
    known = store.get(type(part), part.key)
    if known is None or (isinstance(known, Run) and not known.finished):
        store.put(part.key, part)


def _unpacked(packed: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
            lines = stream.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError("This file is damaged: it cannot be unpacked.", _ADVICE) from error
    if len(lines) > MAX_BYTES:
        raise StoreError(f"This file unpacks to more than {MAX_BYTES // 10**6:,} MB.", "Move a smaller run.")
    return lines


def _parts(lines: bytes) -> list[Part]:
    try:
        return list(from_lines(lines.decode(errors="replace"), _KINDS))
    except StoreError as error:
        raise StoreError(f"This file cannot be read. {error.message}", _ADVICE) from error


def _of(found: list[Part], kind: type[P]) -> list[P]:
    return [part for part in found if isinstance(part, kind)]


def _got(found: P | None, what: str) -> P:
    if found is None:
        raise StoreError(f"Some {what} of this run are not in the data folder any more.", "Run it again.")
    return found
