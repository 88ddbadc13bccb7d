"""Passages: first choices, changes in words and ranges, groups and their losses."""

import itertools
import re
from dataclasses import replace
from math import inf, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedash.reporting import passage_analysis as analysis
from sparsedash.reporting.record_pair import Pair
from sparsedash.reporting.wording import NBSP
from sparsedash.schema.records import Candidate, Passages, TargetToken
from tests.factories import STOPPED, outcome
from tests.ui import specimens


def texts(*pairs):
    """Passages of these contexts and targets."""
    return Passages(
        key="p",
        indices=tuple(range(len(pairs))),
        contexts=tuple(context for context, _ in pairs),
        targets=tuple(target for _, target in pairs),
    )


def groups(*pairs):
    """The groups that each passage is in."""
    names = [set() for _ in pairs]
    for (_, name), positions in analysis.passage_groups(texts(*pairs)).items():
        for position in positions:
            names[position].add(name)
    return names


def test_a_passage_is_grouped_by_what_can_be_read_off_its_text():
    cases = {
        ("He saw the", "door"): "1 to 4 letters",
        ("He saw the", "doors"): "5 to 6 letters",
        ("He saw the", "Samuel."): "5 to 6 letters",
        ("He saw the", "harbour"): "7 letters and more",
        ("He saw", "Felix"): "capital, mostly names",
        ("He saw", "cat"): "lower case",
        ("He saw", "1912"): "number or sign",
        ('He said: "come to the', "door"): "within speech",
        ("He said: “come to the", "door"): "within speech",
        ('"Come," he said and went to the', "door"): "beside speech",
        ("`` come '' , he said and took the", "door"): "beside speech",
        ("It's quiet at the", "door"): "no speech in the passage",
        ("It was a", "door"): "none",
        ("It was the Door", "door"): "1 to 20 words before",
        ("the door" + " x" * 19, "door"): "1 to 20 words before",
        ("the door" + " x" * 20, "door"): "21 to 60 words before",
        ("the door" + " x" * 60, "door"): "61 words before and more",
    }
    assert [case for case, name in cases.items() if name not in groups(case)[0]] == []


def test_a_word_is_rare_when_no_other_passage_has_it():
    results = groups(
        ("The door and the", "door"),
        ("A Door by the", "wall"),
        ("Nothing but the", "sea"),
    )
    for here, name in zip(
        results,
        ("in 1 to 4 others", "in no other passage", "in no other passage"),
        strict=True,
    ):
        assert name in here
    assert all("in 5 others and more" in here for here in groups(*[("a", "door")] * 6))


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.text(max_size=30),
            st.text(min_size=1, max_size=8),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_every_passage_is_in_one_group_of_every_kind(pairs):
    results = analysis.passage_groups(texts(*pairs))
    kinds = {}
    for (label, _), positions in results.items():
        kinds.setdefault(label, []).extend(positions)
    assert [sorted(positions) for positions in kinds.values()] == [
        list(range(len(pairs)))
    ] * 5


def answered(target: tuple[str, float], *top: tuple[str, float]):
    """An outcome with these first choices. target: the first token of the right word, with its
    probability.
    """
    return replace(
        outcome(),
        tokens=(
            TargetToken(
                text=target[0],
                log_likelihood=log(target[1]),
                rank=1,
            ),
        ),
        top=tuple(Candidate(text=text, probability=share) for text, share in top),
    )


DENSE = answered(
    (" door", 0.4),
    (" door", 0.4),
    (" wall", 0.2),
)
SPARSE = answered(
    (" door", 0.01),
    (" wall", 0.3),
    (" old", 0.1),
)
SILENT = replace(outcome(), tokens=(), top=())
RECORDS = specimens.record([True]), specimens.record([True], 300)


def choices(left, right, name="30 %"):
    """The rows of both models' first choices, and the widths of their bars."""
    one, second = (
        replace(r, outcomes=(o,)) for r, o in zip(RECORDS, (left, right), strict=True)
    )
    drawn, file = analysis.first_choices(
        Pair(
            left_name="dense",
            left=one,
            right_name=name,
            right=second,
        ),
        0,
    )
    for row in file.data:
        for share in [*row.values()][2:]:
            cell = "–" if share is None else f"{share:.1f}{NBSP}%"
            assert f"<td>{cell}</td>" in drawn
    assert "<b>" not in drawn
    return [tuple(row.values()) for row in file.data], [
        float(width) for width in re.findall(r"width: ([\d.]+)%", drawn)
    ]


def test_every_choice_of_either_stands_once_the_likeliest_first_with_bars_to_one_scale():
    rows, widths = choices(DENSE, SPARSE)
    assert rows == [
        (" door", True, pytest.approx(40), pytest.approx(1)),
        (" wall", False, 20.0, 30.0),
        (" old", False, None, 10.0),
    ]
    assert widths == [
        100.0,
        2.5,
        50.0,
        75.0,
        0.0,
        25.0,
    ]


@pytest.mark.parametrize(
    ("left", "right", "named"),
    [
        # The right word is there although neither names it.
        (
            answered((" door", 0.001), (" wall", 0.2)),
            answered((" door", 0.002), (" wall", 0.3)),
            [" wall", " door"],
        ),
        (SILENT, SILENT, []),
        (SILENT, SPARSE, [" wall", " old"]),
        (answered(("<b>", 0.5)), SPARSE, ["<b>", " wall", " old"]),
    ],
    ids=["unnamed", "both-silent", "one-silent", "markup"],
)
def test_the_right_word_is_listed_and_a_silent_model_leaves_the_choices_of_the_other(
    left, right, named
):
    rows, _ = choices(left, right, "<b>")
    assert [row[0] for row in rows] == named


FINITE = st.floats(-800, 800, allow_nan=False)


def test_a_range_has_its_name_in_the_address_and_in_words():
    ends = [
        (-2.0, -1.5),
        (-inf, -3.0),
        (-0.5, 0.0),
        (0.0, 0.5),
        (3.0, inf),
    ]
    results = [analysis.ChangeRange(low=low, high=high) for low, high in ends]
    assert [interval.address for interval in results] == [
        "-2..-1.5",
        "..-3",
        "-0.5..0",
        "0..0.5",
        "3..",
    ]
    words = (
        "fell by 1.5 to 2",
        "fell by 3 or more",
        "fell by up to 0.5",
        "stayed, or rose by up to 0.5",
        "rose by 3 or more",
    )
    assert tuple(interval.words for interval in results) == words


@given(st.lists(FINITE, max_size=80))
def test_every_change_is_counted_once_in_ranges_that_leave_no_gap(changes):
    results = analysis.change_ranges(changes)
    assert sum(analysis.count_by_range(changes, results)) == len(changes)
    assert (results[0].low, results[-1].high) == (-inf, inf)
    assert all(one.high == second.low for one, second in itertools.pairwise(results))
    assert 2 <= len(results) <= analysis.MAX_RANGES + 1 and 0.0 in [
        interval.high for interval in results
    ]
    for change in changes:
        place = analysis.count_by_range([change], results).index(1)
        assert results[place].low <= change < results[place].high


def test_the_ranges_are_round_and_fit_what_is_common():
    results = analysis.change_ranges(
        [
            -2.9,
            -1.2,
            -0.4,
            0.0,
            0.3,
        ]
        * 20
        + [-40.0]
    )
    assert [interval.address for interval in results][:4] == [
        "..-2.5",
        "-2.5..-2",
        "-2..-1.5",
        "-1.5..-1",
    ]


def test_a_change_is_said_as_a_factor_first():
    words = [
        analysis.change_words(change, "a")
        for change in (-log(4), log(1.5), -900.0, 0.004)
    ]
    assert words == [
        "“a” became 4.00 times less likely. Its log-probability fell by 1.39.",
        "“a” became 1.50 times more likely. Its log-probability rose by 0.41.",
        "“a” became over 1,000,000 times less likely. Its log-probability fell by 900.00.",
        "“a” stayed as likely.",
    ]


def pair_of(**changes):
    """Dense beside a model that loses nothing but on words of seven letters and more, where it
    loses about 1.5 nats.
    """
    _, (dense, *_, sparse) = specimens.run()
    outcomes = tuple(
        replace(
            o,
            log_likelihood=o.log_likelihood
            - (1 + i % 3 / 2 if len(o.target) >= 7 else 0.0),
        )
        for i, o in enumerate(dense.outcomes)
    )
    return Pair(
        left_name="dense",
        left=dense,
        right_name="<i>",
        right=replace(sparse, outcomes=outcomes, **changes),
    )


def lost(pair, passages=None):
    """The table's rows by the names of the groups."""
    return {
        row[0].partition(": ")[2]: row[1:]
        for row in analysis.group_losses(pair, passages or specimens.passages()).rows
    }


def test_the_group_that_loses_is_marked_and_those_that_lose_less_too():
    rows = lost(pair_of())
    assert [
        rows[name][-1]
        for name in ("7 letters and more", "5 to 6 letters", "lower case")
    ] == [
        analysis.MORE,
        analysis.LESS,
        "",
    ]
    n = sum(len(target) >= 7 for target in specimens.passages().targets)
    assert rows["7 letters and more"][:3] == [str(n), "0", "0"]
    assert rows["7 letters and more"][4].startswith("4.")


def test_all_groups_share_the_chance_of_error_and_one_that_may_have_stopped_early_has_wider_intervals():
    table = analysis.group_losses(pair_of(), specimens.passages())
    n = len(table.rows)
    assert (
        f"{n} groups, two intervals each at {100 * (1 - 0.05 / (2 * n)):.2f}"
        in table.caption
    )
    assert (
        table.caption.startswith("<i> against dense, paired.")
        and "<i>" not in table.html
    )
    ends = []
    for rows in (lost(pair_of()), lost(pair_of(stopping=STOPPED))):
        ends.append(
            list(map(float, re.findall(r"[\d.]+", rows["7 letters and more"][4])[1:]))
        )
    assert ends[1][0] < ends[0][0] < ends[0][1] < ends[1][1]


def test_small_groups_are_left_out_and_counted_and_without_any_other_there_is_one_sentence():
    passages = specimens.passages()
    results = analysis.group_losses(
        pair_of(),
        replace(passages, targets=("1",) * 19 + passages.targets[19:]),
    )
    assert "Spelling: number or sign" not in [
        row["kind"] + ": " + row["group"] for row in results.data
    ]
    assert min(row["passages"] for row in results.data) >= 20
    assert "Left out: 2 groups of under 20 passages, 19 in all." in results.caption
    short = replace(
        pair_of(),
        left=specimens.record([True] * 19),
        right=specimens.record([True] * 19, 300),
    )
    empty = analysis.group_losses(short, specimens.passages(19))
    assert (empty.rows, empty.caption) == (
        [],
        "No group has 20 passages; 19 were compared.",
    )
