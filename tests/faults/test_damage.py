"""A data folder cut short or with bits turned over: nothing in it is run, nothing wrong is shown,
and what fails says why.
"""

import random
import shutil
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.errors import StoreError
from sparsedash.schema.pair_records import Continuation
from sparsedash.storage.store import Store

pytestmark = pytest.mark.faults

N_ENTRIES = 12
PLACES = [
    pytest.param(range(6), id="some"),
    pytest.param(range(6, 60), marks=pytest.mark.long, id="many"),
]


def continuation(number: int) -> Continuation:
    return Continuation(
        key=f"k{number}",
        prompt="Once",
        left=f"left {number} " * 40,
        right="right",
    )


def artefact(number: int) -> bytes:
    return random.Random(number).randbytes(50_000 if number % 3 == 0 else 300)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "data"
    store = Store(folder)
    table = JobTable(folder / "jobs.sqlite")
    for number in range(N_ENTRIES):
        store.put(f"k{number}", continuation(number))
        store.put_artefact(f"a{number}", artefact(number))
        table.submit("run", f"k{number}", {"number": number})
    store.close()
    table.close()
    return folder


def cut(data: bytes, places: random.Random) -> bytes:
    return data[: places.randrange(len(data))]


def flip(data: bytes, places: random.Random) -> bytes:
    turned = bytearray(data)
    for _ in range(8):
        turned[places.randrange(len(turned))] ^= 1 << places.randrange(8)
    return bytes(turned)


def damaged(sound, tmp_path, name, damage, places):
    """Copies of the folder, each with this file damaged at another place."""
    for place in places:
        folder = shutil.copytree(sound, tmp_path / str(place))
        path = sorted(folder.rglob("*.val"))[0] if name == "value" else folder / name
        path.write_bytes(damage(path.read_bytes(), random.Random(place)))
        yield folder


def questions(store: Store):
    """What can be asked of the store, with the answer of a sound one."""
    yield lambda: list(store.keys(Continuation)) and None, None
    yield lambda: store.put("new", continuation(0)), None
    yield lambda: store.put_artefact("new", b"new"), None
    for number in range(N_ENTRIES):
        yield partial(store.get, Continuation, f"k{number}"), continuation(number)
        yield partial(store.get_artefact, f"a{number}"), artefact(number)


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize("name", ["records/cache.db", "artefacts/cache.db", "value"])
def test_a_damaged_store_shows_what_was_put_there_or_says_why_not(
    sound, tmp_path, name, damage, places
):
    n_shown = 0
    for folder in damaged(sound, tmp_path, name, damage, places):
        try:
            store = Store(folder)
        except StoreError as error:
            assert str(folder) in error.message
            continue
        for read, whole in questions(store):
            try:
                value = read()
            except StoreError as error:
                assert "data folder could not be" in error.message
            else:
                assert value in (None, whole)
                n_shown += value is not None
        store.close()
    if damage is not cut:
        assert n_shown


@pytest.mark.parametrize("places", PLACES)
def test_a_job_table_that_was_cut_lists_jobs_or_says_why_not(sound, tmp_path, places):
    for folder in damaged(sound, tmp_path, "jobs.sqlite", cut, places):
        try:
            with closing(JobTable(folder / "jobs.sqlite")) as table:
                assert all(
                    job.settings["number"] in range(N_ENTRIES)
                    for job in (*table.newest_jobs(99), *table.queue())
                )
        except StoreError as error:
            assert str(folder / "jobs.sqlite") in error.message
