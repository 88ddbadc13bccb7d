"""Groups of passages by what can be read off their text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedash.reporting.passage_analysis import slices
from sparsedash.schema.records import Passages


def texts(*pairs):
    """Passages of these contexts and targets."""
    return Passages(
        key="p",
        indices=tuple(range(len(pairs))),
        contexts=tuple(context for context, _ in pairs),
        targets=tuple(target for _, target in pairs),
    )


def groups(by, *pairs):
    """The group of this kind that each passage is in."""
    found = {position: each.name for each in slices(texts(*pairs)) if each.by == by for position in each.positions}
    return [found[i] for i in range(len(pairs))]


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("door", "1 to 4 letters"),
        ("doors", "5 to 6 letters"),
        ("Samuel.", "5 to 6 letters"),
        ("harbour", "7 letters and more"),
    ],
)
def test_a_word_is_short_or_long(target, name):
    assert groups("Length of the right word", ("He saw the", target)) == [name]


def test_a_word_is_rare_when_no_other_passage_has_it():
    pairs = [("The door and the", "door"), ("A Door by the", "wall"), ("Nothing but the", "sea")]
    by = groups("How rare it is here", *pairs)
    assert by == ["in 1 to 4 others", "in no other passage", "in no other passage"]
    many = groups("How rare it is here", *[("a", "door")] * 6)
    assert set(many) == {"in 5 others and more"}


@pytest.mark.parametrize(
    ("target", "name"),
    [("Felix", "with a capital, mostly names"), ("cat", "in small letters"), ("1912", "a number or a sign")],
)
def test_a_capital_mostly_means_a_name(target, name):
    assert groups("How it is written", ("He saw", target)) == [name]


@pytest.mark.parametrize(
    ("context", "name"),
    [
        ('He said: "come to the', "within speech"),
        ("He said: “come to the", "within speech"),
        ("`` come to the", "within speech"),
        ('"Come," he said and went to the', "beside speech"),
        ("`` come '' , he said and took the", "beside speech"),
        ("It's quiet at the", "no speech in the passage"),
    ],
)
def test_a_gap_is_within_speech_where_a_quotation_is_open(context, name):
    assert groups("Speech", (context, "door")) == [name]


@pytest.mark.parametrize(
    ("context", "name"),
    [
        ("It was a", "not named before"),
        ("It was the Door", "1 to 20 words before"),
        ("the door" + " x" * 19, "1 to 20 words before"),
        ("the door" + " x" * 20, "21 to 60 words before"),
        ("the door" + " x" * 60, "61 words before and more"),
    ],
)
def test_the_last_time_a_word_was_named_is_counted_in_words(context, name):
    assert groups("Where it was named last", (context, "door")) == [name]


@given(st.lists(st.tuples(st.text(max_size=30), st.text(min_size=1, max_size=8)), min_size=1, max_size=8))
def test_every_passage_is_in_one_group_of_every_kind(pairs):
    found = slices(texts(*pairs))
    for by in {each.by for each in found}:
        positions = [position for each in found if each.by == by for position in each.positions]
        assert sorted(positions) == list(range(len(pairs)))
    assert len({each.by for each in found}) == 5
