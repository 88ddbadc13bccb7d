"""What takes many minutes: real workers and servers killed all over a run, tables locked. `make faults` runs it."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sparsedash.jobs.runner import worker_environment
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service.backend import Backend
from sparsedash.storage.store import Store
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny import save_tiny
from tests.faults.house import House, eventually

pytestmark = [pytest.mark.faults, pytest.mark.long_faults]

N_WORKERS_KILLED = 60
N_SERVERS_KILLED = 20
LOCKED_S = 90.0
STAGES = ("load", "text", "calibrate", "prune", "evaluate")
LATEST_S = 0.005
"""How long after a stage has begun at most."""


class Forking:
    """Starts real workers without importing torch each time."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", str(Path(__file__).with_name("forking_worker.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        environment = worker_environment(0) | {"SPARSEDASH_LINGER_S": "0"}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)
        assert self.process.stdout.readline().strip() == "ready"

    def start(self, folder: Path) -> int:
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def forking():
    forking = Forking()
    yield forking
    forking.end()


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> RunSettings:
    folder = tmp_path_factory.mktemp("asked")
    text = f"file:{write_jsonl(folder / 'passages.jsonl', passages(60))}"
    return RunSettings(
        model=str(save_tiny(folder / "tiny")),
        methods=(MethodSettings(width_multiple=8),),
        sparsities_permille=(250, 500),
        calibration=CalibrationSettings(corpus=text, n_samples=64, length=32),
        evaluation=EvaluationSettings(corpus=text, n_passages=12),
    )


def gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def finished(backend: Backend, job_id: int, forking: Forking) -> None:
    pid = forking.start(backend.data_dir)
    eventually(lambda: gone(pid))
    job = backend.job(job_id)
    assert job.state == "done", f"{job.error_text}\n{backend.log_tail(job_id)}"


def numbers(folder: Path) -> dict[str, object]:
    """Every record of the folder without the times that it took."""
    store = Store(folder)
    records = {key: store.get(Record, key) for key in store.keys(Record)}
    (run,) = (store.get(Run, key) for key in store.keys(Run))
    store.close()
    assert run.finished
    assert set(records) == {run.dense, *run.sparse}
    return {key: replace(record, seconds=0.0, tokens_per_second=0.0) for key, record in records.items()}


def wait_for_stage(folder: Path, stage: str, pid: int) -> None:
    """Return once the job has come to this stage, or its worker is gone. Looks more often than a stage is long."""
    db = sqlite3.connect(folder / "jobs.sqlite", isolation_level=None)
    while not gone(pid):
        ((at,),) = db.execute("SELECT stage FROM jobs").fetchall()
        if at in STAGES and STAGES.index(at) >= STAGES.index(stage):
            break
        time.sleep(0.001)
    db.close()


def test_a_real_worker_killed_anywhere_gives_the_same_numbers_after_a_retry(forking, settings, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    backend = Backend(tmp_path / "whole")
    finished(backend, backend.submit(settings).id, forking)
    backend.close()
    expected = numbers(tmp_path / "whole")
    moments, killed_in, states = random.Random(0), Counter(), Counter()
    for number in range(N_WORKERS_KILLED):
        folder = tmp_path / str(number)
        backend = Backend(folder)
        job = backend.submit(settings)
        pid = forking.start(folder)
        wait_for_stage(folder, STAGES[number % len(STAGES)], pid)
        time.sleep(LATEST_S * moments.random())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: gone(pid))
        # Its threads may hold its locks a moment longer than it lives itself.
        eventually(lambda backend=backend, job=job: backend.job(job.id).state != "running")
        killed = backend.job(job.id)
        states[killed.state] += 1
        killed_in[f"{killed.state}: {killed.stage or 'before it began'}"] += 1
        assert killed.state in ("queued", "crashed", "done")
        if killed.state == "crashed":
            assert "without a word" in killed.error_text
            backend.retry(job.id)
        if killed.state != "done":
            finished(backend, job.id, forking)
        backend.close()
        assert numbers(folder) == expected
    print(f"\nkilled in {dict(killed_in)}")
    assert states["crashed"] > N_WORKERS_KILLED / 2


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
