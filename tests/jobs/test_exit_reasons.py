"""The words for what cannot speak for itself any more."""

import time
from dataclasses import replace

import pytest

from sparsedash.jobs.exit_reasons import last_lines, why_gone
from sparsedash.jobs.table import JobTable


@pytest.fixture
def job(tmp_path):
    table = JobTable(tmp_path / "jobs.sqlite")
    (tmp_path / "logs").mkdir()
    yield table.claim(table.submit("run", "a", {}).id, "slot-0", 1)
    table.close()


def test_a_job_last_seen_before_the_machine_started_fell_to_the_restart(job):
    long_ago = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC) - 1e7
    text, advice = why_gone(replace(job, heartbeat_at=long_ago), None)
    assert "restarted" in text
    assert "retry" in advice


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
    assert words in why_gone(job, exit_code)[0]


def test_the_last_line_of_the_log_is_quoted(job, tmp_path):
    (tmp_path / "logs/1.log").write_text("first\nlast words\n")
    assert 'ends with "last words"' in why_gone(job, 1)[1]


def test_a_missing_log_is_empty(tmp_path):
    assert last_lines(tmp_path / "none.log", 3) == []


def test_of_a_progress_bar_only_its_last_state_is_shown(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(b"begin\r\n 10%\r 50%\r100%\r\nend\n")
    assert last_lines(path, 9) == ["begin", "100%", "end"]


def test_only_the_end_of_a_huge_log_is_read(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * 10_000_000 + b"\n\xff bytes\nend\n")
    assert last_lines(path, 2) == ["\ufffd bytes", "end"]
