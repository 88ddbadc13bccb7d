"""The real worker with the real engine on a tiny model: the border between the two halves holds."""

import contextlib
import time

import psutil
import pytest

from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_settings import ContinuationSettings
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service.backend import Backend
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny import save_tiny

DEADLINE_S = 120.0


@pytest.fixture
def backend(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "1")
    backend = Backend(tmp_path / "data")
    yield backend
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if str(backend.data_dir) in process.cmdline():
                process.kill()
                process.wait()
    backend.close()


def ended(backend, job):
    deadline = time.monotonic() + DEADLINE_S
    while backend.job(job.id).live:
        assert time.monotonic() < deadline, backend.log_tail(job.id)
        time.sleep(0.05)
    return backend.job(job.id)


def test_a_run_and_then_a_prompt_go_through_one_worker(backend, tmp_path):
    text = f"file:{write_jsonl(tmp_path / 'passages.jsonl', passages(60))}"
    settings = RunSettings(
        model=str(save_tiny(tmp_path / "tiny")),
        methods=(MethodSettings(width_multiple=8),),
        sparsities_permille=(250, 500),
        calibration=CalibrationSettings(corpus=text, n_samples=64, length=32),
        evaluation=EvaluationSettings(corpus=text, n_passages=6),
    )
    job = ended(backend, backend.submit(settings))
    assert job.state == "done", f"{job.error_text}\n{backend.log_tail(job.id)}"
    run = backend.run(job.key)
    assert run.finished
    assert [len(backend.record(key).outcomes) for key in (run.dense, *run.sparse)] == [6, 6, 6]
    assert backend.cached(settings).sparse == 2
    assert backend.preflight(settings).duration.total_s == 0
    assert backend.submit(settings).id == job.id

    prompt = ContinuationSettings(left=run.dense, right=run.sparse[1], prompt="the lamp and the", n_tokens=3)
    answered = ended(backend, backend.submit_continuation(prompt))
    assert answered.state == "done", f"{answered.error_text}\n{backend.log_tail(answered.id)}"
    assert answered.pid == job.pid
    assert backend.continuation(prompt.key()).prompt == "the lamp and the"
