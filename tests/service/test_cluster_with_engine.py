"""Two Dask workers over TLS, each with a data folder of its own, and the real engine give the same records as here; a
scheduler that is dead or refused is said in words, and runs are done here.
"""

import contextlib
from dataclasses import replace

import psutil
import pytest

from sparsedash.engine.run.pipeline import run
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Record
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, FindSettings, RunSettings
from sparsedash.service.backend import Backend
from sparsedash.storage.store import Store
from tests.dask_house import DaskHouse, eventually, free_port
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny import save_tiny


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    house = DaskHouse(tmp_path_factory.mktemp("dask"))
    house.start_scheduler()
    for name in ("ann", "ben"):
        house.start_worker(name)
    yield house
    house.end()


@pytest.fixture
def backend(dask, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    for name, value in dask.environment.items():
        monkeypatch.setenv(name, value)
    backend = Backend(tmp_path / "data")
    eventually(lambda: backend.cluster().trouble or len(backend.cluster().machines) == 2)
    assert backend.cluster().trouble == "", dask.log()
    yield backend
    backend.close()


@pytest.fixture
def settings(tmp_path):
    text = f"file:{write_jsonl(tmp_path / 'passages.jsonl', passages(60))}"
    return RunSettings(
        model=str(save_tiny(tmp_path / "tiny")),
        methods=(
            MethodSettings(width_multiple=8),
            MethodSettings(width_multiple=8, saliency="magnitude", compensation="none"),
        ),
        sparsities_permille=(125, 250, 500),
        calibration=CalibrationSettings(corpus=text, n_samples=64, length=32),
        evaluation=EvaluationSettings(corpus=text, n_passages=6, stop_early=True),
    )


def ended(backend, dask, job):
    eventually(lambda: not backend.job(job.id).live)
    found = backend.job(job.id)
    assert found.state == "done", f"{found.error_text}\n{backend.log_tail(job.id)}\n{dask.log()}"
    return found


def answers(record: Record):
    return record.key, record.outcomes, record.pruned, record.stopping


def test_a_sweep_of_six_on_two_machines_gives_the_records_that_it_gives_here(backend, dask, settings, tmp_path):
    here = Store(tmp_path / "here")
    expected = run(settings, here)
    job = ended(backend, dask, backend.submit(settings))
    made = backend.run(job.key)
    assert (made.finished, made.dense, made.sparse) == (True, expected.dense, expected.sparse)
    for key in (made.dense, *made.sparse):
        assert answers(backend.record(key)) == answers(here.get(Record, key))
    assert made.warnings == expected.warnings
    assert made.corpora == expected.corpora
    assert backend.submit(settings).id == job.id
    here.close()

    log = backend.log_tail(job.id, 1000)
    machines = [name for name in ("ann", "ben") if f", on {name}:" in log]
    assert machines == ["ann", "ben"], "both did a part"
    # One of them has calibrated; the other has fetched what that left.
    assert log.count("Calibrating") == 1


def test_a_search_runs_on_one_machine_and_its_answer_comes_back(backend, dask, settings):
    asked = FindSettings(
        model=settings.model,
        method=settings.methods[0],
        calibration=settings.calibration,
        evaluation=EvaluationSettings(corpus=settings.evaluation.corpus, n_passages=6),
        ratio=50.0,
        points=90.0,
    )
    job = ended(backend, dask, backend.submit(asked))
    found = backend.search(job.key)
    assert found.finished
    assert all(backend.record(trial.record) for trial in found.trials)


def test_an_uploaded_text_goes_along(backend, dask, settings, tmp_path):
    content = write_jsonl(tmp_path / "other.jsonl", passages(70)).read_bytes()
    reference = backend.uploads.keep("mine.jsonl", content)
    asked = replace(
        settings,
        methods=settings.methods[:1],
        sparsities_permille=(250,),
        calibration=replace(settings.calibration, corpus=reference),
        evaluation=EvaluationSettings(corpus=reference, n_passages=4),
    )
    assert backend.run(ended(backend, dask, backend.submit(asked)).key).finished


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


def test_without_a_scheduler_there_is_no_cluster_and_one_that_must_not_be_asked_is_shown_with_the_reason(backend_with):
    assert backend_with("").cluster() is None
    backend = backend_with("tcp://10.1.2.3:8786")
    assert "runs code on every machine" in backend.cluster().trouble
    assert backend.cluster().address == "tcp://10.1.2.3:8786"


def test_while_a_scheduler_is_dead_runs_are_done_here(backend_with, settings):
    backend = backend_with(f"tcp://127.0.0.1:{free_port()}")
    job = backend.submit(replace(settings, methods=settings.methods[:1], sparsities_permille=(250,)))
    eventually(lambda: not backend.job(job.id).live)
    done = backend.job(job.id)
    assert (done.state, done.worker) == ("done", "slot-0"), done.error_text
    # It is asked in a thread of its own, which may wait longer for an answer than the run took.
    eventually(lambda: "No scheduler answers at tcp://127.0.0.1" in backend.cluster().trouble)
