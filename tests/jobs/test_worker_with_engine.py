"""The real worker with the real engine on a tiny model: the border between the two halves holds."""

from dataclasses import asdict
from typing import get_args

import pytest

from sparsedash.jobs.job import JobKind
from sparsedash.schema.errors import JobError
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.schema.progress import ignore, ignore_steps
from sparsedash.schema.records import Verification, VerifySettings
from sparsedash.schema.settings import EvaluationSettings, PartSettings, RunSettings
from sparsedash.storage.file_hashes import file_hashes_of
from sparsedash.storage.store import Store
from sparsedash.worker import JobTask, load_job_handlers
from tests.engine.tiny import save_tiny, small_run
from tests.jobs.conftest import ended
from tests.storage.every_kind import fill, harm_entry


def test_every_kind_of_job_has_a_handler_and_verification_leaves_what_it_has_found(
    tmp_path,
):
    handlers = load_job_handlers()
    store = Store(tmp_path)
    key = VerifySettings().key()
    assert set(handlers) == set(get_args(JobKind))
    fill(store)
    harm_entry(store, "artefacts", "large")
    handlers["verify"](
        JobTask(key=key, settings={}, store=store, on_step=ignore_steps, on_text=ignore)
    )
    assert [damage.name for damage in store.get(Verification, key).damaged] == ["large"]


@pytest.mark.parametrize("kind", ["run", "part", "find"])
def test_a_job_whose_text_has_changed_since_it_was_submitted_computes_nothing(
    kind, store, tmp_path
):
    text = tmp_path / "a.txt"
    text.write_text("before")
    evaluation = EvaluationSettings(corpus=f"file:{text}")
    settings = (
        FindSettings(evaluation=evaluation)
        if kind == "find"
        else RunSettings(evaluation=evaluation)
    )
    key = settings.key(file_hashes_of(settings, store))
    request = (
        PartSettings(run=settings, run_key=key, points=(0,))
        if kind == "part"
        else settings
    )
    text.write_text("behind")
    task = JobTask(
        key=key,
        settings=asdict(request),
        store=store,
        on_step=ignore_steps,
        on_text=ignore,
    )
    with pytest.raises(JobError, match="was changed or removed after it was submitted"):
        load_job_handlers()[kind](task)


def test_a_run_and_a_prompt_go_through_a_worker(backend, text, tmp_path):
    settings = small_run(
        save_tiny(tmp_path / "tiny"), text, sparsities_permille=(250, 500)
    )
    job = ended(backend, backend.submit(settings))
    assert job.state == "done", f"{job.error_text}\n{backend.log_tail(job.id)}"
    run = backend.run(job.key)
    assert run.finished
    assert [len(backend.record(key).outcomes) for key in (run.dense, *run.sparse)] == [
        10,
        10,
        10,
    ]
    assert backend.cached(settings).sparse == 2
    assert backend.preflight(settings).duration.total_s == 0
    assert backend.submit(settings).id == job.id

    prompt = ContinuationSettings(
        left=run.dense, right=run.sparse[1], prompt="the lamp and the", n_tokens=3
    )
    answered = ended(backend, backend.submit(prompt))
    assert (answered.state, answered.pid) == ("done", job.pid), backend.log_tail(
        answered.id
    )
    assert backend.result(Continuation, prompt.key()).prompt == "the lamp and the"

    assert (
        backend.model_shape(backend.record(run.dense)).widths
        == backend.record(run.sparse[0]).pruned.dense_widths
    )
