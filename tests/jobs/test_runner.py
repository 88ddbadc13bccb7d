"""How many workers there may be, and what they are given. What they do is in tests/faults."""

import os
import signal
import time
from pathlib import Path

import pytest

from sparsedash.jobs import local_runner
from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.local_runner import (
    LocalRunner,
    hold_lock,
    job_lock,
    linger_s,
    n_slots,
    slot_lock,
    worker_environment,
)
from sparsedash.schema.errors import SettingsError


@pytest.fixture(autouse=True)
def a_machine_without_gpus(monkeypatch, tmp_path):
    monkeypatch.delenv("SPARSEDASH_WORKERS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(local_runner, "NVIDIA", tmp_path / "no-gpus")


def with_gpus(monkeypatch, folder: Path, n: int):
    for number in range(n):
        (folder / "gpus" / f"0000:0{number}:00.0").mkdir(parents=True)
    monkeypatch.setattr(local_runner, "NVIDIA", folder / "gpus")


def test_a_machine_without_gpus_has_one_worker():
    assert n_slots() == 1
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment(0)


def test_a_machine_with_gpus_has_a_worker_on_each(monkeypatch, tmp_path):
    with_gpus(monkeypatch, tmp_path, 2)
    assert n_slots() == 2
    assert [worker_environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["0", "1", "0"]


def test_only_the_gpus_that_were_allowed_are_given_out(monkeypatch, tmp_path):
    with_gpus(monkeypatch, tmp_path, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    assert n_slots() == 2
    assert worker_environment(1)["CUDA_VISIBLE_DEVICES"] == "GPU-abc"


def test_gpus_can_be_forbidden(monkeypatch, tmp_path):
    with_gpus(monkeypatch, tmp_path, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert n_slots() == 1
    assert worker_environment(0)["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(("asked", "n"), [("3", 3), ("0", 0)])
def test_the_number_of_workers_can_be_set(monkeypatch, asked, n):
    monkeypatch.setenv("SPARSEDASH_WORKERS", asked)
    assert n_slots() == n


@pytest.mark.parametrize("asked", ["many", "-1", "1.5", "1000", "9" * 5000, "²", "nan", " "])
def test_a_nonsensical_number_of_workers_is_refused(monkeypatch, asked):
    monkeypatch.setenv("SPARSEDASH_WORKERS", asked)
    with pytest.raises(SettingsError, match="SPARSEDASH_WORKERS"):
        n_slots()


@pytest.mark.parametrize("asked", ["x", "nan", "inf", "-1", "1e999", " "])
def test_a_nonsensical_patience_of_workers_is_refused_before_one_is_started(tmp_path, monkeypatch, asked):
    monkeypatch.setenv("SPARSEDASH_LINGER_S", asked)
    table = JobTable(tmp_path / "jobs.sqlite")
    with pytest.raises(SettingsError, match="SPARSEDASH_LINGER_S"):
        LocalRunner(tmp_path, table)
    table.close()


def test_a_worker_finds_the_package_wherever_the_server_was_started(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    first, *rest = worker_environment(0)["PYTHONPATH"].split(os.pathsep)
    assert (Path(first) / "sparsedash" / "worker.py").is_file()
    assert rest == ["/somewhere"]


class Fixture:
    """A table and a runner whose worker would do nothing but be counted."""

    def __init__(self, folder: Path, n_workers: int, monkeypatch):
        monkeypatch.setenv("SPARSEDASH_WORKERS", str(n_workers))
        self.folder = folder
        self.table = JobTable(folder / "jobs.sqlite")
        self.runner = LocalRunner(folder, self.table, command=["no such program"])
        self.started: list[int] = []
        monkeypatch.setattr(self.runner, "_start", self.started.append)

    def submit(self, *keys: str):
        return [self.table.submit("run", key, {}) for key in keys]

    def run_in_slot(self, job, slot: int):
        locks = hold_lock(job_lock(self.folder, job.id)), hold_lock(slot_lock(self.folder, slot))
        self.table.claim(job.id, f"slot-{slot}", os.getpid())
        return locks


@pytest.fixture
def house(tmp_path, monkeypatch):
    house = Fixture(tmp_path, 3, monkeypatch)
    yield house
    house.table.close()


def test_no_worker_is_started_when_nothing_waits(house):
    house.runner.reconcile()
    assert house.started == []


def test_as_many_workers_are_started_as_jobs_wait(house):
    house.submit("a", "b")
    house.runner.reconcile()
    assert house.started == [0, 1]


def test_no_more_workers_are_started_than_there_are_slots(house):
    house.submit(*"abcdef")
    house.runner.reconcile()
    assert house.started == [0, 1, 2]


def test_an_idle_worker_is_left_to_take_the_job(house):
    house.submit("a")
    with hold_lock(slot_lock(house.folder, 1)):
        house.runner.reconcile()
    assert house.started == []


def test_a_busy_worker_is_not_counted_on(house):
    first, _ = house.submit("a", "b")
    locks = house.run_in_slot(first, 0)
    house.runner.reconcile()
    for lock in locks:
        lock.close()
    assert house.started == [1]


def test_no_worker_is_started_where_none_is_wanted(tmp_path, monkeypatch):
    house = Fixture(tmp_path, 0, monkeypatch)
    (job,) = house.submit("a")
    house.runner.reconcile()
    assert house.started == []
    assert house.table.get(job.id).state == "queued"
    house.table.close()


def test_one_worker_is_started_beforehand_where_work_is_expected(house):
    house.runner.prepare()
    assert house.started == [0]


def test_a_living_worker_is_enough_beforehand(house):
    with hold_lock(slot_lock(house.folder, 1)):
        house.runner.prepare()
    assert house.started == []


def test_none_is_started_beforehand_where_none_is_wanted(tmp_path, monkeypatch):
    house = Fixture(tmp_path, 0, monkeypatch)
    house.runner.prepare()
    assert house.started == []
    house.table.close()


def test_a_held_lock_keeps_a_silent_job_alive(house):
    (job,) = house.submit("a")
    locks = house.run_in_slot(job, 0)
    house.table._database._db.execute("UPDATE jobs SET heartbeat_at = 0, started_at = 0")
    house.runner.reconcile()
    assert house.table.get(job.id).state == "running"
    for lock in locks:
        lock.close()
    house.runner.reconcile()
    assert house.table.get(job.id).state == "crashed"


@pytest.fixture
def signals(house, monkeypatch):
    sent = []
    monkeypatch.setattr(house.runner, "_signal", lambda job, number: sent.append(number))
    return sent


@pytest.fixture
def clock(monkeypatch):
    """Seconds since some moment, as no clock on the wall tells them."""
    now = [1000.0]
    monkeypatch.setattr(local_runner.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("days", [-1, 0, 1])
def test_a_clock_that_is_set_neither_spares_a_stuck_worker_nor_kills_a_healthy_one(house, signals, clock, days):
    (job,) = house.submit("a")
    locks = house.run_in_slot(job, 0)
    house.table.request_cancel(job.id)
    moved = "UPDATE jobs SET cancel_requested_at = cancel_requested_at + ?"
    house.table._database._db.execute(moved, (86_400.0 * days,))
    for moment, expected in ((0.0, []), (4.9, []), (5.1, [signal.SIGTERM]), (10.1, [signal.SIGTERM, signal.SIGKILL])):
        clock[0] = 1000.0 + moment
        house.runner.reconcile()
        assert signals == expected
    for lock in locks:
        lock.close()


def test_a_retried_job_that_is_stopped_again_has_its_time_again(house, signals, clock):
    (job,) = house.submit("a")
    for _ in range(2):
        locks = house.run_in_slot(job, 0)
        house.table.request_cancel(job.id)
        house.runner.reconcile()
        assert signals == []
        for lock in locks:
            lock.close()
        house.runner.reconcile()
        assert house.table.get(job.id).state == "cancelled"
        house.table.retry(job.id)
        clock[0] += 3600.0


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("name", ["logs/slot-0.log", "workers/slot-0.lock", "jobs/1.lock"])
def test_a_pipe_or_a_folder_where_a_file_belongs_is_said_on_the_job(tmp_path, monkeypatch, name, make):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "1")
    (tmp_path / name).parent.mkdir()
    make(tmp_path / name)
    table = JobTable(tmp_path / "jobs.sqlite")
    tending = LocalRunner(tmp_path, table)
    job = table.submit("run", "a", {})
    deadline = time.monotonic() + 60
    while table.get(job.id).live:
        assert time.monotonic() < deadline
        tending.reconcile()
        time.sleep(0.02)
    crashed = table.get(job.id)
    assert crashed.state == "crashed"
    assert f"{tmp_path / name} is a" in crashed.error_text
    for child in tending._children.values():
        child.kill()
        child.wait()
    table.close()


def test_a_worker_that_holds_its_slot_and_takes_no_job_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "1")
    table = JobTable(tmp_path / "jobs.sqlite")
    runner = LocalRunner(tmp_path, table)
    with hold_lock(slot_lock(tmp_path, 0)):
        runner.reconcile()
        assert runner.trouble(0.0) == "", "nothing waits"
        job = table.submit("run", "key", {})
        runner.reconcile()
        assert f"Worker slot-0 (process {os.getpid()}) has taken no job for 0 s: it may hang." in runner.trouble(0.0)
        table.claim(job.id, "slot-0", os.getpid())
        runner.reconcile()
        assert runner.trouble(0.0) == ""
    table.close()


def test_an_idle_worker_ends_after_a_minute(monkeypatch):
    monkeypatch.delenv("SPARSEDASH_LINGER_S", raising=False)
    assert linger_s() == 60.0
