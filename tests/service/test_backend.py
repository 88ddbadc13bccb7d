"""What pages may rely on, with one user. No worker is started here; tests/faults has real ones."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparsedash.catalog.cost_model import Speeds
from sparsedash.schema import store_keys
from sparsedash.schema.errors import JobError, SparseDashError, StoreError
from sparsedash.schema.find_settings import PLANNED, FindSettings
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.schema.progress import StageTime, Step
from sparsedash.schema.records import Passages, Run, VerifySettings
from sparsedash.schema.settings import (
    BUILTIN_TEXT,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.service.backend import Backend
from sparsedash.service.estimates import NOTHING_STORED, START_S
from sparsedash.storage.file_hashes import file_hashes_of
from tests.question_sets import verdicts
from tests.service.made import SETTINGS, finish, run, work

PROMPT = ContinuationSettings(left="dense", right="s1", prompt="Once upon a time")
OTHER = replace(SETTINGS, dtype="bfloat16")
FIND = FindSettings(model="owner/model")


def test_the_same_request_is_one_job_until_its_results_are_lost(backend):
    job = backend.submit(SETTINGS)
    assert backend.submit(replace(SETTINGS)) == job
    assert backend.submit(OTHER).id == 2
    work(backend, job)
    done = backend.submit(SETTINGS)
    assert (done.id, done.state) == (job.id, "done")
    backend._store._caches["records"].delete("record/s1")
    health = backend.health()
    assert (health["status"], health["running"], health["queued"]) == ("ok", 0, 1)
    again = backend.submit(SETTINGS)
    assert (
        again.state,
        backend.queue_position(2),
        backend.queue_position(again.id),
    ) == (
        "queued",
        1,
        2,
    )


def test_the_forecast_of_a_run_is_kept_as_it_was_when_it_was_asked_for(
    backend, monkeypatch
):
    monkeypatch.setattr(
        backend._speed, "known", lambda: Speeds(float32=1e11, bfloat16=2e11)
    )
    settings = RunSettings(calibration=CalibrationSettings(corpus=BUILTIN_TEXT))
    before = backend.preflight(settings)
    job = backend.submit(settings)
    forecast = backend.forecast(job)
    assert (
        replace(forecast, disk=before.disk) == before
        and forecast.duration.total_s is not None
    )
    assert dict(forecast.duration.parts).keys() == {
        "starting",
        "loading",
        "calibrating",
        "pruning",
        "evaluating",
    }
    assert forecast.left_bytes == before.disk.takes.stays_bytes > 0
    stored = replace(before, stored=replace(before.stored, dense=True))
    assert stored.left_bytes is None, "of a run of which a part is stored"
    backend._store.remember(store_keys.forecast_note(settings.key()), '{"memory": "x"}')
    assert backend.forecast(job) is None


def start_s(backend):
    return backend.expected_parts(SETTINGS, NOTHING_STORED)[0].seconds


def test_a_worker_that_is_there_spares_a_run_its_start_and_a_start_takes_as_long_as_ever(
    backend, monkeypatch
):
    before = start_s(backend)
    monkeypatch.setattr(backend._runner, "has_worker", lambda: True)
    assert dict(backend.preflight(SETTINGS).duration.parts).get("starting", 0) == 0
    assert start_s(backend) == before == START_S


def test_a_start_is_expected_to_take_as_long_as_the_longest_of_the_last_three_that_loaded_the_engine(
    backend,
):
    for i, seconds in enumerate((90.0, 7.0, 12.0, 0.2, 0.1, 9.0)):
        job = backend.submit(replace(SETTINGS, sparsities_permille=(10 * (i + 1),)))
        claimed = backend._table.claim(job.id, "slot-0", 1)
        backend._table.report(
            claimed,
            Step("load", 0, 1, stage_times=(StageTime("start", None, seconds),)),
        )
        backend._table.end(claimed, "done")
    assert start_s(backend) == 12.0


@pytest.mark.parametrize(
    ("bfloat16", "multiplies", "dtype"),
    [
        (2e11, False, "bfloat16"),
        (1.2e11, True, "float32"),
        (None, True, "bfloat16"),
        (None, False, "float32"),
    ],
)
def test_a_first_look_takes_the_format_that_is_clearly_faster(
    backend, monkeypatch, bfloat16, multiplies, dtype
):
    speeds = bfloat16 and Speeds(float32=1e11, bfloat16=bfloat16)
    monkeypatch.setattr(backend._speed, "known", lambda: speeds)
    monkeypatch.setattr(
        "sparsedash.service.backend.multiplies_bfloat16", lambda: multiplies
    )
    assert backend.fastest_dtype() == dtype


def test_a_disk_without_room_for_a_job_is_not_healthy(backend, monkeypatch):
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda path: SimpleNamespace(total=10**12, used=10**12, free=1000),
    )
    with pytest.raises(StoreError, match="free"):
        backend.health()


@pytest.mark.parametrize("settings", [SETTINGS, FIND], ids=["run", "find"])
def test_a_changed_text_file_makes_another_request_and_a_retry_is_the_new_one(
    backend, tmp_path, settings
):
    file = tmp_path / "a.txt"
    passages = "\n\n".join(f"this was door {n}" for n in range(30))
    file.write_text(passages)
    settings = replace(settings, evaluation=EvaluationSettings(corpus=f"file:{file}"))
    first = backend.submit(settings)
    backend.cancel(first.id)
    again = backend.retry(first.id)
    assert (again.id, again.state, again.attempt) == (first.id, "queued", 2)
    backend.cancel(first.id)
    file.write_text(f"{passages} once more")
    second = backend.retry(first.id)
    assert (second.id, second.kind) == (first.id + 1, first.kind)
    assert (
        second.key
        == settings.key(file_hashes_of(settings, backend._store))
        == backend.submit(settings).key
    )


def test_a_search_is_a_job_of_its_own_kind_that_is_done_once(backend):
    job = backend.submit(FIND)
    assert (job.kind, job.key, job.makes_run) == ("find", FIND.key(), True)
    assert backend.submit(FIND).id == job.id
    assert backend.submit(FIND.run((100,))).kind == "run"
    assert backend.preflight(FIND).stored.n_sparse == len(PLANNED)


def test_a_retry_is_the_live_job_and_one_that_is_done_or_cannot_be_read_is_refused(
    backend,
):
    job = backend.submit(SETTINGS)
    assert backend.retry(job.id) == job
    work(backend, job)
    with pytest.raises(JobError):
        backend.retry(job.id)
    job = backend._table.submit("run", "a", {"flavour": "vanilla"})
    backend.cancel(job.id)
    with pytest.raises(SparseDashError, match="another version"):
        backend.retry(job.id)


def test_a_prompt_once_answered_stays_answered_and_a_verification_is_asked_for_again(
    backend,
):
    for request in (PROMPT, VerifySettings()):
        job = backend.submit(request)
        assert backend.submit(request) == job
        answer = Continuation(
            key=PROMPT.key(), prompt=PROMPT.prompt, left="a", right="b"
        )
        backend._store.put(answer.key, answer)
        finish(backend, job)
        assert (backend.submit(request).id == job.id) == (request is PROMPT)
    assert backend.result(Continuation, PROMPT.key()) == answer


def test_a_look_and_a_new_server_notice_that_a_worker_is_gone(backend, tmp_path):
    job = backend.submit(SETTINGS)
    for look in (
        lambda: backend.job(job.id),
        lambda: backend.jobs()[0],
        lambda: backend.newest_job(job.key),
    ):
        backend._table.claim(job.id, "slot-0", 1)
        assert look().state == "crashed"
        backend.retry(job.id)
    backend._table.claim(job.id, "slot-0", 1)
    next_server = Backend(tmp_path / "data")
    assert backend._table.get(job.id).state == "crashed"
    next_server.close()


def test_stored_runs_are_listed_newest_first_and_a_folder_that_cannot_be_used_is_said(
    backend, tmp_path
):
    backend._store.put("old", run(key="old", started_at=1.0))
    backend._store.put("new", run(OTHER, key="new", started_at=2.0, finished=False))
    assert [stored_run.key for stored_run in backend.runs()] == ["new", "old"]
    assert backend.run("old").settings == SETTINGS
    (tmp_path / "other").write_text("a file")
    with pytest.raises(StoreError, match="is a file"):
        Backend(tmp_path / "other")
    assert backend.data_dir.stat().st_mode & 0o077 == 0


def test_the_end_of_a_log_is_text_and_a_job_that_is_not_there_a_clear_error(backend):
    job = backend.submit(SETTINGS)
    assert backend.log_tail(job.id) == ""
    Path(job.log_path).parent.mkdir()
    Path(job.log_path).write_text("one\ntwo\nthree\n")
    assert backend.log_tail(job.id, 2) == "two\nthree"
    for look in (backend.job, backend.cancel, backend.retry, backend.log_tail):
        with pytest.raises(JobError, match="There is no job 9"):
            look(9)


def test_a_run_without_its_passages_or_with_a_task_that_only_dense_has_answered_is_made_again(
    backend,
):
    job = backend.submit(SETTINGS)
    work(backend, job)
    texts = backend._store.get(Run, job.key).corpora["evaluation"]
    assert backend.submit(SETTINGS).state == "done"
    backend._store.drop(Passages, store_keys.passages_key(texts, SETTINGS.evaluation))
    assert backend.submit(SETTINGS).state == "queued"
    backend._store.drop(Run, job.key)
    work(backend, backend.newest_job(job.key))
    one = replace(verdicts(both=3)[0], key="a")
    backend._store.put("a", one)
    stored = backend._store.get(Run, job.key)
    for answers, state in (
        ({"dense": ("a",), "s1": ("a",)}, "done"),
        ({"dense": ("a",)}, "queued"),
    ):
        backend._store.drop(Run, job.key)
        backend._store.put(job.key, replace(stored, answers=answers))
        assert backend.submit(SETTINGS).state == state
