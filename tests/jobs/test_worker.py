"""What a worker says of errors. What it does is in tests/faults."""

import errno
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparsedash import worker
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.errors import ModelError, StoreError
from sparsedash.storage.store import claim_data_folder
from sparsedash.worker import describe_error, main


def test_a_worker_without_a_job_loads_the_engine_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_LINGER_S", "0.3")
    loaded = []
    assert main(["--data-dir", str(tmp_path)], load=lambda: loaded.append(1) or {}) == 0
    assert loaded == [1]


def test_a_worker_of_an_earlier_version_leaves_the_queue_to_a_new_one(
    tmp_path, monkeypatch
):
    claim_data_folder(tmp_path)
    table = JobTable(tmp_path / "jobs.sqlite")
    written = iter([1, 2])
    job = table.submit("run", "a", {})
    monkeypatch.setattr(worker, "_program_written_at", lambda: next(written))
    monkeypatch.setenv("SPARSEDASH_LINGER_S", "60")
    assert main(["--data-dir", str(tmp_path)], load=dict) == 0
    assert table.get(job.id).state == "queued"
    table.close()


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


@pytest.mark.parametrize(
    ("error", "text", "advice"),
    [
        (ModelError("No such model.", "Check it."), "No such model.", "Check it."),
        (MemoryError(), "Memory ran out.", "smaller model"),
        (OutOfMemoryError("CUDA out of memory"), "Memory ran out.", "smaller model"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "Memory ran out.",
            "bfloat16",
        ),
        (
            ModuleNotFoundError("x", name="torch"),
            "The package torch is not installed.",
            "pip",
        ),
        (OSError(errno.ENOSPC, "No space left"), "The disk is full.", "“Resume”"),
        (
            ValueError("sent Bearer 0123456789abcdef"),
            "ValueError: sent Bearer [hidden]",
            "The log has the details",
        ),
        (ValueError(), "ValueError: ValueError", "The log has the details"),
    ],
)
def test_every_error_has_words_and_advice(error, text, advice):
    description = describe_error(error)
    assert description[0] == text
    assert advice in description[1]


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("find", "smaller model, bfloat16 or less calibration text. Finished"),
        ("export", "Free some memory. Nothing"),
    ],
)
def test_memory_that_ran_out_is_advised_on_by_the_kind_of_the_job(kind, advice):
    description = describe_error(MemoryError(), SimpleNamespace(kind=kind))
    assert description[0] == "Memory ran out." and advice in description[1]


def full(error):
    try:
        raise StoreError("The data folder could not be written.", "See.") from error
    except StoreError as raised:
        return raised


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        sqlite3.OperationalError("database or disk is full"),
        RuntimeError(
            'Error while serializing: IoError(Os { code: 28, message: "No space left on device" })'
        ),
        full(sqlite3.OperationalError("database or disk is full")),
        full(OSError(errno.EDQUOT, "Disk quota exceeded")),
    ],
)
def test_a_full_disk_is_told_with_the_folder_and_what_is_free(error, tmp_path):
    text, advice = describe_error(error, None, tmp_path)
    assert re.search(rf"[\d,]+ MB are free for {tmp_path}", text)
    assert advice.startswith("Free some space. Finished models are kept")
    elsewhere = OSError(errno.ENOSPC, "No space left", str(tmp_path / "file"))
    assert f"free for {tmp_path}" in describe_error(elsewhere, None, Path("/"))[0]


def test_a_worker_with_a_nonsensical_variable_says_so_in_one_line(tmp_path):
    command = [sys.executable, "-m", "sparsedash.worker", "--data-dir", str(tmp_path)]
    environment = os.environ | {"SPARSEDASH_LINGER_S": "nan"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "SPARSEDASH_LINGER_S must be" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
