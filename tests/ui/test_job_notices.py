"""A notice when a job ends, on whatever page, and no second one."""

from dataclasses import replace

import pytest

from sparsedash.schema.pair_records import ContinuationSettings
from tests.ui import specimens
from tests.ui.filled_backend import job

SETTINGS = specimens.SETTINGS
PROMPT = ContinuationSettings(left="a", right="b", prompt="Once upon a time")


def notices(app):
    return [toast.value for toast in app.toast]


@pytest.mark.parametrize("page", ["overview", "runs"])
def test_a_run_that_ends_is_told_once_on_every_page_whatever_the_clock_says(
    page, open_page, backend
):
    backend.set_jobs(job(SETTINGS))
    app = open_page(page)
    assert notices(app) == []
    backend.set_jobs(job(SETTINGS, "done", finished_at=1.0))
    assert notices(app.run()) == [
        "SmolLM2 135M, least-squares 10, 20, 30 % on Cloze passages: done. [See the jobs](runs?view=jobs)"
    ]
    assert notices(app.run()) == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("failed", ": failed."),
        ("crashed", ": interrupted."),
        ("cancelled", ": cancelled."),
    ],
)
def test_other_endings_are_told_as_what_they_are_and_another_attempt_again(
    state, words, open_page, backend
):
    app = open_page("prune")
    for attempt in (1, 2):
        backend.set_jobs(job(SETTINGS, state, attempt=attempt))
        (notice,) = notices(app.run())
        assert words in notice


def test_what_ended_before_the_session_is_no_news_and_a_prompt_only_if_it_failed(
    open_page, backend
):
    done = job(SETTINGS, "done", id=3)
    backend.set_jobs(done)
    app = open_page("overview")
    assert notices(app) == []
    backend.set_jobs(done, job(PROMPT, "failed", id=2), job(PROMPT, "done", id=1))
    (notice,) = notices(app.run())
    assert notice.startswith("Continuations of a text: failed")


def test_a_run_is_told_by_its_name_and_a_foreign_one_is_no_markdown(open_page, backend):
    backend.user_data.name_run(SETTINGS.key(), "With stories")
    app = open_page("prune")
    backend.set_jobs(job(SETTINGS, "done"))
    (notice,) = notices(app.run())
    assert notice.startswith(
        "With stories: SmolLM2 135M, least-squares 10, 20, 30 % on Cloze passages: done."
    )
    backend.set_jobs(job(replace(SETTINGS, model="[x](builtin:b)*b*"), "done", id=2))
    (notice,) = notices(app.run())
    assert notice.startswith(
        "\\[x\\](builtin:\N{WORD JOINER}b)\\*b\\*, least-squares 10, 20, 30 % on Cloze passages: done."
    )
