"""A scheduler that is dead, wrong or refused is said in words, and runs are done here."""

import contextlib
import os
import subprocess
import sys

import psutil
import pytest

from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service.backend import Backend
from tests.dask_house import ROOT, eventually, free_port
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny import save_tiny


@pytest.fixture
def backend_with(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "1")
    opened = []

    def backend(address):
        monkeypatch.setenv("SPARSEDASH_SCHEDULER", address)
        opened.append(Backend(tmp_path / "data"))
        return opened[-1]

    yield backend
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if str(tmp_path) in " ".join(process.cmdline()):
                process.kill()
                process.wait()
    for backend in opened:
        backend.close()


def test_without_one_there_is_no_cluster(backend_with):
    assert backend_with("").cluster() is None


def test_one_that_must_not_be_asked_is_not_and_the_reason_is_shown(backend_with):
    backend = backend_with("tcp://10.1.2.3:8786")
    assert "runs code on every machine" in backend.cluster().trouble
    assert backend.cluster().address == "tcp://10.1.2.3:8786"


def test_while_a_scheduler_is_dead_runs_are_done_here(backend_with, tmp_path):
    backend = backend_with(f"tcp://127.0.0.1:{free_port()}")
    text = f"file:{write_jsonl(tmp_path / 'passages.jsonl', passages(60))}"
    settings = RunSettings(
        model=str(save_tiny(tmp_path / "tiny")),
        methods=(MethodSettings(width_multiple=8),),
        sparsities_permille=(250,),
        calibration=CalibrationSettings(corpus=text, n_samples=64, length=32),
        evaluation=EvaluationSettings(corpus=text, n_passages=4),
    )
    job = backend.submit(settings)
    eventually(lambda: not backend.job(job.id).live)
    done = backend.job(job.id)
    assert (done.state, done.worker) == ("done", "slot-0"), done.error_text
    # It is asked in a thread of its own, which may wait longer for an answer than the run took.
    eventually(lambda: "No scheduler answers at tcp://127.0.0.1" in backend.cluster().trouble)


def test_where_none_is_named_dask_is_not_even_imported(tmp_path):
    program = (
        "import sys; from pathlib import Path; from sparsedash.service.backend import Backend\n"
        f"backend = Backend(Path({str(tmp_path / 'data')!r})); backend.reconcile(); backend.close()\n"
        "print('distributed' in sys.modules)"
    )
    known = {**os.environ, "SPARSEDASH_SCHEDULER": "", "SPARSEDASH_WORKERS": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=known, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
