"""The real worker with the real engine on a tiny model: the border between the two halves holds."""

import contextlib
import time

import psutil
import pytest

from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import ContinuationSettings, TimingSettings
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


def test_a_run_a_prompt_and_a_timing_that_is_killed_and_tried_again_go_through_workers(backend, tmp_path):
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
    answered = ended(backend, backend.submit(prompt))
    assert answered.state == "done", f"{answered.error_text}\n{backend.log_tail(answered.id)}"
    assert answered.pid == job.pid
    assert backend.continuation(prompt.key()).prompt == "the lamp and the"

    timed = TimingSettings(
        dense=run.dense, sparse=run.sparse[1], n_prompt=8, n_decode=2, batches=(1,), least_rounds=1000, most_s=3
    )
    killed = backend.submit(timed)
    until(lambda: backend.job(killed.id).progress.stage == "time" or not backend.job(killed.id).live)
    psutil.Process(backend.job(killed.id).pid).kill()
    assert ended(backend, killed).state == "crashed"
    assert backend.timing(timed.key()) is None
    again = ended(backend, backend.retry(killed.id))
    assert again.state == "done", f"{again.error_text}\n{backend.log_tail(again.id)}"
    assert [phase.phase for phase in backend.timing(timed.key()).phases] == ["prefill", "decode", "load"]
    assert backend.model_shape(run.model_identity).widths == backend.record(run.sparse[0]).pruned.dense_widths
    assert backend.submit(timed).id == killed.id


def until(happened):
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)
