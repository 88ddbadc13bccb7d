"""What a worker can do: a function for every kind of job."""

from typing import get_args

from sparsedash.jobs.job import JobKind
from sparsedash.schema.progress import ignore_steps, ignore_text
from sparsedash.schema.records import Verification, VerifySettings
from sparsedash.storage.store import Store
from sparsedash.worker import JobTask, load_job_handlers
from tests.storage.every_kind import fill, harm_entry


def test_there_is_one_for_every_kind():
    assert set(load_job_handlers()) == set(get_args(JobKind))


def test_verification_leaves_what_it_has_found_in_the_store(tmp_path):
    store = Store(tmp_path)
    fill(store)
    harm_entry(store, "artefacts", "large")
    key = VerifySettings().key()
    load_job_handlers()["verify"](JobTask(key=key, settings={}, store=store, on_step=ignore_steps, on_text=ignore_text))
    found = store.get(Verification, key)
    assert [damage.name for damage in found.damaged] == ["large"]
