"""What takes many minutes: servers killed at any moment, tables locked. `make faults` runs it."""

import random
import sqlite3
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparsedash.storage.store import Store
from tests.faults.house import House

pytestmark = [pytest.mark.faults, pytest.mark.long]

N_SERVERS_KILLED = 20
LOCKED_S = 90.0


@pytest.mark.parametrize("both", [False, True])
def test_a_server_killed_at_any_moment_leaves_jobs_that_the_next_one_brings_to_their_end(house, both, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_LINGER_S", "0")
    moments = random.Random(int(both))
    ended = Counter()
    for number in range(N_SERVERS_KILLED):
        (house.folder / "release").unlink(missing_ok=True)
        job = house.submit(f"steady-{number}")
        server = house.start_server()
        time.sleep(2.0 * moments.random())
        server.kill()
        server.wait()
        if both:
            house.kill_all()
        house.release()
        state = house.tend_until_state(job, "done", "crashed").state
        ended[state] += 1
        if state == "crashed":
            assert both
            house.table.retry(job.id)
            house.tend_until_state(job, "done")
    print(f"\n{'server and worker' if both else 'server'} killed {N_SERVERS_KILLED} times: {dict(ended)}")


def held(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("BEGIN IMMEDIATE")
    return db


def wait_while_locked(house: House, moment: str) -> str:
    job = house.submit("steady" if moment != "start" else "quick")
    if moment != "start":
        house.tend_until_stage(job, "calibrate")
    db = held(house.folder / "jobs.sqlite")
    if moment != "middle":
        house.release()
    until = time.monotonic() + LOCKED_S
    while time.monotonic() < until:
        house.runner.reconcile()
        assert house.table.get(job.id).live
        time.sleep(0.2)
    db.execute("ROLLBACK")
    db.close()
    house.release()
    return house.tend_until_state(job, "done", "failed", "crashed", "cancelled").state


def test_a_job_waits_for_a_table_that_is_locked_for_long(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "1")
    monkeypatch.setenv("SPARSEDASH_LINGER_S", "30")
    houses = {moment: tmp_path / moment for moment in ("start", "middle", "end")}
    for folder in houses.values():
        folder.mkdir()
    houses = {moment: House(folder) for moment, folder in houses.items()}
    try:
        with ThreadPoolExecutor(3) as pool:
            ends = dict(zip(houses, pool.map(wait_while_locked, houses.values(), houses), strict=True))
    finally:
        for house in houses.values():
            house.end()
    assert ends == dict.fromkeys(houses, "done")


def test_a_store_waits_for_files_that_are_locked_for_long(tmp_path):
    store = Store(tmp_path, patience_s=600.0)
    locks = [held(tmp_path / cache / "cache.db") for cache in ("records", "artefacts")]
    with ThreadPoolExecutor(3) as pool:
        work = [
            pool.submit(store.put_artefact, "a", bytes(100_000)),
            pool.submit(store.remember, "note", "text"),
            pool.submit(Store, tmp_path, patience_s=600.0),
        ]
        time.sleep(LOCKED_S)
        assert not any(part.done() for part in work)
        for db in locks:
            db.execute("ROLLBACK")
            db.close()
        work[2].result().close()
    assert store.get_artefact("a") == bytes(100_000)
    assert store.recall("note") == "text"
    store.close()
