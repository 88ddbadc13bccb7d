"""Stop means stop: politely, then firmly, then by force, and never the wrong one."""

import os
import signal
import time

import pytest

pytestmark = pytest.mark.faults


def test_a_stepping_job_stops_by_itself_its_worker_takes_the_next_and_a_retry_finishes_it(
    house,
):
    job = house.at_work("steady")
    house.table.request_cancel(job.id)
    cancelled = house.tend_until_state(job, "cancelled")
    assert cancelled.error_text == "Stopped on request."
    assert house.tend_until_state(house.submit("quick"), "done").pid == job.pid
    house.release()
    house.table.retry(job.id)
    assert house.tend_until_state(job, "done").cancel_requested_at is None


@pytest.mark.parametrize(
    ("model", "stage", "term_after_s", "kill_after_s", "told"),
    [
        ("deaf", "prune", 0.0, 1e9, "Stopped on request."),
        ("stubborn", "prune", 0.0, 0.3, "by ending its worker"),
        ("steady", "calibrate", 0.1, 0.3, "by ending its worker"),
    ],
    ids=["takes no steps", "swallows the first signal", "is frozen"],
)
def test_a_job_that_does_not_stop_by_itself_is_ended_and_the_queue_moves_on(
    house, model, stage, term_after_s, kill_after_s, told
):
    house.runner = house.new_runner(
        term_after_s=term_after_s, kill_after_s=kill_after_s
    )
    job = house.at_work(model, stage)
    waiting = house.submit("quick")
    if model == "steady":
        os.kill(job.pid, signal.SIGSTOP)
    house.table.request_cancel(job.id)
    assert told in house.tend_until_state(job, "cancelled").error_text
    house.tend_until_state(waiting, "done")


@pytest.mark.parametrize(
    "delay_s",
    [0.1, *(pytest.param(s, marks=pytest.mark.long) for s in (0.0, 0.2, 0.4))],
)
def test_a_cancel_at_any_moment_ends_in_cancelled_or_done(house, delay_s):
    house.runner = house.new_runner(term_after_s=0.05, kill_after_s=0.2)
    first = house.submit("quick-1")
    second = house.submit("quick-2")
    house.runner.reconcile()
    time.sleep(delay_s)
    house.table.request_cancel(first.id)
    house.tend_until_state(first, "cancelled", "done")
    house.tend_until_state(second, "done")
