"""Words that only one of two texts has."""

import html
import re

from hypothesis import given
from hypothesis import strategies as st

from sparsedash.reporting.html import visible
from sparsedash.reporting.text_diff import SHOWN_CHARACTERS, marked


def test_words_of_one_side_are_marked_on_that_side():
    left, right = marked("the old harbour was quiet", "the harbour was very quiet")
    assert left == "the <del>old </del>harbour was quiet"
    assert right == "the harbour was <ins>very </ins>quiet"


def test_equal_texts_carry_no_marks():
    assert marked("so it was", "so it was") == ("so it was", "so it was")


@given(st.text(max_size=60), st.text(max_size=60))
def test_nothing_is_lost_or_let_through(left, right):
    for text, drawn in zip((left, right), marked(left, right), strict=True):
        assert html.unescape(re.sub(r"</?(del|ins)>", "", drawn)) == visible(text)


def test_an_endless_text_is_cut_before_it_is_compared():
    left, right = marked("w" * 100_000, "one word")
    assert len(left) < 2 * SHOWN_CHARACTERS
    assert "…" in left
    assert "one word" in right
