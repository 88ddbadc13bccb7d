"""Passages: first choices, changes in words and ranges, groups and their losses."""

import html
import itertools
import re
from dataclasses import replace
from math import inf, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedash.reporting.passage_analysis import (
    LESS,
    MORE,
    MOST_RANGES,
    NOT_AMONG_FIRST,
    ChangeRange,
    change_ranges,
    change_words,
    count_by_range,
    slice_html,
    slice_losses,
    slice_table,
    slices,
    token_choices,
    token_choices_html,
    token_choices_table,
)
from sparsedash.reporting.record_pair import Pair
from sparsedash.schema.records import Candidate, Passages, TargetToken
from sparsedash.stats.mean_intervals import mean_interval
from sparsedash.stats.tolerance import passage_losses
from tests.factories import STOPPED, outcome
from tests.ui import specimens
from tests.ui.conftest import shows_as_text
from tests.ui.fake_backend import FakeBackend


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
    ("by", "context", "target", "name"),
    [
        ("Length of the right word", "He saw the", "door", "1 to 4 letters"),
        ("Length of the right word", "He saw the", "doors", "5 to 6 letters"),
        ("Length of the right word", "He saw the", "Samuel.", "5 to 6 letters"),
        ("Length of the right word", "He saw the", "harbour", "7 letters and more"),
        ("How it is written", "He saw", "Felix", "with a capital, mostly names"),
        ("How it is written", "He saw", "cat", "in small letters"),
        ("How it is written", "He saw", "1912", "a number or a sign"),
        ("Speech", 'He said: "come to the', "door", "within speech"),
        ("Speech", "He said: “come to the", "door", "within speech"),
        ("Speech", "`` come to the", "door", "within speech"),
        ("Speech", '"Come," he said and went to the', "door", "beside speech"),
        ("Speech", "`` come '' , he said and took the", "door", "beside speech"),
        ("Speech", "It's quiet at the", "door", "no speech in the passage"),
        ("Where it was named last", "It was a", "door", "not named before"),
        ("Where it was named last", "It was the Door", "door", "1 to 20 words before"),
        ("Where it was named last", "the door" + " x" * 19, "door", "1 to 20 words before"),
        ("Where it was named last", "the door" + " x" * 20, "door", "21 to 60 words before"),
        ("Where it was named last", "the door" + " x" * 60, "door", "61 words before and more"),
    ],
)
def test_a_passage_is_grouped_by_what_can_be_read_off_its_text(by, context, target, name):
    assert groups(by, (context, target)) == [name]


def test_a_word_is_rare_when_no_other_passage_has_it():
    pairs = [("The door and the", "door"), ("A Door by the", "wall"), ("Nothing but the", "sea")]
    by = groups("How rare it is here", *pairs)
    assert by == ["in 1 to 4 others", "in no other passage", "in no other passage"]
    assert set(groups("How rare it is here", *[("a", "door")] * 6)) == {"in 5 others and more"}


@given(st.lists(st.tuples(st.text(max_size=30), st.text(min_size=1, max_size=8)), min_size=1, max_size=8))
def test_every_passage_is_in_one_group_of_every_kind(pairs):
    found = slices(texts(*pairs))
    for by in {each.by for each in found}:
        positions = [position for each in found if each.by == by for position in each.positions]
        assert sorted(positions) == list(range(len(pairs)))
    assert len({each.by for each in found}) == 5


def answered(target: tuple[str, float], *top: tuple[str, float]):
    """An outcome with these first choices. target: the first token of the right word, with its probability."""
    return replace(
        outcome(),
        tokens=(TargetToken(text=target[0], log_likelihood=log(target[1]), rank=1),),
        top=tuple(Candidate(text=text, probability=share) for text, share in top),
    )


DENSE = answered((" door", 0.4), (" door", 0.4), (" wall", 0.2))
SPARSE = answered((" door", 0.01), (" wall", 0.3), (" old", 0.1))


def widths(drawn: str) -> list[float]:
    return [float(found) for found in re.findall(r"width: ([\d.]+)%", drawn)]


def test_every_choice_of_either_stands_once_the_likeliest_first():
    assert [choice.text for choice in token_choices(DENSE, SPARSE)] == [" door", " wall", " old"]


def test_the_right_word_is_there_also_where_neither_names_it():
    one, other = answered((" door", 0.001), (" wall", 0.2)), answered((" door", 0.002), (" wall", 0.3))
    found = token_choices(one, other)
    assert [(c.text, c.target) for c in found] == [(" wall", False), (" door", True)]
    assert (round(found[1].left, 6), round(found[1].right, 6)) == (0.001, 0.002)


def test_what_is_not_among_a_models_choices_is_not_called_impossible():
    assert token_choices(DENSE, SPARSE)[2].left is None
    assert f"<td>{NOT_AMONG_FIRST}</td>" in token_choices_html(DENSE, SPARSE, ("Dense", "Sparse"), ("d", "s"))


def test_all_bars_are_to_the_scale_of_the_largest():
    drawn = token_choices_html(DENSE, SPARSE, ("Dense", "Sparse"), ("d", "s"))
    assert widths(drawn) == [100.0, 2.5, 50.0, 75.0, 0.0, 25.0]


def test_a_model_that_names_nothing_leaves_the_table_of_the_other():
    silent = replace(outcome(), tokens=(), top=())
    assert token_choices(silent, silent) == []
    assert widths(token_choices_html(silent, SPARSE, ("Dense", "Sparse"), ("d", "s"))) == [0.0, 100.0, 0.0, 33.3]


def test_tokens_and_names_are_shown_as_text():
    drawn = token_choices_html(answered(("<b>", 0.5)), SPARSE, ("<i>", "b"), ("d", "s"))
    assert "<b>" not in drawn and "<i>" not in drawn


def test_the_table_can_be_taken_along_with_the_same_numbers():
    drawn, file = (
        token_choices_html(DENSE, SPARSE, ("Dense", "Sparse"), ("d", "s")),
        token_choices_table(DENSE, SPARSE, ("Dense", "Sparse")),
    )
    assert file.head == ["Next token", "Begins the right word", "Dense", "Sparse"]
    assert [row[:2] for row in file.rows] == [[" door", "yes"], [" wall", "no"], [" old", "no"]]
    assert all(f"<td>{cell}</td>" in drawn for row in file.rows for cell in row[2:])


FINITE = st.floats(-800, 800, allow_nan=False)


@pytest.mark.parametrize(
    ("low", "high", "address", "words"),
    [
        (-2.0, -1.5, "-2..-1.5", "fell by 1.5 to 2"),
        (-inf, -3.0, "..-3", "fell by 3 or more"),
        (-0.5, 0.0, "-0.5..0", "fell by 0 to 0.5"),
        (0.0, 0.5, "0..0.5", "rose by 0 to 0.5"),
        (3.0, inf, "3..", "rose by 3 or more"),
    ],
)
def test_a_range_has_its_name_in_the_address_and_in_words(low, high, address, words):
    found = ChangeRange(low=low, high=high)
    assert (found.address, found.words) == (address, words)


@given(st.lists(FINITE, max_size=40))
def test_every_change_is_counted_once_in_ranges_that_leave_no_gap(changes):
    found = change_ranges(changes)
    assert sum(count_by_range(changes, found)) == len(changes)
    assert (found[0].low, found[-1].high) == (-inf, inf)
    assert all(one.high == other.low for one, other in itertools.pairwise(found))
    for change in changes:
        at = count_by_range([change], found).index(1)
        assert found[at].low <= change < found[at].high


@given(st.lists(FINITE, min_size=1, max_size=200))
def test_there_are_few_ranges_and_none_mixes_falls_and_rises(changes):
    found = change_ranges(changes)
    assert 2 <= len(found) <= MOST_RANGES + 1
    assert 0.0 in [each.high for each in found]
    assert len({each.address for each in found}) == len(found)


def test_the_ranges_are_round_and_fit_what_is_common():
    found = change_ranges([-2.9, -1.2, -0.4, 0.0, 0.3] * 20 + [-40.0])
    assert [each.address for each in found][:4] == ["..-2.5", "-2.5..-2", "-2..-1.5", "-1.5..-1"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (-log(4), "“a” became 4 times less likely. Its log-probability fell by 1.39."),
        (log(1.5), "“a” became 1.5 times more likely. Its log-probability rose by 0.41."),
        (-log(1234), "“a” became 1,234 times less likely. Its log-probability fell by 7.12."),
        (-900.0, "“a” became over 1,000,000 times less likely. Its log-probability fell by 900.00."),
        (0.004, "“a” stayed as likely as it was. Its log-probability stayed the same."),
    ],
)
def test_a_change_is_said_as_a_factor_first(change, said):
    assert change_words(change, "a") == said


LOST_BY_LONG = 3.0


def pair_of(**changes):
    """Dense beside a model that loses nothing but on words of seven letters and more, where it loses about 3 nats."""
    _, records = specimens.run()
    dense = records[0]
    outcomes = tuple(
        replace(o, log_likelihood=o.log_likelihood - (LOST_BY_LONG + i % 3 / 10 if len(o.target) >= 7 else 0.0))
        for i, o in enumerate(dense.outcomes)
    )
    sparse = replace(records[-1], outcomes=outcomes, **changes)
    return Pair(left_name="dense", left=dense, right_name="30 %", right=sparse)


def found_in(pair):
    return slice_losses(FakeBackend(), pair, specimens.passages())


def test_the_group_that_loses_is_marked_and_those_that_lose_less_too():
    found = found_in(pair_of())
    marks = {row.group.name: row.beside(found.mean) for row in found.rows}
    assert marks["7 letters and more"] == MORE
    assert marks["5 to 6 letters"] == LESS
    assert marks["in small letters"] == ""


def test_a_group_has_the_losses_and_the_interval_of_its_own_passages():
    pair = pair_of()
    found = found_in(pair)
    row = next(row for row in found.rows if row.group.name == "7 letters and more")
    assert all(len(pair.left.outcomes[p].target) >= 7 for p in row.group.positions)
    assert row.losses == passage_losses([pair.outcomes(p) for p in row.group.positions])
    assert row.nats == mean_interval(row.losses.nats, found.alpha)


def test_where_one_stopped_early_the_intervals_allow_for_it():
    usual, looked = found_in(pair_of()), found_in(pair_of(stopping=STOPPED))
    for one, other in zip(usual.rows, looked.rows, strict=True):
        assert other.nats[0] <= one.nats[0] and other.nats[1] >= one.nats[1]


def test_all_groups_share_the_chance_of_error_and_stand_in_one_table_that_can_be_downloaded():
    found = found_in(pair_of())
    assert found.alpha == pytest.approx(0.05 / (2 * len(found.rows)))
    drawn, file = slice_html(found, "<i>", "dense"), slice_table(found, "<i>", "dense")
    assert f" {len(found.rows)} groups, with two intervals each" in drawn
    assert drawn.count('scope="colgroup"') == len({row[0] for row in file.rows}) == 5
    assert drawn.count('scope="row"') == len(file.rows) == len(found.rows)
    assert file.head[:3] == ["Grouped by", "Group", "Passages"]
    assert all(f"<td>{html.escape(cell)}</td>" in drawn for row in file.rows for cell in row[2:] if cell)
    assert "<i>" not in drawn
    shows_as_text(drawn)


def test_a_group_of_one_passage_has_no_interval():
    passages = specimens.passages()
    lonely = replace(passages, targets=("1", *passages.targets[1:]))
    drawn = slice_html(slice_losses(FakeBackend(), pair_of(), lonely), "30 %", "dense")
    assert "(no interval)" in drawn
