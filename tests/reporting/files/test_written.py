"""What the models wrote, in the report."""

import html
import re

import pytest

from sparsedash.reporting.record_pair import Pair
from sparsedash.reporting.run_reports import (
    MOST_CONTINUATIONS,
    continuations_section,
    html_report,
    sampling_words,
    stored_continuations,
)
from sparsedash.reporting.run_results import run_results
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from tests.ui import specimens
from tests.ui.conftest import shows_as_text
from tests.ui.fake_backend import FakeBackend


@pytest.fixture
def house():
    """A backend with a run, the run, and its first and last record beside each other."""
    backend = FakeBackend()
    run, records = specimens.run()
    backend.add_run((run, records))
    return backend, run, Pair(left_name="dense", left=records[0], right_name="30 %", right=records[-1])


def store(backend, pair, prompt, left, right, others=(), wrote=(), **more):
    """Put in what both wrote after a prompt."""
    request = ContinuationSettings(left=pair.left.key, right=pair.right.key, prompt=prompt, others=others)
    backend.stored_continuations[request.key()] = Continuation(
        key=request.key(), prompt=prompt, left=left, right=right, others=tuple(wrote), **more
    )
    return request


def found_in(house):
    backend, run, pair = house
    return stored_continuations(backend, run, pair, specimens.passages())


def test_prompts_stand_first_with_every_model_that_wrote(house):
    backend, run, pair = house
    request = store(backend, pair, "Once", "a b", "a c", others=run.sparse[:1], wrote=("x",))
    backend.user_data.keep_prompt(request)
    (found,) = found_in(house)
    assert found.texts == {"dense": "a b", "30 %": "a c", "10 %": "x"}
    assert found.how == "A visitor's prompt, first choices, 40 tokens"


def test_a_passage_that_broke_and_was_continued_is_there_and_others_are_not(house):
    backend, _, pair = house
    context = specimens.passages().contexts[0]
    store(backend, pair, context, "a", "b", stopped=True)
    found = found_in(house)
    kinds = pair.kinds(range(120))
    assert len(found) == len(kinds["broke"]) + len(kinds["mended"])
    assert found[0].how == f"Passage {kinds['broke'][0] + 1}, broke, stopped before the end"


def test_without_texts_or_anything_written_there_is_no_section(house):
    backend, run, pair = house
    assert stored_continuations(backend, run, pair, None) == [] == found_in(house)
    assert continuations_section([]) == []


def test_the_report_shows_them_with_the_mark_and_nothing_in_them_is_markup(house):
    backend, run, pair = house
    request = store(backend, pair, "<b>Once\u202e", "the door <i>", "the wall <i>")
    backend.user_data.keep_prompt(request)
    page = html_report(run_results(backend, run), pair, specimens.passages(), None, found_in(house)).decode()
    said = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.partition("What the models wrote")[2])).split())
    assert said.startswith("The mark ❘ stands where a text parts from that of dense.")
    assert "<b>Once⟨U+202E⟩ dense the door <i> 30 % the ❘ wall <i>" in said
    shows_as_text(page)


def test_a_long_list_is_cut(house):
    backend, _, pair = house
    contexts = specimens.passages().contexts
    store(backend, pair, contexts[0], "a", "b")
    for number in range(50):
        backend.user_data.keep_prompt(store(backend, pair, f"prompt {number}", "a", "b"))
    assert len(found_in(house)) == min(MOST_CONTINUATIONS, 50 + 9 + 2)


def test_settings_are_said_as_they_were():
    drawn = ContinuationSettings(left="l", right="r", prompt="p", temperature_percent=70, seed=5, n_tokens=12)
    assert sampling_words(drawn) == "temperature 0.7, seed 5, 12 tokens"
