"""Workers: their number and environment, locks, and the words for their ends. What they do is in
tests/faults.
"""

import errno
import os
import signal
from pathlib import Path

import pytest

from sparsedash.jobs import local_runner
from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.local_runner import (
    LocalRunner,
    crash_reason,
    linger_s,
    log_tail,
    n_slots,
    worker_environment,
)
from sparsedash.jobs.lock_files import hold_lock, is_lock_held, job_lock, slot_lock
from sparsedash.schema.errors import SettingsError, StoreError


@pytest.fixture(autouse=True)
def gpus(monkeypatch, tmp_path):
    """Gives the machine so many; it has none at first."""
    for name in ("SPARSEDASH_WORKERS", "SPARSEDASH_LINGER_S", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(local_runner, "NVIDIA", tmp_path / "gpus")
    return lambda n: [
        (tmp_path / "gpus" / str(number)).mkdir(parents=True) for number in range(n)
    ]


@pytest.mark.parametrize(
    ("n_gpus", "visible", "given"),
    [
        *(
            (0, None, [None]),
            (2, None, ["0", "1"]),
            (4, "2,GPU-abc", ["2", "GPU-abc"]),
            (4, "", [""]),
        ),
        *((4, "-1", ["-1"]), (4, "3, -1,2", ["3"])),
    ],
)
def test_there_is_a_worker_on_each_gpu_that_may_be_used_or_one(
    monkeypatch, gpus, n_gpus, visible, given
):
    gpus(n_gpus)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert n_slots() == len(given)
    devices = [
        worker_environment(slot).get("CUDA_VISIBLE_DEVICES")
        for slot in range(len(given) + 1)
    ]
    assert devices == [*given, given[0]]


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("SPARSEDASH_WORKERS", ["many", "-1", "1.5", "1000", "9" * 5000, "²"]),
        ("SPARSEDASH_LINGER_S", ["x", "nan", "inf", "-1"]),
    ],
)
def test_a_nonsensical_variable_is_refused_before_a_worker_is_started(
    monkeypatch, tmp_path, table, name, refused
):
    assert linger_s() == 60.0
    for value in refused:
        monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError, match=name):
            LocalRunner(tmp_path, table)


def test_a_worker_finds_the_package_wherever_the_server_was_started(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    first, *paths = worker_environment(0)["PYTHONPATH"].split(os.pathsep)
    assert (Path(first) / "sparsedash" / "worker.py").is_file()
    assert paths == ["/somewhere"]


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
        locks = (
            hold_lock(job_lock(self.folder, job.id)),
            hold_lock(slot_lock(self.folder, slot)),
        )
        self.table.claim(job.id, f"slot-{slot}", os.getpid())
        return locks


@pytest.fixture
def house(tmp_path, monkeypatch):
    house = Fixture(tmp_path, 3, monkeypatch)
    yield house
    house.table.close()


@pytest.mark.parametrize(
    ("keys", "started"), [("", []), ("ab", [0, 1]), ("abcdef", [0, 1, 2])]
)
def test_as_many_workers_are_started_as_jobs_wait_up_to_the_slots(house, keys, started):
    house.submit(*keys)
    house.runner.reconcile()
    assert house.started == started


def test_an_idle_worker_is_left_to_take_the_job_and_is_enough_beforehand_and_a_busy_one_is_not_counted_on(
    house,
):
    house.runner.prepare()
    assert house.started == [0], "one is started beforehand where work is expected"
    (job,) = house.submit("a")
    with hold_lock(slot_lock(house.folder, 1)):
        house.runner.reconcile()
        house.runner.prepare()
        assert house.started == [0]
    house.submit("b")
    locks = house.run_in_slot(job, 0)
    house.runner.reconcile()
    assert house.started == [0, 1]
    for lock in locks:
        lock.close()


def test_no_worker_is_started_where_none_is_wanted(tmp_path, monkeypatch):
    house = Fixture(tmp_path, 0, monkeypatch)
    (job,) = house.submit("a")
    house.runner.reconcile()
    house.runner.prepare()
    assert (house.started, house.table.get(job.id).state) == ([], "queued")
    house.table.close()


def test_a_held_lock_keeps_a_silent_job_alive_and_one_that_cannot_be_opened_crashes_its_job_alone(
    house,
):
    bad, job, waits = house.submit("bad", "a", "b")
    job_lock(house.folder, bad.id).mkdir(parents=True)
    house.table.claim(bad.id, "slot-0", 1)
    locks = house.run_in_slot(job, 0)
    house.table._database._db.execute(
        "UPDATE jobs SET heartbeat_at = 0, started_at = 0"
    )
    house.runner.reconcile()
    assert [house.table.get(queued.id).state for queued in (bad, job, waits)] == [
        "crashed",
        "running",
        "queued",
    ]
    for lock in locks:
        lock.close()
    house.runner.reconcile()
    assert house.table.get(job.id).state == "crashed"


def test_a_stuck_worker_is_signalled_in_time_and_a_retried_job_has_its_time_again(
    house, monkeypatch
):
    sent = []
    (job,) = house.submit("a")
    monkeypatch.setattr(
        house.runner, "_signal", lambda job, number: sent.append(number)
    )
    for _ in range(2):
        locks = house.run_in_slot(job, 0)
        house.table.request_cancel(job.id)
        for seconds, expected in (
            (0.0, []),
            (4.5, []),
            (0.6, [signal.SIGTERM]),
            (5.0, [signal.SIGKILL]),
        ):
            for key in house.runner._stopping:
                house.runner._stopping[key] -= seconds
            house.runner.reconcile()
            assert sent == expected
            sent.clear()
        for lock in locks:
            lock.close()
        house.runner.reconcile()
        assert house.table.get(job.id).state == "cancelled"
        house.table.retry(job.id)


def test_a_lock_that_cannot_be_opened_for_a_moment_ends_no_job(house, monkeypatch):
    (job,) = house.submit("a")
    locks = house.run_in_slot(job, 0)

    def busy(path):
        raise StoreError(f"{path} cannot be opened.") from OSError(
            errno.EMFILE, "Too many open files"
        )

    with monkeypatch.context() as patched:
        patched.setattr(local_runner, "is_lock_held", busy)
        house.runner.reconcile()
    assert house.table.get(job.id).state == "running"
    for lock in locks:
        lock.close()


def test_a_lock_has_one_holder(tmp_path):
    path = tmp_path / "jobs" / "1.lock"
    assert not is_lock_held(path), "it was never taken"
    with hold_lock(path):
        assert is_lock_held(path)
        assert hold_lock(path, wait_s=0.0) is None
    assert not is_lock_held(path)


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (None, "worker process died"),
        (-9, "memory ran out"),
        (-11, "signal 11, segmentation fault"),
        (-64, "signal 64"),
        (1, "exit code 1"),
    ],
)
def test_every_exit_code_has_its_words_and_the_last_line_of_the_log_is_quoted(
    table, tmp_path, exit_code, words
):
    job = table.submit("run", "a", {})
    assert words in crash_reason(job, exit_code)[0]
    log = Path(job.log_path)
    log.parent.mkdir()
    log.write_text("first\nlast words\n")
    assert ('ends with "last words"' in crash_reason(job, exit_code)[1]) == (
        exit_code not in (None, -9)
    )
    log.unlink()
    log.mkdir()
    assert (
        exit_code in (None, -9)
        or "1.log cannot be opened: Is a directory" in crash_reason(job, exit_code)[1]
    )


@pytest.mark.parametrize(
    ("log", "tail"),
    [
        (b"", ""),
        (b"begin\r\n 10%\r 50%\r100%\r\nend\n", "begin\n100%\nend"),
        (b"x" * 100_000 + b"\none\n\xff bytes\nend\n", "one\n\ufffd bytes\nend"),
    ],
    ids=["empty", "a progress bar", "long"],
)
def test_the_last_lines_of_a_log_are_read_and_of_a_progress_bar_its_last_state(
    tmp_path, log, tail
):
    path = tmp_path / "a.log"
    assert log_tail(path, 3) == ""
    path.write_bytes(log)
    assert log_tail(path, 3) == tail
