"""The words for what cannot speak for itself any more."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.local_runner import crash_reason, last_log_lines
from sparsedash.schema.errors import StoreError


@pytest.fixture
def job(tmp_path):
    table = JobTable(tmp_path / "jobs.sqlite")
    (tmp_path / "logs").mkdir()
    yield table.claim(table.submit("run", "a", {}).id, "slot-0", 1)
    table.close()


def test_a_job_of_an_earlier_start_of_the_machine_fell_to_the_restart(job):
    text, advice = crash_reason(job, None, restarted=True)
    assert "restarted" in text
    assert "“Try again”" in advice


@pytest.mark.parametrize("days", [-400, -1, 1, 400])
def test_a_clock_that_was_set_is_not_taken_for_a_restart(job, days):
    moved = replace(job, queued_at=job.queued_at + days * 86_400, heartbeat_at=job.heartbeat_at + days * 86_400)
    for restarted in (False, None):
        assert "restarted" not in crash_reason(moved, None, restarted)[0]


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (None, "without a word"),
        (-9, "memory ran out"),
        (-6, "signal 6, aborted"),
        (-11, "signal 11, segmentation fault"),
        (-64, "signal 64"),
        (1, "exit code 1"),
        (0, "exit code 0"),
    ],
)
def test_every_exit_code_has_its_words(job, exit_code, words):
    assert words in crash_reason(job, exit_code)[0]


def test_the_last_line_of_the_log_is_quoted(job, tmp_path):
    (tmp_path / "logs/1.log").write_text("first\nlast words\n")
    assert 'ends with "last words"' in crash_reason(job, 1)[1]


def test_a_missing_log_is_empty(tmp_path):
    assert last_log_lines(tmp_path / "none.log", 3) == []


def test_of_a_progress_bar_only_its_last_state_is_shown(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(b"begin\r\n 10%\r 50%\r100%\r\nend\n")
    assert last_log_lines(path, 9) == ["begin", "100%", "end"]


def test_only_the_end_of_a_huge_log_is_read(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * 10_000_000 + b"\n\xff bytes\nend\n")
    assert last_log_lines(path, 2) == ["\ufffd bytes", "end"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_log_is_said_and_not_waited_for(job, make):
    make(job.log_path)
    with pytest.raises(StoreError, match=r"1\.log is a .*: a file of this program belongs there"):
        last_log_lines(Path(job.log_path), 3)
    assert "1.log is a" in crash_reason(job, 1)[1]
