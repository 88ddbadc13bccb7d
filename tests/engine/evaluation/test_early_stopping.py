"""In which order passages are answered, and where an evaluation stops."""

import random
from collections import Counter
from dataclasses import replace
from itertools import accumulate, chain

import pytest

from sparsedash.engine.evaluation.early_stopping import (
    StopRule,
    evaluation_chunks,
    look_counts,
)
from sparsedash.engine.evaluation.evaluate import evaluate_alone
from sparsedash.engine.evaluation.questions import choose_passages
from sparsedash.engine.texts.corpora import Texts
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import EvaluationSettings
from sparsedash.schema.tolerance_settings import ALPHA, Tolerance
from sparsedash.stats.anytime import planned_looks
from tests.engine.conftest import passages
from tests.engine.tiny import tiny_loaded
from tests.factories import outcome


@pytest.mark.parametrize("n", [1, 200, 256, 257, 400, 1000, 5153])
def test_the_chunks_hold_every_passage_once(n):
    chunks = evaluation_chunks(n)
    assert sorted(chain(*chunks)) == list(range(n))
    assert all(len(chunk) >= min(n, 48) for chunk in chunks)
    ends = set(accumulate(map(len, chunks)))
    assert {look.n_passages for look in planned_looks(n)} <= ends, (
        "a search may stop there"
    )


def test_the_order_is_shuffled_and_the_same_each_time():
    chunks = evaluation_chunks(5153)
    assert chunks == evaluation_chunks(5153)
    first = [*chunks[0], *chunks[1]]
    # Later ones grow, so that batches stay full.
    assert [len(chunk) for chunk in chunks] == [
        161,
        161,
        322,
        256,
        256,
        132,
        322,
        402,
        564,
        644,
        805,
        1128,
    ]
    # The first chunks are spread over the file: 322 of 5,153 in each tenth of it within chance.
    n_by_tenth = Counter(i * 10 // 5153 for i in first)
    assert len(n_by_tenth) == 10
    assert 14 < min(n_by_tenth.values()) <= max(n_by_tenth.values()) < 52


def stop_rule(dense, n_comparisons=1):
    return StopRule(
        dense=[outcome(i, verdict) for i, verdict in enumerate(dense)],
        n_comparisons=n_comparisons,
    )


def decided(right, n_comparisons=1):
    """What the rule says of these answers, where the dense model has all 1,000 right."""
    return stop_rule([True] * 1000, n_comparisons).stopping(
        {i: outcome(i, verdict) for i, verdict in right.items()}
    )


def test_nothing_is_stopped_before_the_first_128_passages():
    assert decided(dict.fromkeys(range(124), False)) is None
    assert (
        decided(dict.fromkeys(range(look_counts(1000)[0]), False)).decision
        == "difference"
    )
    assert all(
        128 <= look_counts(n)[0] <= 256 and look_counts(n)[-1] == n
        for n in (256, 700, 1000, 5153)
    )


def test_a_stop_says_what_was_found_and_after_how_many_of_how_many():
    stopped = decided({i: i % 2 == 0 for i in range(500)})
    assert (stopped.decision, stopped.n_answered, stopped.n_passages) == (
        "difference",
        500,
        1000,
    )
    assert stopped.p_value < 1e-20
    assert stopped.interval[0] < -0.5 < stopped.interval[1] < 0
    alike = decided(dict.fromkeys(range(900), True))
    assert (alike.decision, alike.p_value) == ("close", 1.0)
    nine_broke = {i: i >= 9 for i in range(500)}
    few, many = (decided(nine_broke, n) for n in (1, 20))
    assert (few.decision, many.decision) == ("difference", "open"), (
        "more comparisons ask for a clearer difference"
    )
    assert few.p_value == many.p_value


def a_search(n=400, n_comparisons=6):
    """Half of the dense model's answers are right, and its losses are no two alike."""
    dense = [outcome(i, i % 2 == 0, -1.0 - i % 7 / 10) for i in range(n)]
    return StopRule(
        dense=dense,
        n_comparisons=n_comparisons,
        tolerance=Tolerance(),
    )


def after(rule, n_answered, lost, breaks=0):
    """What the rule says where every answer has lost about so many nats, and the first so many
    right ones broke.
    """
    rows = list(chain(*evaluation_chunks(len(rule.dense))))[:n_answered]
    broke = [row for row in rows if rule.dense[row].last_word_right][:breaks]
    answered = {
        row: replace(
            rule.dense[row],
            log_likelihood=rule.dense[row].log_likelihood - lost - (row % 5 - 2) / 10,
            last_word_right=rule.dense[row].last_word_right and row not in broke,
        )
        for row in rows
    }
    return rule.stopping(answered)


def test_a_trial_is_looked_at_only_where_that_was_planned():
    looked = [
        n
        for n in (1, 49, 50, 51, 99, 100, 128, 200, 256, 399, 400)
        if after(a_search(), n, lost=0.0)
    ]
    assert looked == [50, 100, 200, 400]


@pytest.mark.parametrize(
    ("n_answered", "lost", "breaks", "decision"),
    [
        (50, 2.0, 0, "beyond"),
        (100, 0.0, 30, "beyond"),
        (200, 0.0, 1, "open"),
        (400, 0.0, 1, "within"),
        (400, 0.0953, 0, "open"),
    ],
    ids=["far too much", "answers break", "early", "at the end", "at the tolerance"],
)
def test_a_trial_ends_early_as_beyond_by_either_measure_and_as_within_only_where_both_say_so(
    n_answered, lost, breaks, decision
):
    stopped = after(a_search(), n_answered, lost, breaks)
    assert (stopped.decision, stopped.n_answered, stopped.n_passages) == (
        decision,
        n_answered,
        400,
    )
    share = {50: 0.05, 400: 0.85}.get(n_answered)
    assert share is None or stopped.alpha == pytest.approx(ALPHA / 6 * share), (
        "the last look has nearly all"
    )


def test_a_trial_is_not_within_while_too_few_are_right_so_far_to_judge_accuracy():
    rule = StopRule(
        dense=[outcome(i, i % 20 == 0, -1.0 - i % 7 / 10) for i in range(1000)],
        n_comparisons=1,
        tolerance=Tolerance(),
    )
    (first, *_) = planned_looks(1000)
    stopped = after(rule, first.n_passages, lost=-5.0)
    assert stopped.decision == "open"
    assert after(rule, 1000, lost=-5.0).decision == "within"


N = 360


@pytest.fixture(scope="module")
def texts():
    base_texts = passages(40)
    number = random.Random(1)
    return [
        " ".join([str(number.randrange(10**6)), base_texts[i % 40]]) for i in range(N)
    ]


@pytest.fixture(scope="module")
def loaded():
    return tiny_loaded("llama")


@pytest.fixture(scope="module")
def whole(loaded, texts):
    return evaluate_alone(loaded, _chosen(texts), ignore_steps)


def _chosen(texts):
    return choose_passages(
        Texts(texts=tuple(texts), identity="t"), EvaluationSettings(corpus="t")
    )


def _stopped(loaded, texts, dense):
    return evaluate_alone(
        loaded,
        _chosen(texts),
        ignore_steps,
        stop=stop_rule(dense),
    )


def test_a_decided_evaluation_has_answered_the_first_chunk_only_and_as_it_would_have(
    loaded, texts, whole
):
    opposite = [not outcome.last_word_right for outcome in whole.outcomes]
    stopped = _stopped(loaded, texts, opposite)
    answered = sorted(chain(*evaluation_chunks(N)[:2]))
    assert stopped.stopping.decision == "difference"
    assert stopped.stopping.n_answered == len(answered) == 180
    assert [outcome.index for outcome in stopped.outcomes] == answered
    assert stopped.outcomes == tuple(whole.outcomes[i] for i in answered)
    assert stopped.n_tokens < whole.n_tokens


def test_an_evaluation_that_decides_nothing_answers_everything_and_says_so(
    loaded, texts, whole
):
    right = [outcome.last_word_right for outcome in whole.outcomes]
    first, second, *_ = evaluation_chunks(N)
    broke = set()
    for chunk in (first, second):
        broke |= set([i for i in chunk if not right[i]][:3])
    dense = [right[i] or i in broke for i in range(N)]
    stopped = _stopped(loaded, texts, dense)
    assert (stopped.stopping.decision, stopped.stopping.n_answered) == ("open", N)
    assert stopped.outcomes == whole.outcomes
    assert whole.stopping is None


class Asking(StopRule):
    """Looks where a search does, and never stops."""

    def stopping(self, outcomes):
        stopping = super().stopping(outcomes)
        return stopping and replace(stopping, decision="open")


def test_in_bf16_a_passage_has_the_same_answer_whether_or_where_its_evaluation_may_stop(
    texts, monkeypatch
):
    monkeypatch.setattr(
        "sparsedash.engine.evaluation.evaluate.finish_answers_",
        lambda loaded, parts, on_left: None,
    )
    chosen = _chosen(texts[:200])
    rounded = tiny_loaded("llama")
    rounded.model.bfloat16()
    free = evaluate_alone(rounded, chosen, ignore_steps).outcomes
    for rule in (
        Asking(
            dense=free,
            n_comparisons=4,
            tolerance=Tolerance(),
        ),
        StopRule(dense=free, n_comparisons=1),
    ):
        assert (
            evaluate_alone(
                rounded,
                chosen,
                ignore_steps,
                stop=rule,
            ).outcomes
            == free
        )
