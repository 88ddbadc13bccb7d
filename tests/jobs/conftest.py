"""A backend whose real worker is killed at the end, and a tiny model with its text."""

import contextlib
import time

import psutil
import pytest

from sparsedash.jobs.job_table import JobTable
from sparsedash.service.backend import Backend
from tests.engine.conftest import passages, write_jsonl

DEADLINE_S = 240.0


@pytest.fixture
def table(tmp_path):
    table = JobTable(tmp_path / "jobs.sqlite")
    yield table
    table.close()


@pytest.fixture
def backend(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "1")
    backend = Backend(tmp_path / "data")
    yield backend
    end_workers(backend)
    backend.close()


def workers(backend):
    children = [
        p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE
    ]
    return [
        p
        for p in children
        if {"sparsedash.worker", str(backend.data_dir)} <= set(p.cmdline())
    ]


def end_workers(backend):
    """They outlive the backend that started them, on purpose."""
    for process in workers(backend):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            process.wait()


def ended(backend, job):
    deadline = time.monotonic() + DEADLINE_S
    while (seen := backend.job(job.id)).live:
        assert time.monotonic() < deadline, backend.log_tail(job.id)
        time.sleep(0.02)
    return seen


@pytest.fixture
def text(tmp_path):
    return f"file:{write_jsonl(tmp_path / 'passages.jsonl', passages(60))}"
