"""What is said of a search: while it goes on, and at each of its ends."""

from dataclasses import replace

import pytest

from sparsedash.reporting.run_answer import find_document, find_sentence, find_steps
from sparsedash.schema.errors import StoreError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import FindResult, Trial
from sparsedash.stats.mean_intervals import moments
from sparsedash.stats.tolerance import Losses, Tolerance, judge_all

CHANNELS = MethodSettings()


def trial(permille, verdict, n=400):
    return Trial(permille=permille, record=f"r{permille}", verdict=verdict, n_passages=n)


def found(*trials, answer=None, finished=True, n=400):
    return FindResult(
        key="k", ratio=1.1, points=2.0, n_passages=n, steps=(100, 200, 300), trials=trials, answer=answer,
        finished=finished,
    )  # fmt: skip


def judged(nats, n=400, broke=0):
    falls = [nats + (0.3 if i % 2 else -0.3) for i in range(n)]
    lost = Losses(nats=moments(falls), broke=broke, mended=0, n_right=n // 2, looked=False, alpha=0.01)
    return judge_all([lost], Tolerance())[0]


def said(result, verdicts, method=CHANNELS):
    return find_sentence(result, method, verdicts).replace("\u00a0", " ")


def test_the_answer_has_its_cost_and_what_comes_after_it():
    result = found(trial(200, "within"), trial(300, "beyond", 50), answer=200)
    assert said(result, {200: judged(0.02), 300: judged(0.9, 50)}) == (
        "20 % of the MLP channels can go: word perplexity 1.02 × dense's (99.5 % interval 0.98 to 1.07), allowed "
        "1.1 ×, with accuracy undecided; at 30 % word perplexity is beyond what is allowed."
    )


def test_where_accuracy_is_what_falls_too_far_it_is_named():
    result = found(trial(200, "within"), trial(300, "beyond"), answer=200)
    assert said(result, {200: judged(0.02), 300: judged(0.02, broke=60)}).endswith(
        "; at 30 % accuracy is beyond what is allowed."
    )


def test_a_next_step_that_is_undecided_is_said_to_be():
    result = found(trial(200, "within"), trial(300, "undecided"), answer=200)
    assert said(result, {200: judged(0.02), 300: judged(0.09)}).endswith("; 400 passages leave 30 % undecided.")


def test_where_all_steps_are_within_nothing_more_can_be_tried():
    result = found(trial(200, "within"), trial(300, "within"), answer=300)
    assert said(result, {300: judged(0.0)}).endswith(
        "1.1 ×, with accuracy undecided; it is the most that can be tried."
    )


@pytest.mark.parametrize(
    ("verdict", "nats", "end"),
    [
        ("beyond", 0.9, "; at 10 % word perplexity is beyond what is allowed."),
        ("undecided", 0.09, "; 400 passages leave 10 % undecided."),
    ],
)
def test_nothing_within_says_why(verdict, nats, end):
    result = found(trial(200, "beyond"), trial(100, verdict))
    sentence = said(result, {200: judged(0.9), 100: judged(nats)})
    assert sentence == f"Nothing was found that can go within 1.1 × the word perplexity and 2 points of accuracy{end}"


def test_too_few_passages_are_said_to_be_too_few():
    result = found(trial(200, "undecided", 10), trial(100, "undecided", 10), n=10)
    assert said(result, {}).startswith("Too few to judge: 10 passages cannot show that anything stays within 1.1 ×")


def test_single_weights_are_not_said_to_go():
    weights = MethodSettings(saliency="magnitude", pattern="1x1", compensation="none")
    result = found(trial(200, "within"), trial(300, "beyond"), answer=200)
    verdicts = {200: judged(0.02), 300: judged(0.9)}
    assert said(result, verdicts, weights).startswith("20 % of the MLPs' weights can be zero: ")


def test_while_it_goes_on_it_says_how_far_it_is():
    assert said(found(finished=False), {}) == "The search for how much can go has begun."
    going = found(trial(200, "within"), trial(300, "beyond"), finished=False)
    so_far = "So far: 20 % of the MLP channels can go, 30 % is not shown to be within; the search goes on."
    assert said(going, {}) == so_far


def test_how_it_got_there_counts_trials_and_passages_and_names_what_stayed_undecided():
    result = found(trial(200, "within"), trial(300, "undecided", 400), answer=200)
    assert find_steps(result).replace("\u00a0", " ") == (
        "2 trials among 3 steps of sparsity, 800 passages answered instead of 1,200. "
        "30 % stayed undecided and counted as too much."
    )


def test_the_document_says_the_same():
    result = found(trial(200, "within"), trial(300, "beyond", 50), answer=200)
    document = find_document(result, CHANNELS, {200: judged(0.02), 300: judged(0.9, 50)})
    assert (document["answer_percent"], document["passages"], document["finished"]) == (20.0, 400, True)
    assert document["trials"][1] == {"sparsity_percent": 30.0, "verdict": "beyond", "passages": 50}
    assert document["sentence"].startswith("20 % of the MLP channels can go")


def test_a_result_whose_trials_are_none_of_its_steps_is_refused():
    with pytest.raises(StoreError):
        found(trial(250, "within"))
    with pytest.raises(StoreError):
        replace(found(trial(200, "within")), answer=150)
