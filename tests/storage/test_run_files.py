"""A run in one file: that it is the same in another data folder, and that nothing else than a whole
run is taken.
"""

import gzip
import hashlib
from dataclasses import replace
from functools import partial

import pytest

from sparsedash.schema.errors import StoreError
from sparsedash.schema.pair_records import Continuation
from sparsedash.schema.records import Passages, Record, Run, to_json
from sparsedash.storage import run_files
from sparsedash.storage.run_files import keep_run, read_run_file, run_file
from sparsedash.storage.store import Store
from tests.storage.every_kind import flip
from tests.ui import specimens

TEXT = partial(
    Continuation,
    prompt=specimens.run()[0].settings.prompts[0],
    left="upon",
    right="upon",
)


def key(name):
    return hashlib.sha256(str(name).encode()).hexdigest()


def named(run, records, passages):
    """The specimens under keys as the program makes them."""
    records = [
        replace(r, key=key(r.key), passages_key=key(passages.key)) for r in records
    ]
    run = replace(
        run,
        key=key(run.key),
        dense=records[0].key,
        sparse=tuple(r.key for r in records[1:]),
    )
    return run, records, replace(passages, key=key(passages.key))


@pytest.fixture
def here(tmp_path):
    store = Store(tmp_path / "here")
    run, records, passages = named(*specimens.run(), specimens.passages())
    for part in (
        *records,
        passages,
        run,
        *(TEXT(key=key) for key in run.continuations),
    ):
        store.put(part.key, part)
    yield store
    store.close()


@pytest.fixture
def there(tmp_path):
    store = Store(tmp_path / "there")
    yield store
    store.close()


@pytest.fixture
def run(here):
    (run_key,) = here.keys(Run)
    return here.get(Run, run_key)


def everything(store):
    parts = {}
    for kind in (Run, Record, Passages, Continuation):
        parts[kind] = [store.get(kind, key) for key in sorted(store.keys(kind))]
    return parts


def test_a_run_is_the_same_in_another_data_folder_its_file_the_same_and_a_second_time_changes_nothing(
    here, there, run
):
    data = run_file(run, here)
    assert run_file(run, here) == data
    for _ in range(2):
        assert keep_run(read_run_file(data), there) == run
        assert everything(there) == everything(here)


def test_what_is_here_already_stays_but_an_unfinished_run_is_completed(
    here, there, run
):
    there.put(run.key, replace(run, finished=False, sparse=()))
    assert keep_run(read_run_file(run_file(run, here)), there) == run
    named_here = replace(run, warnings=("seen here",))
    there.put(run.key, named_here)
    assert keep_run(read_run_file(run_file(run, here)), there) == named_here


def test_a_run_whose_parts_are_gone_is_not_written(there, run):
    with pytest.raises(StoreError, match="no longer in the data folder"):
        run_file(run, there)


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_flipped_bit_or_a_cut_is_told(here, run, place):
    data = run_file(run, here)
    cut = int(place * len(data))
    for wrong in (flip(data, place), data[:cut], data[: cut + 1] + data[cut + 2 :]):
        with pytest.raises(StoreError):
            read_run_file(wrong)


def written(lines):
    """A file with the right digest."""
    raw = "".join(f"{line}\n" for line in lines).encode()
    return (
        f"{run_files._MAGIC} {hashlib.sha256(raw).hexdigest()}\n".encode()
        + gzip.compress(raw)
    )


RUN, RECORDS, PASSAGES = named(*specimens.run(), specimens.passages())
FEWER = {
    name: getattr(PASSAGES, name)[:1] for name in ("indices", "contexts", "targets")
}
LINES = [
    f"passages {to_json(PASSAGES)}",
    *(f"record {to_json(record)}" for record in RECORDS),
    f"run {to_json(RUN)}",
]


def with_run(**changes):
    return written([*LINES[:-1], f"run {to_json(replace(RUN, **changes))}"])


def with_extra(part):
    return written([*LINES, f"{type(part).__name__.lower()} {to_json(part)}"])


INCOMPLETE = {
    "nothing": b"",
    "zip": b"PK\x03\x04",
    "no header": gzip.compress(b"run {}", mtime=0),
    "no passages": written(LINES[1:]),
    "no dense record": written(LINES[:1] + LINES[2:]),
    "a record of another run": with_extra(replace(RECORDS[0], key=key("other"))),
    "two runs": with_extra(RUN),
    "no run": written(LINES[:-1]),
    "another kind": written(["prompts {}"]),
    "no JSON": written(["run {"]),
    "the example": with_run(made_on="somewhere"),
    "a key that is a path": with_run(key="../../x"),
    "another model": with_run(model_identity="other"),
    "dense and sparse exchanged": with_run(
        dense=RUN.sparse[0], sparse=(RUN.dense, *RUN.sparse[1:])
    ),
    "fewer passages than answers": written(
        [f"passages {to_json(replace(PASSAGES, **FEWER))}", *LINES[1:]]
    ),
    "other passages": with_extra(replace(PASSAGES, key=key("other"))),
    "another text": with_extra(TEXT(key=key("other"))),
    "another prompt": with_extra(
        TEXT(
            key=next(iter(RUN.continuations)),
            prompt="Another",
        )
    ),
}


@pytest.mark.parametrize("data", INCOMPLETE.values(), ids=INCOMPLETE.keys())
def test_what_is_no_file_of_one_whole_run_is_refused(data):
    with pytest.raises(StoreError):
        read_run_file(data)


@pytest.mark.parametrize(
    ("limit", "most"), [("MAX_LINE_BYTES", 1_000), ("MAX_BYTES", 2_000)]
)
def test_too_large_a_file_is_neither_read_nor_written(
    here, run, monkeypatch, limit, most
):
    monkeypatch.setattr(run_files, limit, most)
    with pytest.raises(StoreError, match="unpacks to more than"):
        read_run_file(written(LINES))
    with pytest.raises(StoreError, match="too large for a file"):
        run_file(run, here)
