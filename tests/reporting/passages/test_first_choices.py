"""Both models' first choices in one table."""

import re
from dataclasses import replace
from math import log

from sparsedash.reporting.passage_analysis import (
    NOT_AMONG_FIRST,
    token_choices,
    token_choices_html,
    token_choices_table,
)
from sparsedash.schema.records import Candidate, TargetToken
from tests.factories import outcome


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
