"""A run in one file: that it is the same in another data folder, and that nothing else than a whole run is taken."""

import gzip
import hashlib
import weakref
from dataclasses import replace

import pytest

from sparsedash.schema.errors import StoreError
from sparsedash.schema.records import Passages, Record, Run, from_lines, to_json
from sparsedash.storage import run_files
from sparsedash.storage.run_files import keep_run, read_run_file, run_file
from sparsedash.storage.store import Store
from tests.ui import specimens

MAGIC = run_files._MAGIC


def key(name):
    return hashlib.sha256(str(name).encode()).hexdigest()


def named(run, records, passages):
    """The specimens under keys as the program makes them."""
    records = [replace(r, key=key(r.key), passages_key=key(passages.key)) for r in records]
    run = replace(run, key=key(run.key), dense=records[0].key, sparse=tuple(r.key for r in records[1:]))
    return run, records, replace(passages, key=key(passages.key))


@pytest.fixture
def here(tmp_path):
    store = Store(tmp_path / "here")
    run, records, passages = named(*specimens.run(), specimens.passages())
    for part in (*records, passages, run):
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
    (found,) = here.keys(Run)
    return here.get(Run, found)


def everything(store):
    return {(kind, k): store.get(kind, k) for kind in (Run, Record, Passages) for k in store.keys(kind)}


def test_a_run_is_the_same_in_another_data_folder(here, there, run):
    assert keep_run(read_run_file(run_file(run, here)), there) == run
    assert everything(there) == everything(here)


def test_the_same_run_is_the_same_file_and_a_second_time_changes_nothing(here, there, run):
    data = run_file(run, here)
    assert run_file(run, here) == data
    for _ in range(2):
        keep_run(read_run_file(data), there)
    assert everything(there) == everything(here)


def test_what_is_here_already_stays_but_an_unfinished_run_is_completed(here, there, run):
    there.put(run.key, replace(run, finished=False, sparse=()))
    assert keep_run(read_run_file(run_file(run, here)), there) == run
    named_here = replace(run, warnings=("seen here",))
    there.put(run.key, named_here)
    assert keep_run(read_run_file(run_file(run, here)), there) == named_here


def test_a_run_whose_parts_are_gone_is_not_written(there, run):
    with pytest.raises(StoreError, match="not in the data folder any more"):
        run_file(run, there)


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.999])
def test_a_flipped_bit_or_a_cut_is_told(here, run, place):
    data = run_file(run, here)
    at = int(place * len(data))
    flipped = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
    for wrong in (flipped, data[:at], data[: at + 1] + data[at + 2 :]):
        with pytest.raises(StoreError):
            read_run_file(wrong)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"PK\x03\x04", b"x" * 999, f"{MAGIC} \n".encode(), gzip.compress(b"run {}", mtime=0)]
)
def test_what_is_no_file_of_a_run_is_refused(data):
    with pytest.raises(StoreError):
        read_run_file(data)


def written(lines):
    """A file as somebody would forge it: with the right digest."""
    raw = "".join(f"{line}\n" for line in lines).encode()
    return f"{MAGIC} {hashlib.sha256(raw).hexdigest()}\n".encode() + gzip.compress(raw)


def lines_of(run, records, passages):
    return [
        f"passages {to_json(passages)}",
        *(f"record {to_json(record)}" for record in records),
        f"run {to_json(run)}",
    ]


def forgeries():
    run, records, passages = named(*specimens.run(), specimens.passages())
    dense, *sparse = records
    return {
        "no dense record": lines_of(run, sparse, passages),
        "a record of another run": lines_of(run, [*records, replace(dense, key=key("other"))], passages),
        "other passages": lines_of(run, records, replace(passages, key=key("other"))),
        "two runs": [*lines_of(run, records, passages), f"run {to_json(run)}"],
        "no run": lines_of(run, records, passages)[:-1],
        "the example": lines_of(replace(run, made_on="somewhere"), records, passages),
        "a key that is a path": lines_of(replace(run, key="../../x"), records, passages),
        "another kind": ["prompts {}"],
        "no JSON": ["run {"],
        "a wrong type": [to_json(run).join(["run ", ""]).replace('"finished":true', '"finished":"yes"')],
        "deep nesting": ["run " + "[" * 100_000],
        "a rank that cannot be": [
            line.replace('"rank":1', '"rank":-5', 1) for line in lines_of(run, records, passages)
        ],
    }


@pytest.mark.parametrize("what", forgeries())
def test_a_forged_file_is_refused_whatever_its_digest_says(what):
    with pytest.raises(StoreError):
        read_run_file(written(forgeries()[what]))


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(monkeypatch):
    file = written(lines_of(*named(*specimens.run(), specimens.passages())))
    monkeypatch.setattr(run_files, "MAX_BYTES", len(file) + 100)
    with pytest.raises(StoreError, match="unpacks to more than"):
        read_run_file(file)


@pytest.mark.parametrize(("limit", "most"), [("MAX_LINE_BYTES", 1_000), ("MAX_BYTES", 1_000)])
def test_a_file_with_more_than_is_read_of_one_is_refused(monkeypatch, limit, most):
    file = written(lines_of(*named(*specimens.run(), specimens.passages())))
    monkeypatch.setattr(run_files, limit, most)
    with pytest.raises(StoreError, match=r"more than|larger than"):
        read_run_file(file)


def test_of_a_file_of_many_records_one_is_in_memory_at_a_time(there, monkeypatch):
    run, (dense, sparse, *_), passages = named(*specimens.run(), specimens.passages())
    records = [dense, *(replace(sparse, key=key(i)) for i in range(9))]
    run = replace(run, sparse=tuple(record.key for record in records[1:]))
    seen, most_alive = [], []

    def counted(line, kinds):
        for part in from_lines(line, kinds):
            seen.append(weakref.ref(part))
            most_alive.append(sum(each() is not None for each in seen))
            yield part

    monkeypatch.setattr(run_files, "from_lines", counted)
    keep_run(read_run_file(written(lines_of(run, records, passages))), there)
    assert len(list(there.keys(Record))) == 10
    assert max(most_alive) <= 3, "one, the one before it, and the run"
