"""A name on the hub may lead to another commit tomorrow: a run pins what it reads, and a later one
is another.
"""

import time
from dataclasses import replace

import pytest

from sparsedash.schema.settings import DATA_SET, EvaluationSettings, RunSettings
from sparsedash.service import hub_revisions
from sparsedash.service.hub_revisions import newer_revisions, noted_commit, pinned
from sparsedash.storage.hub_reach import HubReach
from tests.service.made import SETTINGS, run
from tests.service.test_named_models import hub as hub

NAME = "owner/never-seen"
OLD_S = 3600


class Reach(HubReach):
    """A hub that answers, or one that does not."""

    def __init__(self, is_there):
        self.is_there = is_there

    def answers(self, wait_s=0.0):
        return self.is_there


HERE = Reach(True)
GONE = Reach(False)


def moved(hub, tmp_path, n=1):
    """Another commit of the model, which its main leads to from now on."""
    (tmp_path / "of the hub" / "README.md").write_text("new" * n)
    return hub.add("models", NAME, tmp_path / "of the hub").refs["main"]


@pytest.fixture
def asked(monkeypatch):
    """The names that the hub was asked for, and its answers: commits by name."""
    requests = []

    def look_up(names, *, with_token):
        requests.append(names)
        return {
            name: {"commit": answers[name]} if name in answers else {"message": "gated"}
            for name in names
        }

    answers = {}
    monkeypatch.setattr(hub_revisions, "look_up", look_up)
    requests.append(answers)
    return requests


def test_a_name_is_resolved_by_a_child_and_a_moved_main_makes_another_request_after_an_hour(
    hub, store, tmp_path, monkeypatch
):
    settings = replace(SETTINGS, model=NAME)
    first = hub.repositories["models", NAME].refs["main"]
    before = pinned(settings, store, HERE, with_token=False)
    assert before.revisions == ((NAME, first),)
    second = moved(hub, tmp_path)
    n_asked = len(hub.asked)
    assert pinned(settings, store, HERE, with_token=False) == before, (
        "within the hour nobody is asked"
    )
    assert len(hub.asked) == n_asked
    later = time.time() + OLD_S
    monkeypatch.setattr(time, "time", lambda: later)
    after = pinned(settings, store, HERE, with_token=False)
    assert after.revisions == ((NAME, second),)
    assert after.key() != before.key()
    assert pinned(before, store, HERE, with_token=False) == before, (
        "a run keeps the commit that it was asked for"
    )


def test_a_hub_that_does_not_answer_is_not_asked_and_the_local_cache_says_what_will_be_read(
    hub, store, tmp_path
):
    settings = replace(SETTINGS, model=NAME)
    assert pinned(settings, store, GONE, with_token=False) == settings
    pinned(settings, store, HERE, with_token=False)
    second = moved(hub, tmp_path)
    n_asked = len(hub.asked)
    assert pinned(settings, store, GONE, with_token=False).revisions != (
        (NAME, second),
    )
    assert len(hub.asked) == n_asked


def test_data_sets_of_tasks_are_pinned_and_what_cannot_be_had_is_left_to_the_run(
    asked, store, monkeypatch
):
    monkeypatch.setattr(
        hub_revisions,
        "data_sets",
        {"piqa": ("a/piqa",), "mmlu": ("b/gated", "a/piqa")}.get,
    )
    tasks = ("builtin:copying", "piqa", "mmlu", "file:mine.yaml")
    settings = RunSettings(evaluation=EvaluationSettings(tasks=tasks))
    asked[0][f"{DATA_SET}a/piqa"] = "a" * 40
    pins = pinned(settings, store, HERE, with_token=False)
    assert pins.revisions == ((f"{DATA_SET}a/piqa", "a" * 40),)
    assert asked[1:] == [[f"{DATA_SET}a/piqa", f"{DATA_SET}b/gated"]]
    assert pinned(settings, store, GONE, with_token=False) == pins, "as noted"
    assert (
        pins.key() != replace(pins, revisions=((f"{DATA_SET}a/piqa", "b" * 40),)).key()
    )


@pytest.mark.parametrize(
    "model", ["builtin:smollm2-135m", "/a/folder", f"owner/model@{'a' * 40}"]
)
def test_what_cannot_move_is_asked_of_nobody(asked, store, model):
    settings = replace(SETTINGS, model=model)
    assert pinned(settings, store, HERE, with_token=False) == settings
    assert asked == [{}]


def test_a_branch_is_a_name_of_its_own(asked, store):
    asked[0]["owner/model@dev"] = "d" * 40
    settings = pinned(
        replace(SETTINGS, model="owner/model@dev"), store, HERE, with_token=False
    )
    assert settings.model_commit == "d" * 40


def test_a_run_is_told_the_newer_revision_of_what_it_read_also_where_it_was_not_pinned(
    asked, store
):
    read = "a" * 40
    new = "b" * 40
    earlier = run(model_identity=f"{SETTINGS.model}@{read}")
    assert newer_revisions(earlier, store) == {}
    asked[0][SETTINGS.model] = new
    settings = pinned(SETTINGS, store, HERE, with_token=False)
    assert noted_commit(SETTINGS.model, store) == new
    assert newer_revisions(earlier, store) == {SETTINGS.model: new}
    assert (
        newer_revisions(
            replace(
                earlier, settings=settings, model_identity=f"{SETTINGS.model}@{new}"
            ),
            store,
        )
        == {}
    )
