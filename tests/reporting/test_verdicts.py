"""What a comparison shows and what it leaves open, in sentences."""

from dataclasses import replace

import pytest

from sparsedash.reporting import verdicts
from sparsedash.reporting.wording import NBSP
from sparsedash.stats.mean_intervals import Moments
from sparsedash.stats.significance import compare_verdicts
from sparsedash.stats.tolerance import Losses, Tolerance, judge_all
from tests.factories import RECORD, STOPPED


def plain(text: str) -> str:
    return text.replace(NBSP, " ")


def judged(nats: float, deviation: float = 0.3, n: int = 1000, tolerance: Tolerance | None = None, **more: int):
    found = Moments(n=n, mean=nats, deviation=deviation, lowest=nats, highest=nats)
    counts = {"broke": 0, "mended": 0, "n_right": 400} | more
    return judge_all([Losses(nats=found, looked=False, **counts)], tolerance or Tolerance())[0]


def test_the_flips_are_counted():
    dense = [True] * 68 + [False] * 132
    sparse = [True] * 59 + [False] * 9 + [True] * 3 + [False] * 129
    assert verdicts.flip_words(compare_verdicts(dense, sparse)) == "9 answers broke, 3 were mended."


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (judged(0.02), "20 % stays within 1.1 × the word perplexity and 2 points of accuracy: word"),
        (judged(0.3), "20 % goes beyond 1.1 × the word perplexity: word"),
        (judged(0.0, broke=90), "20 % goes beyond 2 points of accuracy: word"),
        (judged(0.3, broke=90), "20 % goes beyond 1.1 × the word perplexity and 2 points of accuracy: word"),
        (judged(0.02, broke=30, mended=20), "20 % stays within 1.1 × the word perplexity, with accuracy undecided: w"),
        (judged(0.02, n_right=3), "20 % stays within 1.1 × the word perplexity, with accuracy not judged: word"),
        (judged(0.09), "Undecided: 1,000 passages cannot tell whether 20 % stays within 1.1 × the word perplexity"),
        (judged(0.0, n=1), "Too few to judge: 1 passage cannot tell whether 20 % stays within 1.1 × the word"),
    ],
)
def test_a_verdict_is_a_sentence_with_what_is_allowed(found, said):
    assert plain(verdicts.judgement("20 %", found, Tolerance())).startswith(said)
    brief = plain(verdicts.brief_judgement("20 %", found))
    assert brief.partition("20 % ")[0] == said.partition("20 % ")[0] and "what is allowed" in brief
    assert brief.endswith(f"{verdicts.accuracy_open(found)}.")


def test_a_tolerance_is_said_as_it_was_typed():
    assert (
        verdicts.tolerance_words(Tolerance(ratio=1.25, points=1.0))
        == "1.25 × the word perplexity and 1 point of accuracy"
    )


def test_the_cost_is_said_on_both_measures_with_their_intervals():
    said = plain(verdicts.loss_words(judged(0.3, broke=30, mended=10)))
    assert said.startswith("word perplexity 1.35 × dense's (97.5 % interval 1.32 to 1.38), accuracy −2.0 points (95 % ")
    assert plain(verdicts.loss_words(judged(0.3, n_right=3))).endswith("; too few answers are right to judge accuracy")
    assert "(no interval)" in verdicts.loss_words(judged(0.3, n=1, n_right=0))


def test_what_is_open_is_said_with_the_passages_that_would_close_it():
    assert verdicts.still_open(judged(0.02)) == ""
    open_ = verdicts.still_open(judged(0.09))
    assert open_.startswith("Open: about") and "would decide it, if its loss stays what it was on 1,000" in open_
    accuracy = verdicts.still_open(judged(0.02, broke=30, mended=20))
    assert accuracy.startswith("Accuracy alone is undecided; about") and accuracy.endswith("Word perplexity decides.")


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
    found = verdicts.early_stopping_words({"dense": RECORD, "20 %": ended})
    assert found.startswith(said)
    assert found.endswith("allow for having looked on the way.")
    assert verdicts.early_stopping_words({"dense": RECORD}) == ""


def test_one_answer_is_not_called_answers():
    assert verdicts.flip_words(compare_verdicts([True, False], [False, True])) == "1 answer broke, 1 was mended."


def test_two_equal_models_need_no_statistics():
    said = verdicts.flip_words(compare_verdicts([True], [True]))
    assert said == "Every verdict stayed the same: nothing broke and nothing was mended."
