"""What pages may rely on. No worker is started here; tests/faults has real ones."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sparsedash.schema import store_keys
from sparsedash.schema.errors import CorpusError, JobError, SparseDashError, StoreError
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.schema.records import Passages, Record, Run
from sparsedash.schema.settings import (
    BUILTIN_TEXT,
    PLANNED,
    CalibrationSettings,
    EvaluationSettings,
    FindResult,
    FindSettings,
    RunSettings,
)
from sparsedash.service import backend as backend_module
from sparsedash.service.backend import Backend, default_data_dir
from sparsedash.service.time_forecast import Speeds
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import fingerprints
from tests.factories import answered

SETTINGS = RunSettings(model="owner/model", sparsities_permille=(100,))
PROMPT = ContinuationSettings(left="dense", right="s1", prompt="Once upon a time")


@pytest.fixture(autouse=True)
def no_workers(monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")


@pytest.fixture
def backend(tmp_path):
    backend = Backend(tmp_path / "data")
    yield backend
    backend.close()


def record(key: str, n: int = 3) -> Record:
    return answered(key, n)


def run(settings: RunSettings = SETTINGS, **changes: object) -> Run:
    made = Run(
        key=settings.key(),
        settings=settings,
        model_identity="m",
        corpora={},
        dense="dense",
        sparse=("s1",),
        finished=True,
        started_at=1.0,
        finished_at=2.0,
        seconds={},
        cached=(),
        warnings=(),
        versions={},
    )
    return replace(made, **changes)


def work(backend: Backend, job) -> None:
    """Do what a worker does: claim, store the results, finish."""
    claimed = backend._table.claim(job.id, "slot-0", 1)
    for key in ("dense", "s1"):
        backend._store.put(key, record(key))
    backend._store.put(job.key, run(key=job.key))
    backend._table.finish(claimed)


def test_the_same_request_by_two_visitors_is_one_job(backend):
    assert backend.submit(SETTINGS) == backend.submit(RunSettings(**vars(SETTINGS)))
    assert backend.submit(replace(SETTINGS, dtype="bfloat16")).id == 2


def test_what_a_run_was_expected_to_take_is_kept_as_it_was_when_it_was_asked_for(backend, monkeypatch):
    monkeypatch.setattr(backend._speed, "known", lambda: Speeds(float32=1e11, bfloat16=2e11))
    settings = RunSettings(calibration=CalibrationSettings(corpus=BUILTIN_TEXT))
    before = backend.preflight(settings)
    job = backend.submit(settings)
    forecast = backend.forecast(job)
    assert forecast is not None
    assert forecast.seconds == before.duration.total_s is not None
    assert dict(forecast.parts).keys() == {"starting", "loading", "calibrating", "pruning", "answering"}
    assert forecast.memory_bytes == before.memory.least.n_bytes
    assert forecast.disk_bytes == before.disk.takes.stays_bytes > 0


@pytest.mark.parametrize("kept", ["nonsense", "[]", "12.5", '{"seconds": "x"}', "[" * 10_000])
def test_a_forecast_that_cannot_be_read_is_none(kept, backend):
    job = backend.submit(SETTINGS)
    backend._store.remember(store_keys.forecast_note(job.key), kept)
    assert backend.forecast(job) is None


def test_nothing_is_foreseen_of_the_disk_where_a_part_of_the_run_is_stored(backend):
    work(backend, backend.submit(SETTINGS))
    stored = replace(backend.preflight(SETTINGS).stored, dense=True)
    assert replace(backend.preflight(SETTINGS), stored=stored).forecast.disk_bytes is None


def test_many_visitors_at_the_same_moment_get_one_job(backend):
    start = threading.Barrier(8)

    def visit(_):
        start.wait()
        return backend.submit(SETTINGS).id

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(visit, range(8))) == {1}


def test_what_was_done_is_not_done_again(backend):
    job = backend.submit(SETTINGS)
    work(backend, job)
    assert backend.submit(SETTINGS).id == job.id
    assert backend.submit(SETTINGS).state == "done"


def test_a_done_run_whose_results_were_lost_is_done_again(backend):
    work(backend, backend.submit(SETTINGS))
    backend._store._records.delete("record/s1")
    assert backend.submit(SETTINGS).state == "queued"


def test_a_changed_text_file_makes_another_request(backend, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("before")
    settings = replace(SETTINGS, evaluation=EvaluationSettings(corpus=f"file:{file}"))
    first = backend.submit(settings)
    file.write_text("and after")
    second = backend.submit(settings)
    assert first.id != second.id
    assert second.key == settings.key(fingerprints(settings))


def test_a_retry_after_a_file_was_mended_is_a_new_request(backend, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("broken")
    settings = replace(SETTINGS, evaluation=EvaluationSettings(corpus=f"file:{file}"))
    first = backend.submit(settings)
    failed = backend._table.claim(first.id, "slot-0", 1)
    backend._table.fail(failed, "CorpusError", "text", "advice")
    file.write_text("mended now")
    assert backend.retry(first.id).key == settings.key(fingerprints(settings))


def test_a_cancelled_job_is_retried_as_the_next_attempt(backend):
    job = backend.submit(SETTINGS)
    assert backend.cancel(job.id).state == "cancelled"
    again = backend.retry(job.id)
    assert (again.id, again.state, again.attempt) == (job.id, "queued", 2)


def test_a_search_is_a_job_of_its_own_kind_that_is_done_once(backend):
    asked = FindSettings(model="owner/model")
    job = backend.submit(asked)
    assert (job.kind, job.key, job.makes_run) == ("find", asked.key(), True)
    assert backend.submit(asked).id == job.id
    assert backend.submit(asked.run((100,))).kind == "run"
    assert backend.preflight(asked).stored.n_sparse == len(PLANNED)


def test_a_search_that_was_cancelled_is_tried_again_and_anew_where_its_file_has_changed(backend, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("One two three.\n")
    asked = FindSettings(model="owner/model", evaluation=EvaluationSettings(corpus=f"file:{texts}"))
    job = backend.submit(asked)
    backend.cancel(job.id)
    assert backend.retry(job.id).id == job.id
    backend.cancel(job.id)
    texts.write_text("Four five six seven.\n")
    again = backend.retry(job.id)
    assert (again.kind, again.id) == ("find", job.id + 1)


def test_what_a_search_has_found_is_read_anew_until_it_has_ended(backend):
    going = FindResult(
        key="k", ratio=1.1, points=2.0, n_passages=40, steps=(100, 200), trials=(), answer=None, finished=False
    )
    backend._store.put("k", going)
    assert backend.search("k") == going
    ended = replace(going, answer=100, finished=True)
    backend._store.put("k", ended)
    assert backend.search("k") == ended
    assert backend.search("other") is None


def test_a_retry_is_the_live_job_and_a_done_one_is_refused(backend):
    job = backend.submit(SETTINGS)
    assert backend.retry(job.id) == job
    work(backend, job)
    with pytest.raises(JobError):
        backend.retry(job.id)


def test_settings_of_another_version_are_refused_in_words(backend):
    job = backend._table.submit("run", "a", {"flavour": "vanilla"})
    backend.cancel(job.id)
    with pytest.raises(SparseDashError, match="this version"):
        backend.retry(job.id)


def test_a_prompt_is_one_job_and_once_answered_stays_answered(backend):
    job = backend.submit_continuation(PROMPT)
    assert backend.submit_continuation(PROMPT) == job
    claimed = backend._table.claim(job.id, "slot-0", 1)
    both = Continuation(key=PROMPT.key(), prompt=PROMPT.prompt, left="a", right="b")
    backend._store.put(both.key, both)
    backend._table.finish(claimed)
    assert backend.submit_continuation(PROMPT).state == "done"
    assert backend.continuation(PROMPT.key()) == both


def test_whoever_looks_sees_that_a_worker_is_gone(backend):
    job = backend.submit(SETTINGS)
    backend._table.claim(job.id, "slot-0", 1)
    assert backend.job(job.id).state == "crashed"
    backend.retry(job.id)
    backend._table.claim(job.id, "slot-0", 1)
    assert backend.jobs()[0].state == "crashed"


def test_a_new_server_notices_what_died_before_it(backend, tmp_path):
    job = backend.submit(SETTINGS)
    backend._table.claim(job.id, "slot-0", 1)
    next_server = Backend(tmp_path / "data")
    assert backend._table.get(job.id).state == "crashed"
    next_server.close()


def test_places_in_the_queue_count_from_one(backend):
    first, second = backend.submit(SETTINGS), backend.submit(replace(SETTINGS, dtype="bfloat16"))
    assert [backend.queue_position(job.id) for job in (first, second)] == [1, 2]
    backend.cancel(first.id)
    assert [backend.queue_position(job.id) for job in (first, second)] == [None, 1]


def test_the_end_of_a_log_is_text(backend):
    job = backend.submit(SETTINGS)
    assert backend.log_tail(job.id) == ""
    Path(job.log_path).parent.mkdir()
    Path(job.log_path).write_text("one\ntwo\nthree\n")
    assert backend.log_tail(job.id, 2) == "two\nthree"


def test_a_job_that_is_not_there_is_a_clear_error(backend):
    for look in (backend.job, backend.cancel, backend.retry, backend.log_tail):
        with pytest.raises(JobError, match="There is no job 9"):
            look(9)


def test_runs_are_listed_newest_first_growing_ones_too(backend):
    other = replace(SETTINGS, dtype="bfloat16")
    backend._store.put("old", run(key="old", started_at=1.0))
    backend._store.put("new", run(other, key="new", started_at=2.0, finished=False))
    assert [each.key for each in backend.runs()] == ["new", "old"]


def test_a_growing_run_is_read_again_and_a_finished_one_is_not(backend):
    backend._store.put("r", run(key="r", sparse=(), finished=False))
    assert backend.run("r").sparse == ()
    backend._store.put("r", run(key="r"))
    finished = backend.run("r")
    assert finished.sparse == ("s1",)
    assert backend.run("r") is finished


def test_records_are_read_once(backend):
    backend._store.put("dense", record("dense"))
    assert backend.record("dense") is backend.record("dense")
    assert backend.record("none") is None


def test_only_so_many_passages_are_kept_in_memory(backend, monkeypatch):
    monkeypatch.setattr(backend_module, "MAX_PASSAGES_IN_MEMORY", 10)
    small = Backend(backend.data_dir)
    for key in "abc":
        small._store.put(key, record(key, n=5))
    a, b = small.record("a"), small.record("b")
    assert small.record("a") is a
    small.record("c")
    assert small.record("a") is a
    assert small.record("b") is not b
    small.close()


def test_one_record_larger_than_the_memory_is_still_kept(backend, monkeypatch):
    monkeypatch.setattr(backend_module, "MAX_PASSAGES_IN_MEMORY", 10)
    small = Backend(backend.data_dir)
    small._store.put("big", record("big", n=50))
    assert small.record("big") is small.record("big")
    small.close()


def test_passages_are_found(backend):
    passages = Passages(key="p", indices=(0,), contexts=("a b",), targets=("c",))
    backend._store.put("p", passages)
    assert backend.passages("p") == passages


def test_a_request_is_weighed_before_it_is_made(backend):
    backend._store.remember(store_keys.peak_memory_note("owner/model", "float32"), "1500000000")
    before = backend.preflight(SETTINGS)
    assert before.memory.measured_bytes == 1_500_000_000
    assert before.duration.total_s is None
    assert before.problems == ()
    assert backend.cached(SETTINGS).n_sparse == 1
    assert backend.preflight(replace(SETTINGS, model="/none")).problems
    assert backend.reference_problem("model", "/none")
    assert backend.reference_problem("model", SETTINGS.model) is None


def test_health_counts_the_jobs(backend):
    backend.submit(SETTINGS)
    health = backend.health()
    assert (health["status"], health["running"], health["queued"]) == ("ok", 0, 1)


def test_a_data_folder_that_cannot_be_used_is_said(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StoreError, match="cannot be used"):
        Backend(tmp_path / "data")


def test_the_data_folder_is_for_its_owner_only(backend):
    assert backend.data_dir.stat().st_mode & 0o077 == 0


def test_the_data_folder_can_be_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEDASH_DATA_DIR", str(tmp_path))
    assert default_data_dir() == tmp_path


def test_a_backend_and_all_its_verbs_leave_torch_alone(tmp_path):
    program = (
        "import sys; from pathlib import Path; from sparsedash.service.backend import Backend\n"
        "from sparsedash.schema.settings import RunSettings\n"
        f"backend = Backend(Path({str(tmp_path)!r})); settings = RunSettings()\n"
        "job = backend.submit(settings); backend.preflight(settings); backend.jobs()\n"
        "backend.cancel(job.id); backend.runs(); backend.health(); backend.close()\n"
        "print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_stored_results_are_seen_whoever_made_them(backend):
    shell = Store(backend.data_dir)
    shell.put("r", run(key="r"))
    shell.close()
    assert backend.run("r").key == "r"
    assert asdict(backend.run("r").settings) == asdict(SETTINGS)


def test_an_upload_can_be_deleted_once_no_job_reads_it(backend):
    reference = backend.uploads.keep("mine.jsonl", b'{"text": "the lamp went home"}\n')
    asked = replace(SETTINGS, calibration=CalibrationSettings(corpus=f"{reference}[:1]"))
    job = backend._table.submit("run", asked.key(), asdict(asked))
    with pytest.raises(CorpusError, match="read by a job"):
        backend.drop_upload(reference)
    backend.cancel(job.id)
    backend.drop_upload(reference)
    assert backend.uploads.kept() == {}
