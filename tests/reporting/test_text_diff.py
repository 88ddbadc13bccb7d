"""Where two texts part."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedash.reporting.html import visible
from sparsedash.reporting.record_pair import DIVERGENCE_SIGN, SHOWN_CHARACTERS, mark_divergence


def shown(drawn: str) -> str:
    """What a reader sees."""
    return html.unescape(re.sub(r"<[^>]+>", "", drawn))


def test_the_mark_stands_behind_the_words_that_both_begin_with():
    left, right = map(shown, mark_divergence("the harbour was quiet", "the harbour and the sea"))
    assert (left, right) == (f"the harbour {DIVERGENCE_SIGN}was quiet", f"the harbour {DIVERGENCE_SIGN}and the sea")


def test_texts_that_differ_from_the_first_word_begin_with_the_mark():
    assert [shown(drawn)[0] for drawn in mark_divergence("old", "new")] == [DIVERGENCE_SIGN, DIVERGENCE_SIGN]


@pytest.mark.parametrize(("left", "right"), [("so it was", "so it was"), ("so it was\n", "so it was "), ("", "")])
def test_equal_texts_carry_no_mark(left, right):
    assert not any(DIVERGENCE_SIGN in drawn for drawn in mark_divergence(left, right))


def test_a_text_that_ends_earlier_has_the_mark_at_its_end():
    left, right = map(shown, mark_divergence("so it", "so it was"))
    assert (left, right) == (f"so it{DIVERGENCE_SIGN}", f"so it {DIVERGENCE_SIGN}was")


def test_nothing_is_struck_out():
    assert not any(f"<{name}>" in drawn for drawn in mark_divergence("right", "wrong") for name in ("del", "ins", "s"))


def test_the_mark_is_named_for_those_who_do_not_see_it():
    assert all('role="img" aria-label="parts"' in drawn for drawn in mark_divergence("old", "new"))


@given(
    st.text(max_size=60).filter(lambda t: DIVERGENCE_SIGN not in t),
    st.text(max_size=60).filter(lambda t: DIVERGENCE_SIGN not in t),
)
def test_nothing_is_lost_or_let_through(left, right):
    for text, drawn in zip((left, right), mark_divergence(left, right), strict=True):
        assert shown(drawn).replace(DIVERGENCE_SIGN, "") == visible(text)


def test_an_endless_text_is_cut():
    left, right = mark_divergence("w" * 100_000, "one word")
    assert len(left) < 2 * SHOWN_CHARACTERS
    assert "…" in left
    assert "one word" in right
