"""How often progress is written, what rate is shown, and when work is stopped."""

import os
import signal

import pytest

from sparsedash.jobs.reporter import Reporter, StopFlag
from sparsedash.schema.errors import Cancelled, StoreError
from sparsedash.schema.progress import Step


@pytest.fixture
def job(table):
    return table.claim(table.submit("run", "a", {}).id, "slot-0", os.getpid())


@pytest.fixture
def reporter(table, job, clock):
    return Reporter(table, job, StopFlag(), clock)


def test_steps_within_a_fifth_of_a_second_are_not_written_and_texts_go_along_with_the_next(
    table, job, clock, reporter
):
    seen = []
    for clock.now, done, texts in (
        (0.0, 1, ("one", "half \ud83d")),
        (0.15, 2, ("one two", "")),
        (0.26, 3, ("three",)),
    ):
        reporter.wrote(*texts)
        reporter(Step("continue", done, 10))
        progress = table.get(job.id).progress
        seen.append((progress.done, progress.texts))
    assert seen == [(1, ("one", "half ?")), (1, ("one", "half ?")), (3, ("three",))]


def test_rate_time_and_log_line_are_of_each_stage_and_sparse_model(
    table, job, clock, reporter, caplog
):
    caplog.set_level("INFO")
    one = ("evaluate", None)
    two = ("evaluate", 0)
    rates = []
    for clock.now, (stage, point), done in (
        (0, one, 0),
        (1, one, 50),
        (7.5, two, 0),
        (8.5, two, 50),
        (9, ("prune", 0), 0),
    ):
        reporter(Step(stage, done, 100, point=point))
        rates.append(table.get(job.id).progress.rate)
    assert rates == [None, 50.0, None, 50.0, None]
    stage_times = table.get(job.id).progress.stage_times
    assert stage_times == (
        ("evaluate", None, 7.5),
        ("evaluate", 0, 1.5),
        ("prune", 0, 0.0),
    )
    messages = [record.message for record in caplog.records]
    assert messages == [
        "Evaluating.",
        "Evaluating, sparse model 1.",
        "Pruning, sparse model 1.",
    ]


def test_a_new_stage_is_written_at_once_and_nothing_of_the_one_before_is_left(
    table, job, reporter
):
    reporter(
        Step(
            "evaluate",
            20,
            100,
            unit="passages",
            message="20 % sparse",
            n_right=7,
            point=3,
        )
    )
    seen = table.get(job.id).progress
    assert (seen.done, seen.total, seen.n_right, seen.point) == (20, 100, 7, 3)
    reporter(Step("prune", 0, 4, unit="blocks"))
    seen = table.get(job.id).progress
    assert (
        seen.stage,
        seen.total,
        seen.unit,
        seen.message,
        seen.n_right,
        seen.point,
    ) == (
        *("prune", 4, "blocks"),
        *("", None, None),
    )


def test_the_rate_is_of_the_last_half_minute_and_a_step_back_begins_a_new_one(
    table, job, clock, reporter
):
    rates = {}
    done = [*range(1000, 1101), *range(1105, 1300, 5), 0, 4, 4, 4]
    for second, n in enumerate(done):
        clock.now = float(second)
        reporter(Step("calibrate", n, 2000))
        rates[second] = table.get(job.id).progress.rate
    assert [rates[second] for second in (0, 100, 139, 140, 141)] == [
        None,
        1.0,
        5.0,
        None,
        4.0,
    ]


def test_work_that_is_cancelled_signalled_or_given_to_another_attempt_stops_at_its_next_written_step(
    table, job, clock
):
    stop = StopFlag()
    reporter = Reporter(table, job, stop, clock)
    reporter(Step("calibrate", 1, 10))
    table.request_cancel(job.id)
    clock.now = 1.0
    with pytest.raises(Cancelled):
        reporter(Step("calibrate", 2, 10))
    table.end(job, "crashed")
    second = table.claim(table.retry(job.id).id, "slot-0", 1)
    with pytest.raises(Cancelled):
        Reporter(table, job, stop, clock)(Step("calibrate", 2, 10))
    reporter = Reporter(table, second, stop, clock)
    reporter(Step("calibrate", 2, 10))
    stop.requested = True
    with pytest.raises(Cancelled):
        reporter(Step("calibrate", 2, 10))


def test_a_table_that_cannot_be_written_does_not_stop_the_work(
    table, job, clock, caplog
):
    class FullDisk:
        def report(self, job, step):
            raise StoreError("The disk is full.")

    Reporter(FullDisk(), job, StopFlag(), clock)(Step("calibrate", 1, 10))
    assert "The disk is full" in caplog.text


def test_a_signal_interrupts_the_work_once_and_waits_for_the_end_of_a_table_write():
    stop = StopFlag()
    with pytest.raises(Cancelled), stop.raising():
        stop.on_signal(signal.SIGTERM, None)
    stop.on_signal(signal.SIGTERM, None)
    with pytest.raises(Cancelled), stop.raising():
        raise AssertionError("the work was begun all the same")
    writing = StopFlag()
    with writing.raising(), writing.holding_back():
        writing.on_signal(signal.SIGTERM, None)
    assert writing.requested
