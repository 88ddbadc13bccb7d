"""A data folder cut short or with bits turned over: nothing in it is run, nothing wrong is shown, and what fails says
why.
"""

import json
import os
import pickle
import random
import shutil
import sqlite3
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest

from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.errors import StoreError
from sparsedash.schema.pair_records import Continuation
from sparsedash.schema.settings import RunSettings
from sparsedash.storage.store import Store

pytestmark = pytest.mark.faults

N_PLACES = 20
N_ENTRIES = 12
LARGE = 50_000
ASKED = [json.loads(json.dumps(asdict(RunSettings(model=f"owner/model-{number}")))) for number in range(N_ENTRIES)]


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def continuation(number: int) -> Continuation:
    return Continuation(key=f"k{number}", prompt="Once", left=f"left {number} " * 40, right="right")


def artefact(number: int) -> bytes:
    return random.Random(number).randbytes(LARGE if number % 3 == 0 else 300)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "data"
    store = Store(folder)
    for number in range(N_ENTRIES):
        store.put(f"k{number}", continuation(number))
        store.put_artefact(f"a{number}", artefact(number))
    store.close()
    table = JobTable(folder / "jobs.sqlite")
    for number in range(N_ENTRIES):
        job = table.submit("run", f"k{number}", ASKED[number])
        if number % 2:
            table.claim(job.id, "slot-0", 4242)
            table.end(job, "failed", "text", "advice")
    table.close()
    return folder


def cut(data: bytes, places: random.Random) -> bytes:
    return data[: places.randrange(len(data))]


def flip(data: bytes, places: random.Random) -> bytes:
    turned = bytearray(data)
    for _ in range(8):
        turned[places.randrange(len(turned))] ^= 1 << places.randrange(8)
    return bytes(turned)


def the_file(folder: Path, name: str) -> Path:
    return sorted(folder.rglob("*.val"))[0] if name == "value" else folder / name


def questions(store: Store):
    """What can be asked of the store, with the answer of a sound one."""
    yield lambda: list(store.keys(Continuation)) and None, None
    yield lambda: store.put("new", continuation(0)), None
    yield lambda: store.put_artefact("new", b"new"), None
    for number in range(N_ENTRIES):
        yield partial(store.get, Continuation, f"k{number}"), continuation(number)
        yield partial(store.get_artefact, f"a{number}"), artefact(number)


FILES = ["records/cache.db", "artefacts/cache.db", "value"]


@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_store_shows_what_was_put_there_or_says_why_not(sound, tmp_path, name, damage):
    ends = {"shown": 0, "missing": 0, "refused": 0}
    for place in range(N_PLACES):
        folder = tmp_path / str(place)
        shutil.copytree(sound, folder)
        path = the_file(folder, name)
        path.write_bytes(damage(path.read_bytes(), random.Random(place)))
        try:
            store = Store(folder)
        except StoreError as error:
            assert str(folder) in error.message
            ends["refused"] += 1
            continue
        for read, whole in questions(store):
            try:
                found = read()
            except StoreError as error:
                assert "data folder could not be" in error.message
                ends["refused"] += 1
            else:
                assert found in (None, whole)
                ends["missing" if found is None else "shown"] += 1
        store.close()
    assert ends["shown"]


def test_a_job_table_that_was_cut_lists_jobs_or_says_why_not(sound, tmp_path):
    n_listed = 0
    for place in range(N_PLACES):
        folder = tmp_path / str(place)
        shutil.copytree(sound, folder)
        path = folder / "jobs.sqlite"
        path.write_bytes(cut(path.read_bytes(), random.Random(place)))
        try:
            table = JobTable(path)
        except StoreError as error:
            assert str(path) in error.message
            continue
        for read in (partial(table.list, 99), table.running, table.queue, partial(table.newest, "k3")):
            try:
                found = read()
            except StoreError as error:
                assert str(path) in error.message
            else:
                jobs = found if isinstance(found, tuple) else (found,) if found else ()
                assert all(job.settings in ASKED for job in jobs)
                n_listed += len(jobs)
        table.close()
    assert n_listed


@pytest.mark.parametrize("cache", ["records", "artefacts"])
@pytest.mark.parametrize("column", ["key", "value"])
def test_a_pickle_in_any_column_of_any_cache_is_never_run(sound, tmp_path, cache, column):
    folder = tmp_path / "data"
    shutil.copytree(sound, folder)
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    db = sqlite3.connect(folder / cache / "cache.db")
    if column == "key":
        db.execute("UPDATE Cache SET key = ? || rowid, raw = 0 WHERE rowid < 6", (trap,))
    for mode in (1, 2, 3, 4):
        changed = "UPDATE Cache SET mode = ?, value = ?, filename = NULL WHERE rowid = ?"
        db.execute(changed, (mode, trap, 6 + mode))
    db.commit()
    db.close()
    store = Store(folder)
    assert len(list(store.keys(Continuation))) == (7 if (cache, column) == ("records", "key") else 12)
    for number in range(N_ENTRIES):
        assert store.get(Continuation, f"k{number}") in (None, continuation(number))
        assert store.get_artefact(f"a{number}") in (None, artefact(number))
        store.put_artefact(f"a{number}", b"new")
    store.close()
    assert not (tmp_path / "sprung").exists()
