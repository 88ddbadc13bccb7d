"""Stop means stop: politely, then firmly, then by force, and never the wrong one."""

import os
import signal
import time

import pytest

from sparsedash.jobs.lock_files import is_lock_held, job_lock

pytestmark = pytest.mark.faults


def test_a_stepping_job_stops_by_itself_and_its_worker_takes_the_next(house):
    job = house.tend_until_stage(house.submit("steady"), "calibrate")
    house.table.request_cancel(job.id)
    cancelled = house.tend_until_state(job, "cancelled")
    assert cancelled.error_text == "Stopped on request."
    assert house.tend_until_state(house.submit("quick"), "done").pid == job.pid


def test_a_job_that_takes_no_steps_is_ended_by_the_first_signal(house):
    house.runner = house.new_runner(term_after_s=0.0, kill_after_s=1e9)
    job = house.tend_until_stage(house.submit("deaf"), "prune")
    house.table.request_cancel(job.id)
    assert house.tend_until_state(job, "cancelled").error_text == "Stopped on request."


def test_a_job_that_swallows_the_first_signal_is_killed(house):
    house.runner = house.new_runner(term_after_s=0.0, kill_after_s=0.3)
    job = house.tend_until_stage(house.submit("stubborn"), "prune")
    house.table.request_cancel(job.id)
    cancelled = house.tend_until_state(job, "cancelled")
    assert "by ending its worker" in cancelled.error_text


def test_a_frozen_worker_is_killed_and_the_queue_moves_on(house):
    house.runner = house.new_runner(term_after_s=0.1, kill_after_s=0.3)
    job = house.tend_until_stage(house.submit("steady"), "calibrate")
    waiting = house.submit("quick")
    os.kill(job.pid, signal.SIGSTOP)
    house.table.request_cancel(job.id)
    assert "by ending its worker" in house.tend_until_state(job, "cancelled").error_text
    assert house.tend_until_state(waiting, "done").pid != job.pid


def test_no_signal_is_sent_before_its_time(house):
    house.runner = house.new_runner(term_after_s=1e9, kill_after_s=1e9)
    job = house.tend_until_stage(house.submit("deaf"), "prune")
    house.table.request_cancel(job.id)
    for _ in range(20):
        house.runner.reconcile()
    assert house.table.get(job.id).state == "running"
    assert is_lock_held(job_lock(house.folder, job.id))


def test_a_cancelled_job_can_be_retried(house):
    job = house.tend_until_stage(house.submit("steady"), "calibrate")
    house.table.request_cancel(job.id)
    house.tend_until_state(job, "cancelled")
    house.release()
    house.table.retry(job.id)
    assert house.tend_until_state(job, "done").cancel_requested_at is None


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.2, 0.4])
def test_a_cancel_at_any_moment_ends_in_cancelled_or_done(house, delay_s):
    house.runner = house.new_runner(term_after_s=0.05, kill_after_s=0.2)
    first, second = house.submit("quick-1"), house.submit("quick-2")
    house.runner.reconcile()
    time.sleep(delay_s)
    house.table.request_cancel(first.id)
    house.tend_until_state(first, "cancelled", "done")
    house.tend_until_state(second, "done")
