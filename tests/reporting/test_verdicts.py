"""What a comparison shows and what it leaves open, in sentences."""

from dataclasses import replace
from math import log

import pytest

from sparsedash.reporting import verdicts, wording
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.mean_intervals import Moments
from sparsedash.stats.significance import compare_verdicts
from sparsedash.stats.tolerance import Losses, judge_all
from tests.factories import RECORD, STOPPED, plain


def judged(
    nats: float,
    deviation: float = 0.3,
    n: int = 1000,
    tolerance: Tolerance | None = None,
    **more: int,
):
    results = Moments(
        n=n,
        mean=nats,
        deviation=deviation,
        lowest=nats,
        highest=nats,
    )
    counts = {"broke": 0, "fixed": 0, "n_right": 400} | more
    return judge_all(
        [Losses(nats=results, anytime=False, **counts)],
        tolerance or Tolerance(),
    )[0]


def test_the_flips_are_counted():
    assert (
        verdicts.flip_words(compare_verdicts([True] * 12, [True] * 3 + [False] * 9))
        == "9 answers broke, 0 fixed."
    )
    assert (
        verdicts.flip_words(compare_verdicts([True, False], [False, True]))
        == "1 answer broke, 1 fixed."
    )


OPEN = "stays within your limit: perplexity 1.02 × (limit 1.10 ×)"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            judged(0.02),
            "stays within your limits: perplexity 1.02 × (limit 1.10 ×), accuracy 0.0 points (limit −2)",
        ),
        (judged(0.3), "costs too much: perplexity 1.35 × (limit 1.10 ×)"),
        (judged(0.0, broke=90), "costs too much: accuracy −9.0 points (limit −2)"),
        (
            judged(0.3, broke=90),
            "costs too much: perplexity 1.35 × (limit 1.10 ×), accuracy −9.0 points (limit −2)",
        ),
        (
            judged(0.02, broke=30, fixed=20),
            f"{OPEN}; accuracy needs more than 1,000 passages",
        ),
        (
            judged(0.02, n_right=3),
            f"{OPEN}; too few answers are right to judge accuracy",
        ),
        (judged(0.3, n_right=3), "costs too much: perplexity 1.35 × (limit 1.10 ×)"),
        (
            judged(
                0.0,
                deviation=0.0,
                n=132,
                n_right=27,
            ),
            "stays within your limit: perplexity 1.00 × (limit 1.10 ×)",
        ),
        (judged(0.09), "is too close to call on 1,000 passages"),
        (judged(0.0, n=1), "cannot be judged on 1 passage"),
    ],
    ids=[
        *("within", "perplexity", "accuracy", "both", "open", "not-judged", "random"),
        *("unchanged", "undecided", "too-few"),
    ],
)
def test_a_verdict_names_the_measures_that_decided_it_their_limits_and_what_within_leaves_open(
    found, said
):
    assert plain(verdicts.verdict_words(found)) == said
    assert (
        plain(
            verdicts.model_verdict(
                "20 %",
                found,
                Tolerance(),
            )[0]
        )
        == f"20 % {said}."
    )


@pytest.mark.parametrize(
    ("factor", "ratio", "told"),
    [
        (12.46, 12.4, "12.5 × (limit 12.4 ×)"),
        (10.04, 10.0, "10.04 × (limit 10 ×)"),
        (14, 12.4, "14 × (limit 12.4 ×)"),
    ],
)
def test_a_loss_of_many_times_is_shown_on_its_side_of_the_limit(factor, ratio, told):
    results = judged(
        log(factor),
        deviation=0.001,
        tolerance=Tolerance(ratio=ratio),
    )
    assert (
        plain(verdicts.verdict_words(results)) == f"costs too much: perplexity {told}"
    )


def task(name, verdict, lost=0.0):
    accuracy = judged(0.02).accuracy
    return replace(
        accuracy,
        task=name,
        verdict=verdict,
        value=lost,
        most=0.05,
    )


@pytest.mark.parametrize(
    ("nats", "tasks", "said"),
    [
        (
            0.02,
            [task("copying", "within"), task("sums", "within")],
            "stays within your limits: perplexity 1.02 × (limit 1.10 ×), accuracy 0.0 points (limit −2), "
            "and on copying and sums",
        ),
        (
            0.02,
            [task("copying", "beyond", 0.12), task("sums", "within")],
            "costs too much: copying −12.0 points (limit −5)",
        ),
        (
            0.02,
            [task("copying", "undecided")],
            "is too close to call on copying",
        ),
        (
            0.09,
            [task(name, "undecided") for name in "abcd"],
            "is too close to call on 1,000 passages and 4 tasks",
        ),
    ],
    ids=["within", "beyond", "undecided", "many"],
)
def test_tasks_count_for_a_verdict_and_are_named(nats, tasks, said):
    results = replace(judged(nats), tasks=tuple(tasks))
    assert plain(verdicts.verdict_words(results)) == said


def test_too_few_passages_say_nothing_of_the_tasks():
    results = replace(
        judged(0.0, n=1),
        tasks=(task("copying", "undecided"),),
    )
    assert plain(verdicts.verdict_words(results)) == "cannot be judged on 1 passage"


@pytest.mark.parametrize(
    ("ratio", "points", "said"),
    [
        (1.1, 2.0, "perplexity 1.10 ×, accuracy −2 points"),
        (1.015, 1.0, "perplexity 1.015 ×, accuracy −1 point"),
        (12.5, 0.5, "perplexity 12.5 ×, accuracy −0.5 points"),
        (1000.0, 100.0, "perplexity 1,000 ×, accuracy −100 points"),
    ],
)
def test_limits_are_said_as_they_were_typed_of_the_measures_that_are_judged(
    ratio, points, said
):
    tolerance = Tolerance(ratio=ratio, points=points)
    assert wording.tolerance_words(tolerance) == said
    assert verdicts.limits_sentence(judged(0.02), tolerance) == f"Limits: {said}."
    alone = said.partition(",")[0] if ratio < 1000 else "perplexity 1,000 ×"
    assert (
        verdicts.limits_sentence(judged(0.02, n_right=3), tolerance)
        == f"Limit: {alone}."
    )
    limited = replace(
        judged(0.02),
        tasks=(
            task("sums", "undecided"),
            replace(task("x", "within"), most=points / 100),
        ),
    )
    assert (
        plain(verdicts.limits_sentence(limited, tolerance))
        == f"Limits: {said}, sums −5 points."
    )


def test_a_sign_says_by_which_measure_where_only_one_decided():
    assert verdicts.verdict_sign(judged(0.0, broke=90)) == "✕ beyond by accuracy"
    assert verdicts.verdict_sign(judged(0.3, broke=90)) == "✕ beyond"
    assert verdicts.verdict_sign(judged(0.09)) == "? undecided"


def test_the_loss_is_said_on_both_measures_with_their_intervals():
    text = plain(verdicts.loss_words(judged(0.3, broke=30, fixed=10)))
    assert text.startswith(
        "perplexity 1.35 × dense's (1.32 to 1.38), accuracy −2.0 points (−3.5 to −0.7); "
    )
    assert text.endswith("; intervals of 97.5 % and 95 %")
    assert plain(verdicts.loss_words(judged(0.3, n_right=3))).endswith(
        "; too few answers are right to judge accuracy"
    )
    assert "(no interval)" in verdicts.loss_words(judged(0.3, n=1, n_right=0))


@pytest.mark.parametrize(
    ("nats", "deviation", "said", "interval"),
    [
        (0.094, 0.001, "1.099 ×", "1.098 to 1.099"),
        (0.0, 1.51, "1.000 ×", "0.911 to 1.098"),
        (0.3, 0.3, "1.35 ×", "1.32 to 1.38"),
    ],
)
def test_no_end_of_an_interval_is_rounded_to_the_other_side_of_the_limit(
    nats, deviation, said, interval
):
    loss = judged(nats, deviation=deviation).perplexity
    assert (plain(verdicts.loss_value(loss)), verdicts.loss_interval(loss)) == (
        said,
        interval,
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {},
            "20 % stopped after 512 of 5,153 passages: a difference to the dense model is shown.",
        ),
        (
            {"decision": "close"},
            "20 % stopped after 512 of 5,153 passages: the difference to the dense model is under 2 points.",
        ),
        (
            {"decision": "beyond"},
            "20 % stopped after 512 of 5,153 passages: decided by the limits of the search.",
        ),
        (
            {"decision": "within", "n_answered": 5153},
            "20 % answered all 5,153 passages. Intervals",
        ),
    ],
)
def test_how_an_evaluation_ended_that_was_to_stop_early(change, said):
    ended = replace(
        RECORD,
        stopping=replace(
            STOPPED,
            **{"n_answered": 512, "n_passages": 5153} | change,
        ),
    )
    results = verdicts.early_stopping_words({"dense": RECORD, "20 %": ended})
    assert results.startswith(said)
    assert results.endswith("account for the repeated looks.")
    assert verdicts.early_stopping_words({"dense": RECORD}) == ""
