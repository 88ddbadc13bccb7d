"""What models write: a passage continued, prompts of one's own, watched while they grow, stopped,
kept.
"""

from dataclasses import replace

import pytest

from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from tests.ui import specimens
from tests.ui.conftest import FAILED, button, markup, shows_as_text, words
from tests.ui.filled_backend import job

RUN = specimens.run()[0]
PAIR = ContinuationSettings(
    left=RUN.dense,
    right=RUN.sparse[-1],
    prompt="Once upon",
)
ALL = replace(PAIR, others=RUN.sparse[:-1])
GROWING = {"stage": "continue", "done": 3, "total": 40, "rate": 9.0, "message": ""}


def written(request, left, right, *others, **more):
    return Continuation(
        key=request.key(),
        prompt=request.prompt,
        left=left,
        right=right,
        others=others,
        **more,
    )


def submit(app, prompt="Once upon"):
    app.text_area(key="own-prompt").set_value(prompt)
    return button(app, "Continue this prompt").click().run()


@pytest.fixture
def tried(finished):
    """A backend with a prompt to the two that are compared in its list, and one to all."""
    for request in (PAIR, ALL):
        finished.user_data.keep_prompt(request)
    return finished


def test_both_models_continue_a_passage_on_request(open_compare, finished):
    app = open_compare()
    button(app, "Continue with both models").click().run()
    (request,) = finished.submitted
    assert (request.left, request.right) == (
        PAIR.left,
        PAIR.right,
    ) and request.prompt.endswith("went to fetch the")
    assert "Waiting" in words(app)
    finished.set_jobs(job(request, "failed", **FAILED))
    assert "The model cannot be reached." in words(app.run()) and button(app, "Resume")
    finished.put(written(request, " letter.", " door."))
    assert "Continued by both models Dense ❘ letter. Sparse, 30 % ❘ door." in words(
        app.run()
    )
    assert "❘ marks where a text diverges from the other." in words(app)


def test_a_prompt_is_continued_by_all_models_and_stays_in_the_list_until_it_is_removed(
    open_compare, finished
):
    prompt = "<b>**x**</b> \u202eabc =1+1 nul\x00 👩‍🚀"
    app = open_compare()
    assert "Your prompts will be listed here" in words(app)
    assert app.toggle(key="own-all").label == "All 4 models of the run"
    submit(app, prompt)
    (request,) = finished.submitted
    assert request == replace(ALL, prompt=prompt) and "Waiting" in words(app)
    finished.put(written(request, " <i>one</i>", " two"))
    assert "Dense <i>one</i> Sparse, 30 % ❘ two Sparse, 10 % … Sparse, 20 % …" in words(
        app.run()
    )
    shows_as_text(markup(app))
    app.toggle(key="own-all").set_value(False)
    submit(app, "Another one")
    assert finished.submitted[-1] == replace(PAIR, prompt="Another one")
    again = open_compare()
    assert words(again).index("Another one") < words(again).index(
        "Dense <i>one</i> Sparse, 30 % ❘ two"
    )
    button(again, "Remove from the list").click().run()
    assert "Another one" not in words(again) + words(open_compare())


def test_a_prompt_that_cannot_be_continued_is_refused_in_words(open_compare, finished):
    app = submit(open_compare(), "   ")
    assert finished.submitted == [] and "1 to 100,000 characters" in app.toast[0].value


def test_other_settings_draw_and_are_said_next_to_the_prompt(open_compare, finished):
    app = open_compare()
    for name, value in (("temperature_percent", 0.7), ("seed", 5), ("n_tokens", 12)):
        app.number_input(key=f"own-{name}").set_value(value)
    submit(app)
    assert finished.submitted == [
        replace(ALL, temperature_percent=70, seed=5, n_tokens=12)
    ]
    assert "Temperature 0.7, seed 5, 12 tokens" in words(app)


def test_all_texts_are_shown_under_their_names_while_they_grow(open_compare, tried):
    texts = (" there <b>was", " a\u202e", " ten")
    tried.set_jobs(
        job(
            ALL,
            **GROWING | {"message": "model 3 of 4"},
            texts=texts,
        )
    )
    app = open_compare()
    text = words(app)
    assert (
        "▶ Writing continuations · model 3 of 4 · 3 of 40 tokens · 9.0 tokens a second"
        in text
    )
    assert (
        "Dense there <b>was Sparse, 30 % a⟨U+202E⟩ Sparse, 10 % ten Sparse, 20 % …"
        in text
    )
    shows_as_text(markup(app))
    button(app, "Stop").click().run()
    assert "Stopping" in words(app) and button(app, "Stop").disabled


def test_until_the_first_word_the_page_says_what_is_done(open_compare, tried):
    app = open_compare()
    for state, stage, expected in (
        ("queued", "start", "◷ Waiting: Starts as soon as a worker is free"),
        ("running", "start", "Starting the engine"),
        ("running", "load", "Loading the model"),
    ):
        tried.set_jobs(job(PAIR, state, stage=stage))
        assert expected in words(app.run())


def test_what_was_written_when_it_was_stopped_failed_or_is_gone_is_shown_and_can_be_written_again(
    open_compare, tried
):
    app = open_compare()
    assert "The texts are no longer stored." in words(app)
    tried.set_jobs(job(PAIR, "failed", **FAILED, texts=(" there", "")))
    text = words(app.run())
    assert text.index("Dense there") < text.index("The model cannot be reached.")
    tried.set_jobs(job(PAIR, "cancelled"))
    tried.put(written(PAIR, " there was", " a", stopped=True))
    app.run()
    assert "Dense ❘ there was Sparse, 30 % ❘ a" in words(
        app
    ) and "Stopped early" in words(app)
    tried.put(written(PAIR, "there was", "a", stopped=True, n_unread=2_000))
    assert "its first 2,000 tokens were not read" in words(app.run())
    app.button(key=f"again-{PAIR.key()}").click().run()
    assert tried.submitted == [PAIR]


def test_a_long_list_is_shown_when_it_is_asked_for_and_belongs_to_its_pair(
    open_compare, finished
):
    for number in range(7):
        finished.user_data.keep_prompt(replace(PAIR, prompt=f"prompt {number}"))
    finished.user_data.keep_prompt(replace(PAIR, prompt="prompt 2"))
    finished.user_data.keep_prompt(replace(PAIR, right="other"))
    app = open_compare()
    assert words(app).index("prompt 2") < words(app).index(
        "prompt 6"
    ) and "prompt 1" not in words(app)
    button(app, "Show all 7").click().run()
    assert words(app.run()).count("prompt 2") == words(app).count("prompt 0") == 1


def test_each_text_is_marked_where_it_diverges_from_the_dense_models_but_not_on_the_blind_page(
    open_compare, tried
):
    tried.put(written(ALL, "a b c", "a b d", "a b c", "<x> b c"))
    text = words(open_compare())
    assert (
        "Dense a b c Sparse, 30 % a b ❘ d Sparse, 10 % a b c Sparse, 20 % ❘ <x> b c"
        in text
    )
    assert "❘ marks where a text diverges from that of dense." in text
    blind = words(open_compare(blind="true"))
    assert "Sparse, 10 %" not in blind and "<x>" not in blind


def test_a_passage_that_was_tried_as_a_prompt_is_continued_there(
    open_compare, finished
):
    app = open_compare()
    button(app, "Continue with both models").click().run()
    (request,) = finished.submitted
    finished.user_data.keep_prompt(request)
    for job_now in (job(request), job(request, "failed", **FAILED)):
        finished.set_jobs(job_now)
        app = open_compare()
        assert not app.exception and "Continued below, among your prompts." in words(
            app
        )
