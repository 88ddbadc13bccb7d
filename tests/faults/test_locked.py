"""What another process keeps locked is waited for by those who work, and told by those who are asked."""

import os
import signal
import sqlite3
import threading
import time
from contextlib import contextmanager

import psutil
import pytest

from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.lock_files import is_lock_held, job_lock, slot_lock
from sparsedash.schema.errors import StoreError

pytestmark = pytest.mark.faults

LOCKED_S = 1.5


@contextmanager
def locked(house):
    db = sqlite3.connect(house.folder / "jobs.sqlite", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
        db.close()


def tend_for(house, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        house.runner.reconcile()
        time.sleep(0.02)


def test_a_job_waits_for_the_table_at_its_start(house):
    job = house.submit("quick")
    with locked(house):
        tend_for(house, LOCKED_S)
        assert house.table.get(job.id).state == "queued"
    assert house.tend_until_state(job, "done").attempt == 1
    assert len(house.ledger()) == 1


def test_a_job_goes_on_while_the_table_is_locked_in_its_middle(house):
    job = house.tend_until_stage(house.submit("steady"), "calibrate")
    with locked(house):
        tend_for(house, LOCKED_S)
        assert house.table.get(job.id).state == "running"
    before = house.table.get(job.id).progress.done
    house.tend_until(lambda: house.table.get(job.id).progress.done > before)
    house.release()
    house.tend_until_state(job, "done")


def test_a_job_waits_for_the_table_at_its_end(house):
    job = house.tend_until_stage(house.submit("steady"), "calibrate")
    with locked(house):
        house.release()
        tend_for(house, LOCKED_S + 1.0)
        assert house.table.get(job.id).state == "running"
    done = house.tend_until_state(job, "done", "crashed", "failed")
    assert (done.state, done.error_text) == ("done", "")


def test_a_worker_whose_patience_is_over_says_why(house, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_PATIENCE_S", "0.2")
    job = house.tend_until_stage(house.submit("steady"), "calibrate")
    with locked(house):
        house.release()
        eventually_gone(job.pid, house)
    crashed = house.tend_until_state(job, "crashed")
    assert "exit code 1" in crashed.error_text
    assert "locked by another process" in crashed.error_advice


def eventually_gone(pid, house):
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_worker_that_waits_can_be_killed_and_lets_go_of_its_locks(house):
    job = house.tend_until_stage(house.submit("steady"), "calibrate")
    with locked(house):
        house.release()
        time.sleep(LOCKED_S)
        assert is_lock_held(job_lock(house.folder, job.id))
        os.kill(job.pid, signal.SIGKILL)
        eventually_gone(job.pid, house)
        assert not is_lock_held(job_lock(house.folder, job.id))
        assert not is_lock_held(slot_lock(house.folder, 0))
    assert "signal 9" in house.tend_until_state(job, "crashed").error_text


def test_a_table_that_is_locked_can_be_opened_and_read_and_says_so_when_it_is_written(house):
    job = house.submit("quick")
    with locked(house):
        table = JobTable(house.folder / "jobs.sqlite", patience_s=0.2)
        assert table.get(job.id) == job
        with pytest.raises(StoreError, match="locked by another process"):
            table.request_cancel(job.id)
        table.close()


def test_others_read_while_one_thread_waits_to_write(house):
    job = house.submit("quick")
    with locked(house):
        waiting = threading.Thread(target=house.table.request_cancel, args=(job.id,))
        waiting.start()
        time.sleep(0.2)
        assert house.table.get(job.id) == job
        assert waiting.is_alive()
    waiting.join()
