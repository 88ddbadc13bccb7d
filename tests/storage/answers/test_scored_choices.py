"""The choice that a measure takes, by hand."""

import pytest

from sparsedash.storage.answers.scored_choices import ScoredChoices, chosen_place

SPACED = ScoredChoices(
    texts=["no", "   no", "ß"],
    log_likelihoods=[-2.0, -3.0, -1.2],
    unconditional=[-1.0, -4.0, -1.0],
    greedy=[True, False, True],
    target="2",
)


@pytest.mark.parametrize(
    ("measure", "place"),
    [
        # -2, -3, -1.2
        ("acc", 2),
        # -2 / 2, -3 / 5, -1.2 / 1: white space of the choice counts.
        ("acc_norm", 1),
        # -2 / 2, -3 / 5, -1.2 / 2
        ("acc_bytes", 1),
        # -1, 1, -0.2
        ("acc_mutual_info", 1),
        ("pct_stereotype", 2),
    ],
)
def test_each_measure_takes_its_own_choice(measure, place):
    assert chosen_place(measure, SPACED, right=False) == place


def test_of_two_first_choices_the_one_is_shown_that_agrees_with_being_right_or_wrong():
    assert [chosen_place("exact_match", SPACED, right) for right in (True, False)] == [
        2,
        0,
    ]
    none = ScoredChoices(
        texts=["a", "b"],
        log_likelihoods=[-1.0, -2.0],
        greedy=[False, False],
    )
    assert chosen_place("exact_match", none, right=False) is None


def test_a_choice_without_a_letter_is_taken_as_numpy_takes_it():
    for empty, place in ((-1.0, 1), (0.0, 0)):
        choices = ScoredChoices(texts=["", "no"], log_likelihoods=[empty, -9.0])
        assert chosen_place("acc_norm", choices, right=False) == place


@pytest.mark.parametrize("measure", ["acc_norm", "acc_bytes", "acc_mutual_info"])
def test_where_the_measure_s_inputs_are_not_known_no_choice_is_shown(measure):
    assert (
        chosen_place(
            measure, ScoredChoices(texts=None, log_likelihoods=[-1.0, -2.0]), right=True
        )
        is None
    )
