"""A run as one file, to move results between machines: gzipped lines of records, and a checksum.

The checksum shows damage, not forgery: open files only from people you trust. Every line is checked as in the store. A
file is unpacked line by line, twice, so that memory never holds more than one record of it.
"""

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from sparsedash.schema.errors import StoreError
from sparsedash.schema.records import Passages, Record, Run, from_lines, to_line
from sparsedash.schema.settings import FindResult
from sparsedash.storage.store import LAYOUT, Store

SUFFIX = ".sparsedash-run"
MAX_BYTES = 1_000_000_000
"""Limit of an unpacked file: five thousand passages answered by fifty models are a fifth of that."""
MAX_LINE_BYTES = 32_000_000
"""Limit of one line: the answers to 40,000 passages. In memory a line can take ten times as much."""
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
    written, digest = io.BytesIO(), hashlib.sha256()
    with gzip.GzipFile(fileobj=written, mode="wb", mtime=0) as packed:

        def parts() -> Iterator[Part]:
            for part in _parts_in(store, run):
                line = to_line(part).encode()
                _require_short(line)
                digest.update(line)
                packed.write(line)
                yield part

        _whole_run(parts())
    return f"{_MAGIC} {digest.hexdigest()}\n".encode() + written.getvalue()


def read_run_file(data: bytes) -> RunFile:
    """The run in a file. Raises StoreError for anything that `run_file` did not write."""
    if len(data) > MAX_BYTES:
        raise StoreError(f"This file is larger than {MAX_BYTES // 10**6:,} MB.", f"Choose one that ends in {SUFFIX}.")
    header, _, packed = data.partition(b"\n")
    magic, _, stated = header[:_MAX_HEADER].decode(errors="replace").rpartition(" ")
    if magic != _MAGIC:
        raise StoreError("This is no file of a run of this version.", f"Choose one that ends in {SUFFIX}.")
    digest = hashlib.sha256()
    run, has_search = _whole_run(_parts(packed, digest))
    if digest.hexdigest() != stated:
        raise StoreError("This file is not as it was written: it was changed, or a part of it is missing.", _ADVICE)
    return RunFile(run=run, has_search=has_search, packed=packed)


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


def _whole_run(parts: Iterable[Part]) -> tuple[Run, bool]:
    """The run among its parts, and whether a search is there. Raises StoreError unless they are one whole run."""
    runs: list[Run] = []
    records: dict[str, tuple[str, str, int, bool]] = {}
    n_texts: dict[str, int] = {}
    keys: set[str] = set()
    searches: list[str] = []
    for part in parts:
        keys.add(part.key)
        if isinstance(part, Run):
            runs.append(part)
        elif isinstance(part, Record):
            about = part.model_identity, part.passages_key, len(part.outcomes), part.pruned is not None
            records[part.key] = about
        elif isinstance(part, Passages):
            n_texts[part.key] = len(part.indices)
        else:
            searches.append(part.key)
    if len(runs) != 1:
        raise StoreError("This file does not hold one run.", _ADVICE)
    (run,) = runs
    if run.made_on or not all(map(_KEY.fullmatch, keys)):
        raise StoreError("This is no run that was made in a data folder.", "The example ships with the program.")
    belong = records.keys() == {run.dense, *run.sparse} and searches in ([], [run.key])
    for key, (model, passages, n_answers, is_sparse) in records.items():
        belong &= model == run.model_identity and is_sparse == (key != run.dense)
        belong &= n_answers <= n_texts.get(passages, -1)
    if not belong:
        raise StoreError("The run and its records do not belong together.", _ADVICE)
    return run, bool(searches)


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


def _parts(packed: bytes, digest: Any = None) -> Iterator[Part]:
    """The parts in these gzipped lines, read lazily. digest: gets every line. Raises StoreError."""
    n_bytes = 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as lines:
            while line := lines.readline(MAX_LINE_BYTES + 1):
                _require_short(line)
                n_bytes += len(line)
                if n_bytes > MAX_BYTES:
                    raise StoreError(
                        f"This file unpacks to more than {MAX_BYTES // 10**6:,} MB.", "Move a smaller run."
                    )
                if digest is not None:
                    digest.update(line)
                yield from from_lines(line.decode(errors="replace"), _KINDS)
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError("This file is damaged: it cannot be unpacked.", _ADVICE) from error


def _require_short(line: bytes) -> None:
    if len(line) > MAX_LINE_BYTES:
        most = f"{MAX_LINE_BYTES // 10**6:,} MB"
        raise StoreError(f"A record of this run takes more than {most}.", "Run it on fewer passages to move it.")


def _got(found: P | None, what: str) -> P:
    if found is None:
        raise StoreError(f"Some {what} of this run are not in the data folder any more.", "Run it again.")
    return found
