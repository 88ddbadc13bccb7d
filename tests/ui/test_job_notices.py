"""A notice when a job ends, wherever the visitor is, and no second one."""

import time
from dataclasses import replace

import pytest

from sparsedash.schema.pair_records import ContinuationSettings
from tests.ui import specimens
from tests.ui.fake_backend import job

SETTINGS = specimens.SETTINGS
PROMPT = ContinuationSettings(left="a", right="b", prompt="Once upon a time")


def ended(asked, state, **changes):
    return job(asked, state, finished_at=time.time() + 5, **changes)


def notices(app):
    return [toast.value for toast in app.toast]


@pytest.mark.parametrize("page", ["overview", "prune", "jobs", "compare", "layers", "models", "published"])
def test_a_run_that_ends_is_told_once_on_every_page(page, open_page, backend):
    backend.stored_jobs = [job(SETTINGS)]
    app = open_page(page)
    assert notices(app) == []
    backend.stored_jobs = [ended(SETTINGS, "done")]
    said = "SmolLM2 135M (built in) at 10, 20, 30 % is done. [See the jobs](jobs)"
    assert notices(app.run()) == [said]
    assert notices(app.run()) == []


@pytest.mark.parametrize(
    ("state", "words"), [("failed", "has failed"), ("crashed", "has crashed"), ("cancelled", "was cancelled")]
)
def test_other_endings_are_told_as_what_they_are_and_another_attempt_again(state, words, open_page, backend):
    app = open_page("prune")
    for attempt in (1, 2):
        backend.stored_jobs = [ended(SETTINGS, state, attempt=attempt)]
        (said,) = notices(app.run())
        assert words in said


def test_what_ended_before_the_visitor_came_is_no_news(open_page, backend):
    backend.stored_jobs = [job(SETTINGS, "done")]
    assert notices(open_page("overview")) == []


def test_a_prompt_is_told_only_where_it_came_to_nothing(open_page, backend):
    app = open_page("overview")
    backend.stored_jobs = [ended(PROMPT, "failed", id=2), ended(PROMPT, "done", id=1)]
    (said,) = notices(app.run())
    assert said.startswith("Continuations of a text has failed")


def test_a_foreign_name_in_a_notice_is_no_markdown(open_page, backend):
    app = open_page("overview")
    backend.stored_jobs = [ended(replace(SETTINGS, model="[x](http://evil.example)*b*"), "done")]
    (said,) = notices(app.run())
    assert "](http" not in said and "*" not in said


def test_a_clock_that_is_set_back_keeps_no_ending_quiet(open_page, backend):
    backend.stored_jobs = [job(SETTINGS)]
    app = open_page("overview")
    backend.stored_jobs = [job(SETTINGS, "done", finished_at=1.0)]
    assert len(notices(app.run())) == 1


def test_a_run_that_was_given_a_name_is_told_by_it(open_page, backend):
    backend.user_data.name_run(SETTINGS.key(), "With stories")
    backend.stored_jobs = [job(SETTINGS)]
    app = open_page("prune")
    backend.stored_jobs = [ended(SETTINGS, "done")]
    (said,) = notices(app.run())
    assert said.startswith("With stories: SmolLM2 135M (built in) at 10, 20, 30 % is done.")
