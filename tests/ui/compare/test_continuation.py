"""What both models write: watched while it grows, stopped, kept, drawn with other settings."""

from dataclasses import replace

import pytest

from sparsedash.jobs.job import BETWEEN_TEXTS
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from tests.ui.conftest import FAILED, button, markup, shows_as_text, words
from tests.ui.fake_backend import job


def asked_by(backend, prompt="Once upon", **more):
    run = backend.stored_runs[0]
    return ContinuationSettings(left=run.dense, right=run.sparse[-1], prompt=prompt, **more)


def try_it(app, prompt):
    app.text_area(key="own-prompt").set_value(prompt)
    return button(app, "Continue this prompt").click().run()


@pytest.fixture
def tried(finished):
    """A prompt in the list, and the page's address leads to its pair."""
    request = asked_by(finished)
    finished.user_data.keep_prompt(request)
    return request


def test_before_anything_is_tried_the_list_says_what_will_be_there(open_page, finished):
    assert "What you try will be listed here" in words(open_page("compare"))


def test_a_prompt_is_still_in_the_list_after_a_reload_until_it_is_removed(open_page, finished):
    try_it(open_page("compare"), "Once upon")
    app = open_page("compare")
    assert "Once upon First choices, 40 tokens" in words(app)
    button(app, "Remove from the list").click().run()
    assert "Once upon" not in words(app)
    assert "Once upon" not in words(open_page("compare"))


def test_other_settings_draw_and_are_said_beside_the_prompt(open_page, finished):
    app = open_page("compare")
    app.number_input(key="own-temperature").set_value(0.7)
    app.number_input(key="own-seed").set_value(5)
    app.number_input(key="own-tokens").set_value(12)
    try_it(app, "Once upon")
    (asked,) = finished.submitted
    assert (asked.temperature_percent, asked.seed, asked.n_tokens) == (70, 5, 12)
    assert "Temperature 0.7, seed 5, 12 tokens" in words(app)


def test_both_sides_are_shown_while_they_grow(open_page, finished, tried):
    growing = {"stage": "continue", "done": 3, "total": 40, "rate": 9.0, "message": ""}
    finished.stored_jobs = [job(tried, **growing, left_text=" there <b>was", right_text=" a\u202e")]
    app = open_page("compare")
    said = words(app)
    assert "Writing: 3 of 40 tokens each · 9 a second" in said
    assert "Dense there <b>was Sparse, 30 % a⟨U+202E⟩" in said
    shows_as_text(markup(app))
    button(app, "Stop").click().run()
    assert finished.cancelled == [1]


@pytest.mark.parametrize(
    ("state", "stage", "words_for_it"),
    [
        ("queued", "", "Waiting for a worker"),
        ("running", "", "Starting the worker"),
        ("running", "load", "Loading the model"),
        ("running", "read", "Reading the prompt"),
    ],
)
def test_until_the_first_word_the_page_says_what_is_done(state, stage, words_for_it, open_page, finished, tried):
    finished.stored_jobs = [job(tried, state, stage=stage)]
    assert words_for_it in words(open_page("compare"))


def test_a_job_that_is_being_stopped_says_so_and_cannot_be_stopped_twice(open_page, finished, tried):
    finished.stored_jobs = [job(tried, stage="continue", cancel_requested_at=1.0)]
    app = open_page("compare")
    assert "Stopping" in words(app)
    assert button(app, "Stop").disabled


def test_what_was_written_when_it_was_stopped_stays_and_can_be_written_again(open_page, finished, tried):
    finished.stored_jobs = [job(tried, "cancelled")]
    finished.stored_continuations[tried.key()] = Continuation(
        key=tried.key(), prompt=tried.prompt, left=" there was", right=" a", stopped=True
    )
    app = open_page("compare")
    assert "Dense ❘ there was Sparse, 30 % ❘ a" in words(app)
    assert "Stopped before the end" in words(app)
    button(app, "Write it again").click().run()
    assert finished.submitted == [tried]


def test_what_a_failed_job_had_written_is_shown_above_its_error(open_page, finished, tried):
    finished.stored_jobs = [job(tried, "failed", **FAILED, left_text=" there")]
    said = words(open_page("compare"))
    assert said.index("Dense there") < said.index("The model cannot be reached.")


def test_a_long_list_is_shown_when_it_is_asked_for(open_page, finished):
    for number in range(7):
        finished.user_data.keep_prompt(asked_by(finished, f"prompt {number}"))
    app = open_page("compare")
    assert "prompt 6" in words(app) and "prompt 1" not in words(app)
    button(app, "Show all 7").click().run()
    assert "prompt 0" in words(app)


def test_the_list_belongs_to_the_pair_and_has_no_prompt_twice(finished):
    one = asked_by(finished)
    for request in (one, asked_by(finished, "Another"), one, replace(one, right="other")):
        finished.user_data.keep_prompt(request)
    listed = finished.user_data.prompts(one.left, one.right)
    assert [request.prompt for request in listed] == ["Once upon", "Another"]


def test_without_its_text_a_kept_prompt_offers_to_write_it_again(open_page, finished, tried):
    app = open_page("compare")
    assert "What was written is no longer stored." in words(app)
    button(app, "Write it again").click().run()
    assert finished.submitted == [tried]


def everybody(backend, **more):
    """A request for all models of the run."""
    run = backend.stored_runs[0]
    return asked_by(backend, others=run.sparse[:-1], **more)


def test_all_models_of_the_run_are_asked_at_once_unless_somebody_wants_only_the_two(open_page, finished):
    app = open_page("compare")
    assert app.toggle(key="own-all").label == "All 4 models of the run"
    try_it(app, "Once upon")
    assert finished.submitted == [everybody(finished)]
    app.toggle(key="own-all").set_value(False)
    try_it(app, "Once upon")
    assert finished.submitted[-1] == asked_by(finished)


def test_every_model_has_its_name_and_its_text_while_they_grow(open_page, finished):
    request = everybody(finished)
    finished.user_data.keep_prompt(request)
    growing = {"stage": "continue", "done": 3, "total": 40, "rate": None, "message": "model 3 of 4"}
    texts = BETWEEN_TEXTS.join([" right", " ten"])
    finished.stored_jobs = [job(request, **growing, left_text=" left", right_text=texts)]
    said = words(open_page("compare"))
    assert "Writing, model 3 of 4: 3 of 40 tokens each" in said
    assert "Dense left Sparse, 30 % right Sparse, 10 % ten Sparse, 20 % …" in said


def test_each_text_is_marked_where_it_parts_from_the_dense_models(open_page, finished):
    request = everybody(finished)
    finished.user_data.keep_prompt(request)
    finished.stored_continuations[request.key()] = Continuation(
        key=request.key(), prompt="Once", left="a b c", right="a b d", others=("a b c", "<x> b c")
    )
    said = words(open_page("compare"))
    assert "Dense a b c Sparse, 30 % a b ❘ d Sparse, 10 % a b c Sparse, 20 % ❘ <x> b c" in said
    assert "The mark ❘ stands where a text parts from that of dense." in said


def test_the_others_are_not_shown_while_somebody_judges_blind(open_page, finished):
    request = everybody(finished)
    finished.user_data.keep_prompt(request)
    finished.stored_continuations[request.key()] = Continuation(
        key=request.key(), prompt="Once", left="one", right="two", others=("ten", "twenty")
    )
    said = words(open_page("compare", mode="blind"))
    assert "Sparse, 10 %" not in said and "twenty" not in said
