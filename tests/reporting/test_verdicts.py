"""What a comparison shows and what it leaves open, in sentences."""

from dataclasses import replace

import pytest

from sparsedash.reporting import verdicts
from sparsedash.reporting.wording import NBSP
from sparsedash.stats.significance import paired
from tests.factories import RECORD, STOPPED


def plain(text: str) -> str:
    return text.replace(NBSP, " ")


def test_the_verdict_says_in_words_what_broke_and_whether_a_difference_is_shown():
    dense = [True] * 68 + [False] * 132
    sparse = [True] * 59 + [False] * 9 + [True] * 3 + [False] * 129
    said = plain(verdicts.verdict(paired(dense, sparse)))
    assert said.startswith("9 answers broke, 3 were mended; no difference shown: −3.0 points, 95 % interval −")
    assert said.endswith("p = 0.15.")


def test_a_verdict_on_the_border_says_why_and_how_many_passages_would_settle_it():
    dense = [True] * 36 + [False] * 84
    sparse = [True] * 27 + [False] * 9 + [True] * 2 + [False] * 82
    found = paired(dense, sparse)
    assert "; a borderline difference: −5.8 points, 95 % interval −12.3 to −0.5, p = 0.065." in plain(
        verdicts.verdict(found)
    )
    said = verdicts.doubt(found)
    assert said.startswith("Borderline: the interval leaves zero out, but the exact test")
    assert said.endswith("About 210 passages would be needed to show a difference of this size.")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "20 % stopped after 512 of 5,153 passages: a difference to the dense model is shown."),
        (
            {"decision": "close"},
            "20 % stopped after 512 of 5,153 passages: the difference to the dense model is under 2 points.",
        ),
        ({"decision": "open", "n_answered": 5153}, "20 % answered all 5,153 passages: nothing was decided before."),
    ],
)
def test_how_an_evaluation_ended_that_was_to_stop_early(change, said):
    ended = replace(RECORD, stopping=replace(STOPPED, **{"n_answered": 512, "n_passages": 5153} | change))
    found = verdicts.endings({"dense": RECORD, "20 %": ended})
    assert found.startswith(said)
    assert found.endswith("allow for having looked on the way.")
    assert verdicts.endings({"dense": RECORD}) == ""


def test_what_is_not_shown_is_not_called_equal():
    said = verdicts.doubt(paired([True] * 60 + [False] * 60, [False] * 2 + [True] * 59 + [False] * 59))
    assert said.startswith("The interval covers zero, which does not prove")
    assert "passages would be needed" in said


def test_there_is_no_doubt_where_a_difference_is_shown_or_nothing_changed():
    assert verdicts.doubt(paired([True] * 40, [True] * 20 + [False] * 20)) == ""
    assert verdicts.doubt(paired([True], [True])) == ""


def test_one_answer_is_not_called_answers():
    said = verdicts.verdict(paired([True, False], [False, True]))
    assert said.startswith("1 answer broke, 1 was mended;")


def test_two_equal_models_need_no_statistics():
    assert (
        verdicts.verdict(paired([True], [True]))
        == "Every verdict stayed the same: nothing broke and nothing was mended."
    )


def test_a_clear_loss_is_called_shown():
    assert "a difference is shown" in verdicts.verdict(paired([True] * 40, [True] * 20 + [False] * 20))
