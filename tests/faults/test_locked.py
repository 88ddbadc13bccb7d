"""What another process keeps locked is waited for by those who work, and told by those who are
asked.
"""

import os
import signal
import sqlite3
import threading
import time
from contextlib import contextmanager

import pytest

from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.lock_files import is_lock_held, job_lock, slot_lock
from sparsedash.schema.errors import StoreError
from tests.faults.server_process import eventually, gone

pytestmark = pytest.mark.faults

LOCKED_S = 0.8
for_how_long = pytest.mark.parametrize(
    "seconds", [LOCKED_S, pytest.param(90.0, marks=pytest.mark.long)]
)


@contextmanager
def locked_file(path):
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
        db.close()


def locked(house):
    return locked_file(house.folder / "jobs.sqlite")


def tend_for(house, job, seconds, state):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        house.runner.reconcile()
        assert house.table.get(job.id).state == state
        time.sleep(0.02)


@for_how_long
def test_a_job_waits_for_the_table_at_its_start_in_its_middle_and_at_its_end(
    house, seconds
):
    job = house.submit("steady")
    with locked(house):
        tend_for(house, job, seconds, "queued")
    house.tend_until(lambda: house.table.get(job.id).progress.stage == "calibrate")
    with locked(house):
        tend_for(house, job, seconds, "running")
    before = house.table.get(job.id).progress.done
    house.tend_until(lambda: house.table.get(job.id).progress.done > before)
    with locked(house):
        house.release()
        tend_for(house, job, seconds, "running")
    done = house.tend_until_state(job, "done", "crashed", "failed")
    assert (done.state, done.error_text, done.attempt) == ("done", "", 1)
    assert len(house.ledger()) == 1


def test_a_worker_whose_patience_is_over_says_why(house, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_PATIENCE_S", "0.2")
    job = house.at_work("steady")
    with locked(house):
        house.release()
        eventually(lambda: gone(job.pid))
    crashed = house.tend_until_state(job, "crashed")
    assert "exit code 1" in crashed.error_text
    assert "locked by another process" in crashed.error_advice


def test_a_worker_that_waits_can_be_killed_and_lets_go_of_its_locks(house):
    job = house.at_work("steady")
    with locked(house):
        house.release()
        time.sleep(LOCKED_S)
        assert is_lock_held(job_lock(house.folder, job.id))
        os.kill(job.pid, signal.SIGKILL)
        eventually(lambda: gone(job.pid))
        assert not is_lock_held(job_lock(house.folder, job.id))
        assert not is_lock_held(slot_lock(house.folder, 0))
    assert "signal 9" in house.tend_until_state(job, "crashed").error_text


def test_a_locked_table_is_read_while_others_wait_to_write_and_says_so_to_who_does_not_wait(
    house,
):
    job = house.submit("quick")
    with locked(house):
        table = JobTable(house.folder / "jobs.sqlite", lock_timeout_s=0.2)
        waiting = threading.Thread(target=house.table.request_cancel, args=(job.id,))
        waiting.start()
        with pytest.raises(StoreError, match="locked by another process"):
            table.request_cancel(job.id)
        assert table.get(job.id) == house.table.get(job.id) == job
        table.close()
        assert waiting.is_alive()
    waiting.join()
