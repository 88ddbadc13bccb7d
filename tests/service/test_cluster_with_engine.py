"""Two Dask workers over TLS, each with a data folder of its own, and the real engine give the same
records as here; a scheduler that is dead or refused is said in words, and runs are done here.
"""

from dataclasses import replace

import pytest

from sparsedash.engine.run.pipeline import run
from sparsedash.jobs import cluster
from sparsedash.jobs.job import CLUSTER
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Record
from sparsedash.schema.settings import EvaluationSettings, RunSettings
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.backend import Backend
from sparsedash.storage.store import Store
from tests.dask_cluster import DaskHouse, eventually, free_port
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny import save_tiny, small_run


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    house = DaskHouse(tmp_path_factory.mktemp("dask"))
    house.start_scheduler()
    for name in ("ann", "ben"):
        house.start_worker(name)
    # A server gives a connection up after seconds, and the scheduler is there only once it has been
    # imported.
    eventually(
        lambda: all(
            "Registered to" in (house.folder / f"{name}.log").read_text()
            for name in house.workers
        )
    )
    yield house
    house.end()


@pytest.fixture
def backend(dask, tmp_path, monkeypatch, no_process):
    for name, value in dask.environment.items():
        monkeypatch.setenv(name, value)
    backend = Backend(tmp_path / "data")
    eventually(lambda: len(backend.cluster().machines) == 2)
    yield backend
    backend.close()


@pytest.fixture
def settings(tmp_path):
    text = f"file:{write_jsonl(tmp_path / 'passages.jsonl', passages(60))}"
    best = MethodSettings(width_multiple=8)
    methods = (best, replace(best, saliency="magnitude", compensation="none"))
    stored_run = small_run(
        save_tiny(tmp_path / "tiny"),
        text,
        methods=methods,
        sparsities_permille=(125, 500),
    )
    return replace(
        stored_run, evaluation=replace(stored_run.evaluation, stop_early=True)
    )


def ended(backend, dask, job):
    eventually(lambda: not backend.job(job.id).live)
    done = backend.job(job.id)
    assert done.state == "done", (
        f"{done.error_text}\n{backend.log_tail(job.id)}\n{dask.log()}"
    )
    return done


def answers(record: Record):
    return record.key, record.outcomes, record.pruned, record.stopping


def test_a_sweep_on_two_machines_gives_the_records_that_it_gives_here(
    backend, dask, settings, tmp_path
):
    here = Store(tmp_path / "here")
    expected = run(settings, here)
    healed = backend.submit(settings.healed(1))
    job = ended(backend, dask, backend.submit(settings))
    assert backend.job(healed.id).state == "queued", (
        "it waits for a worker of this machine"
    )
    stored_run = backend.run(job.key)
    assert (stored_run.finished, stored_run.dense, stored_run.sparse) == (
        True,
        expected.dense,
        expected.sparse,
    )
    for key in (stored_run.dense, *stored_run.sparse):
        assert answers(backend.record(key)) == answers(here.get(Record, key))
    assert stored_run.warnings == expected.warnings
    assert stored_run.corpora == expected.corpora
    assert backend.submit(settings).id == job.id
    here.close()

    log = backend.log_tail(job.id, 1000)
    machines = [name for name in ("ann", "ben") if f", on {name}:" in log]
    assert machines == ["ann", "ben"], "both did a part"
    # One of them has calibrated; the other has fetched what that left.
    assert log.count("Calibrating") == 1


def test_a_search_runs_on_one_machine_and_its_answer_comes_back(
    backend, dask, settings
):
    request = FindSettings(
        model=settings.model,
        method=settings.methods[0],
        calibration=settings.calibration,
        evaluation=EvaluationSettings(corpus=settings.evaluation.corpus, n_passages=30),
        tolerance=Tolerance(ratio=50.0, points=90.0),
    )
    job = ended(backend, dask, backend.submit(request))
    done = backend.search(job.key)
    assert done.finished
    assert all(backend.record(trial.record) for trial in done.trials)


@pytest.mark.parametrize("address", ["", "tcp://10.1.2.3:8786", "dead"])
def test_where_no_scheduler_is_to_be_had_the_reason_is_shown_and_runs_are_done_here_or_wait_for_one_that_is_gone(
    address, tmp_path, monkeypatch, no_process
):
    address = f"tcp://127.0.0.1:{free_port()}" if address == "dead" else address
    monkeypatch.setenv("SPARSEDASH_SCHEDULER", address)
    monkeypatch.setattr(cluster, "CONNECT_S", 0.3)
    backend = Backend(tmp_path / "data")
    if not address:
        assert backend.cluster() is None
    else:
        error_text = (
            "runs code on every machine"
            if "10.1" in address
            else f"No scheduler answers at {address}"
        )
        eventually(lambda: error_text in backend.cluster().trouble)
        assert backend.cluster().address == address
        queued = backend.submit(RunSettings())
        begun = replace(queued, state="running", worker=CLUSTER)
        assert {backend._cluster.takes(queued), backend._cluster.takes(begun)} == {
            "127.0.0.1" in address
        }
    backend.close()
