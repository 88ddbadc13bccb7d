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
    return judge_all([Losses(nats=found, anytime=False, **counts)], tolerance or Tolerance())[0]


def test_the_flips_are_counted():
    assert verdicts.flip_words(compare_verdicts([True] * 12, [True] * 3 + [False] * 9)) == "9 answers broke, 0 fixed."
    assert verdicts.flip_words(compare_verdicts([True, False], [False, True])) == "1 answer broke, 1 fixed."


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (judged(0.02), "stays within the limits: word perplexity 1.02 × (limit 1.1 ×), accuracy 0.0 points (limit −2)"),
        (judged(0.3), "costs too much: word perplexity 1.35 × (limit 1.1 ×)"),
        (judged(0.0, broke=90), "costs too much: accuracy −9.0 points (limit −2)"),
        (
            judged(0.3, broke=90),
            "costs too much: word perplexity 1.35 × (limit 1.1 ×), accuracy −9.0 points (limit −2)",
        ),
        (
            judged(0.02, broke=30, mended=20),
            "stays within the limits, with accuracy undecided: word perplexity 1.02 × (limit 1.1 ×)",
        ),
        (
            judged(0.02, n_right=3),
            "stays within the limits, with accuracy not judged: word perplexity 1.02 × (limit 1.1 ×)",
        ),
        (
            judged(0.0, deviation=0.0, n=132, n_right=27),
            "stays within the limits: word perplexity 1.00 × (limit 1.1 ×)",
        ),
        (judged(0.09), "is too close to call on 1,000 passages"),
        (judged(0.0, n=1), "cannot be judged on 1 passage"),
    ],
    ids=["within", "perplexity", "accuracy", "both", "open", "not-judged", "unchanged", "undecided", "too-few"],
)
def test_a_verdict_says_which_measures_decided_it_and_their_limits(found, said):
    assert plain(verdicts.decision_words(found)) == said
    assert verdicts.verdict_words("20 %", found, Tolerance())[0] == f"20 % {said.partition(':')[0]}."


def test_a_tolerance_is_said_as_it_was_typed():
    tolerance = Tolerance(ratio=1.25, points=1.0)
    assert verdicts.tolerance_words(tolerance) == "1.25 × word perplexity and 1 point of accuracy"
    assert "(limit 1.25 ×)" in verdicts.decision_words(judged(0.6, tolerance=tolerance))


def test_the_loss_is_said_on_both_measures_with_their_intervals():
    said = plain(verdicts.loss_words(judged(0.3, broke=30, mended=10)))
    assert said.startswith("word perplexity 1.35 × dense's (97.5 % interval 1.32 to 1.38), accuracy −2.0 points (95 % ")
    assert plain(verdicts.loss_words(judged(0.3, n_right=3))).endswith("; too few answers are right to judge accuracy")
    assert "1.35 × that of 10 % (" in plain(verdicts.loss_words(judged(0.3), "10 %"))
    assert "(no interval)" in verdicts.loss_words(judged(0.3, n=1, n_right=0))


def test_what_is_open_is_said_with_the_passages_that_would_settle_it():
    _, lost, _ = verdicts.verdict_words("20 %", judged(0.09), Tolerance())
    assert ". About " in lost and lost.endswith("passages would settle it, if the loss stays what it was on 1,000.")
    _, lost, _, accuracy = verdicts.verdict_words("20 %", judged(0.02, broke=30, mended=20), Tolerance())
    assert "settle" not in lost and accuracy.endswith("passages would settle it. Word perplexity decides.")


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
    assert found.endswith("allow for the looks on the way.")
    assert verdicts.early_stopping_words({"dense": RECORD}) == ""
