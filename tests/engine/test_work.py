"""What a worker can do: a function for every kind of job."""

from typing import get_args

from sparsedash.engine.work import Task, load
from sparsedash.jobs.job import JobKind
from sparsedash.schema.hosting.upkeep import Verification, VerifySettings
from sparsedash.schema.progress import ignore_steps, ignore_text
from tests.storage.upkeep.every_kind import fill, harm_entry


def test_there_is_one_for_every_kind():
    assert set(load()) == set(get_args(JobKind))


def test_verification_leaves_what_it_has_found_in_the_store(store):
    fill(store)
    harm_entry(store, "artefacts", "large")
    key = VerifySettings().key()
    load()["verify"](Task(key=key, settings={}, store=store, on_step=ignore_steps, on_text=ignore_text))
    found = store.get(Verification, key)
    assert [damage.name for damage in found.damaged] == ["large"]
