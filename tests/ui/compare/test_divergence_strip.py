"""The heat strip in each of its states."""

import pytest

from sparsedash.schema.pair_records import Divergence, DivergenceSettings, Place
from sparsedash.ui.compare_passage import heat_level
from tests.ui.conftest import FAILED, button, markup, shows_as_text, words
from tests.ui.fake_backend import job


def asked_by(backend, index=13):
    run = backend.stored_runs[0]
    passages = backend.stored_passages["passages"]
    target = backend.record(run.dense).outcomes[index].target
    text = f"{passages.contexts[index]} {target}"
    return DivergenceSettings(left=run.dense, right=run.sparse[-1], text=text)


def opened(open_page):
    return open_page("compare", passage="13", sort="file order")


def test_it_is_computed_when_it_is_asked_for(open_page, finished):
    app = opened(open_page)
    button(app, "Show where the two differ").click().run()
    assert finished.submitted == [asked_by(finished)]
    assert "Waiting" in words(app)


@pytest.mark.parametrize(
    ("state", "more", "expected"),
    [
        ("running", {"stage": "diverge"}, "Comparing token by token"),
        ("failed", FAILED, "The model cannot be reached."),
        ("cancelled", {}, "Cancelled"),
    ],
)
def test_its_job_is_shown_where_it_will_be(state, more, expected, open_page, finished):
    finished.stored_jobs = [job(asked_by(finished), state, **more)]
    assert expected in words(opened(open_page))


def stored(backend, *places):
    request = asked_by(backend)
    backend.stored_divergences[request.key()] = Divergence(key=request.key(), opening="Mara", places=places)


def test_each_place_says_its_number_and_what_each_model_expects(open_page, finished):
    stored(
        finished,
        Place(text=" had", nats=0.004, left=" had", right=" had"),
        Place(text=" looked", nats=1.234, left=" been", right=" seen"),
    )
    app = opened(open_page)
    drawn = markup(app)
    assert '<span class="sd-heat sd-heat-0"' in drawn
    assert 'title="1.23 nats: dense expects “ been”, 30 % “ seen”"' in drawn
    assert "“ looked” 1.23 “ been” “ seen” “ had” 0.00" in words(app)
    assert "KL(dense ‖ 30 %), in nats" in words(app)


def test_the_largest_places_are_reached_by_the_keyboard(open_page, finished):
    stored(finished, *(Place(text=" x", nats=i / 10, left="a", right="b") for i in range(50)))
    drawn = markup(opened(open_page))
    assert drawn.count('data-tip="') == 20
    assert "4.90 nats" in drawn.partition('data-tip="')[2]


def test_how_strongly_a_place_is_drawn_grows_with_the_nats():
    assert [heat_level(nats) for nats in (0, 0.01, 0.1, 0.3, 0.8, 9)] == [0, 1, 2, 3, 4, 4]


@pytest.mark.parametrize("text", ["<img src=x onerror=alert(1)>", "a\u202eb\x00", '"><script>'])
def test_tokens_are_shown_as_text(text, open_page, finished):
    stored(finished, Place(text=text, nats=1.0, left=text, right=text))
    drawn = markup(opened(open_page))
    assert "<img" not in drawn and '"><script>' not in drawn
    shows_as_text(drawn)


def test_a_later_part_of_a_character_has_no_place_in_the_text(open_page, finished):
    stored(finished, Place(text="é", nats=0.1, left="a", right="b"), Place(text="", nats=2.0, left="a", right="b"))
    said = words(opened(open_page))
    assert "a part of a character 2.00" in said


def test_a_passage_that_is_too_long_is_said_to_be(open_page, finished):
    passages = finished.stored_passages["passages"]
    object.__setattr__(passages, "contexts", ("w" * 100_001,) * 120)
    assert "cannot be compared token by token" in words(opened(open_page))
