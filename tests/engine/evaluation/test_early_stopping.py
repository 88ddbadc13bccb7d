"""In which order passages are answered, and where an evaluation stops."""

import random

import pytest

from sparsedash.engine.evaluation.early_stopping import FIRST_CHUNK, StopRule, chunks
from sparsedash.engine.evaluation.evaluate import choose_passages, evaluate
from sparsedash.engine.texts.corpora import Texts
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import EvaluationSettings
from tests.engine.evaluation.test_evaluate import _loaded as loaded_tiny
from tests.engine.evaluation.test_evaluate import passages


@pytest.mark.parametrize("n", [1, 200, 256, 257, 400, 1000, 5153])
def test_the_chunks_hold_every_passage_once(n):
    found = chunks(n)
    assert sorted(i for chunk in found for i in chunk) == list(range(n))
    assert all(len(chunk) >= min(n, FIRST_CHUNK // 2) for chunk in found)


def test_the_order_is_shuffled_and_the_same_each_time():
    first = chunks(5153)[0]
    assert first == chunks(5153)[0]
    assert first != sorted(first)
    # The first chunk is spread over the file: 256 of 5,153 in each tenth of it within chance.
    tenths = [sum(i * 10 // 5153 == tenth for i in first) for tenth in range(10)]
    assert min(tenths) > 10 and max(tenths) < 45


def test_later_chunks_grow_so_that_batches_stay_full():
    sizes = [len(chunk) for chunk in chunks(5153)]
    assert sizes[:5] == [256] * 5
    assert all(size <= 0.4 * sum(sizes[:i]) for i, size in enumerate(sizes) if sum(sizes[:i]) > 1024)


def verdicts(dense, right):
    return StopRule(dense=dense, n_comparisons=1).stopping(right)


def test_a_stop_says_what_was_found_and_after_how_many_of_how_many():
    dense = [True] * 1000
    stopped = verdicts(dense, {i: i % 2 == 0 for i in range(256)})
    assert (stopped.decision, stopped.n_answered, stopped.n_passages) == ("difference", 256, 1000)
    assert stopped.p_value < 1e-20
    assert stopped.interval[0] < -0.5 < stopped.interval[1] < 0
    alike = verdicts(dense, dict.fromkeys(range(900), True))
    assert (alike.decision, alike.p_value) == ("close", 1.0)


def test_more_comparisons_ask_for_a_clearer_difference():
    right = {i: i not in range(9) for i in range(256)}
    dense = [True] * 1000
    few, many = (StopRule(dense=dense, n_comparisons=n).stopping(right) for n in (1, 20))
    assert (few.decision, many.decision) == ("difference", "open")
    assert few.p_value == many.p_value


@pytest.fixture(scope="module")
def texts():
    made, number = passages(40), random.Random(1)
    return [" ".join([str(number.randrange(10**6)), made[i % 40]]) for i in range(700)]


@pytest.fixture(scope="module")
def loaded():
    return loaded_tiny("llama")


@pytest.fixture(scope="module")
def whole(loaded, texts):
    return evaluate(loaded, _chosen(texts), ignore_steps)


def _chosen(texts):
    return choose_passages(Texts(texts=tuple(texts), identity="t"), EvaluationSettings(corpus="t"))


def _stopped(loaded, texts, dense):
    rule = StopRule(dense=dense, n_comparisons=1)
    return evaluate(loaded, _chosen(texts), ignore_steps, stop=rule)


def test_a_decided_evaluation_has_answered_the_first_chunk_only_and_as_it_would_have(loaded, texts, whole):
    opposite = [not outcome.last_word_right for outcome in whole.outcomes]
    stopped = _stopped(loaded, texts, opposite)
    answered = sorted(chunks(700)[0])
    assert stopped.stopping.decision == "difference"
    assert stopped.stopping.n_answered == 256
    assert [outcome.index for outcome in stopped.outcomes] == answered
    assert stopped.outcomes == tuple(whole.outcomes[i] for i in answered)
    assert stopped.n_tokens < whole.n_tokens


def test_an_evaluation_that_decides_nothing_answers_everything_and_says_so(loaded, texts, whole):
    right = [outcome.last_word_right for outcome in whole.outcomes]
    first, second, _ = chunks(700)
    broke = {i for chunk in (first, second) for i in [i for i in chunk if not right[i]][:3]}
    dense = [right[i] or i in broke for i in range(700)]
    stopped = _stopped(loaded, texts, dense)
    assert (stopped.stopping.decision, stopped.stopping.n_answered) == ("open", 700)
    assert stopped.outcomes == whole.outcomes


def test_without_a_rule_nothing_is_said_about_stopping(whole):
    assert whole.stopping is None
    assert len(whole.outcomes) == 700
