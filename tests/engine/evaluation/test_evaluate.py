"""The evaluator agrees with reading one passage at a time, as the common harness does, however it
batches.
"""

import math
from collections import Counter
from dataclasses import replace
from itertools import chain

import pytest
import torch

from sparsedash.engine.evaluation import evaluate as evaluating
from sparsedash.engine.evaluation.answers import _AnswerCache
from sparsedash.engine.evaluation.evaluate import evaluate_alone
from sparsedash.engine.evaluation.questions import Question, choose_passages, n_leaked
from sparsedash.engine.models.decoder_blocks import n_fitting
from sparsedash.engine.models.locating import locate_model
from sparsedash.engine.models.streaming import stream_model
from sparsedash.engine.texts.corpora import Texts
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.progress import Step, ignore_steps
from sparsedash.schema.settings import EvaluationSettings
from tests.engine.conftest import passages
from tests.engine.tiny import CONFIGS, tiny_loaded, tiny_tokenizer


def _chosen(texts, **settings):
    return choose_passages(
        Texts(texts=tuple(texts), identity="t"),
        EvaluationSettings(corpus="t", **settings),
    )


def _one_by_one(loaded, text):
    """Log-likelihood and greediness of the last word, by the harness's rule, one forward and all
    logits.
    """
    context, target = text.rsplit(" ", 1)
    whole = loaded.tokenizer(context + " " + target).input_ids
    n_context = len(loaded.tokenizer(context).input_ids)
    logits = loaded.model(torch.tensor([whole[:-1]])).logits[0].log_softmax(-1)
    places = range(n_context - 1, len(whole) - 1)
    likelihoods = [float(logits[i, whole[i + 1]]) for i in places]
    greedy = [int(logits[i].argmax()) == whole[i + 1] for i in places]
    return sum(likelihoods), greedy


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_batched_answers_equal_those_read_one_by_one(model_type):
    loaded = tiny_loaded(model_type)
    texts = passages(12)
    evaluated = evaluate_alone(loaded, _chosen(texts), ignore_steps)
    for text, outcome in zip(texts, evaluated.outcomes, strict=True):
        likelihood, greedy = _one_by_one(loaded, text)
        assert outcome.log_likelihood == pytest.approx(likelihood, abs=2e-4)
        assert (outcome.last_word_right, outcome.last_token_right) == (
            all(greedy),
            greedy[-1],
        )
        assert outcome.target == text.split(" ")[-1]
        assert (outcome.tokens[0].rank == 1) == greedy[0]
        assert sum(token.log_likelihood for token in outcome.tokens) == pytest.approx(
            likelihood, abs=2e-4
        )
        shares = [candidate.probability for candidate in outcome.top]
        assert (
            len(shares) == 5
            and shares == sorted(shares, reverse=True)
            and 0 < sum(shares) <= 1
        )


def test_the_first_passages_come_in_file_order_each_once_and_a_seed_draws_others():
    texts = passages(20)
    repeated = [texts[0], texts[1], f" {texts[0]}\n", texts[2], texts[1], texts[3]]
    assert _chosen(repeated, n_passages=4).indices == (0, 1, 3, 5)
    assert _chosen(texts, n_passages=5).indices == (0, 1, 2, 3, 4)
    drawn = _chosen(texts, n_passages=5, shuffle_seed=3)
    assert drawn.indices == tuple(sorted(drawn.indices)) != (0, 1, 2, 3, 4)
    assert drawn == _chosen(texts, n_passages=5, shuffle_seed=3)
    assert drawn.key != _chosen(texts, n_passages=5, shuffle_seed=4).key


def test_white_space_before_the_last_word_belongs_to_the_target_and_a_word_alone_is_refused_by_its_number():
    chosen = _chosen(["one two  three", "one two\n four"])
    assert chosen.contexts == ("one two", "one two")
    assert chosen.targets == ("  three", "\n four")
    for text in ("alone", " alone", "trailing "):
        with pytest.raises(CorpusError, match="Passage 2 has no last word"):
            _chosen(["a fine passage", text])


def test_what_is_cut_are_the_oldest_tokens_but_the_one_that_begins_every_text():
    loaded = replace(
        tiny_loaded("llama"), tokenizer=tiny_tokenizer("<|end|> $A <|end|>")
    )
    context = " ".join(f"boat{i}" for i in range(300))
    question = Question.of(loaded, context, " home")
    ids = tiny_tokenizer()(context + " home").input_ids
    assert (question.read, question.target) == ([0, *ids[-256:-1]], ids[-1:])
    n_words_read = len(loaded.tokenizer.decode(ids[-256:-1]).split())
    assert len(context.split()) - question.words_cut == pytest.approx(
        n_words_read, abs=1
    )
    assert Question.of(loaded, "the boat", " home").words_cut == 0
    with pytest.raises(CorpusError, match="longer than the model can read"):
        Question.of(loaded, "the boat", " z" * 300)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gptj", "gpt_neo"])
@pytest.mark.parametrize("n_free", [0, 5])
def test_an_answer_at_the_end_of_what_the_model_reads_is_not_finished(
    family, n_free, monkeypatch
):
    loaded = tiny_loaded(family)
    words = [f"boat{i}" for i in range(300)]
    if n_free:
        while len(loaded.tokens(" ".join(words))) > loaded.max_length - n_free:
            words.pop()
    finished = []
    monkeypatch.setattr(
        evaluating,
        "finish_answers_",
        lambda loaded, parts, on_left: finished.extend(parts),
    )
    (outcome,) = evaluate_alone(
        loaded, _chosen([f"{' '.join(words)} home"]), ignore_steps
    ).outcomes
    assert (
        math.isfinite(outcome.log_likelihood)
        and not outcome.last_word_right
        and finished == []
    )


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("one two three four five six seven eight nine ten eleven twelve thirteen", 1),
        ("one two three four five six seven eight nine ten eleven twelve", 0),
        ("so it was a b c d e f g h again", 1),
        ("a b c d e f g i h", 0),
        ("two of these", 0),
        ("", 0),
    ],
)
def test_a_passage_that_shares_thirteen_words_with_the_calibration_text_is_leaked(
    text, n
):
    long = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    assert (
        n_leaked(
            _chosen([long, "a b c d e f g h", "two of these"]), ["something else", text]
        )
        == n
    )


def test_as_many_batches_go_together_as_fit_and_one_at_least():
    assert [n_fitting((5, 4, 3), n_tokens) for n_tokens in (0, 8, 9, 11.9, 99)] == [
        1,
        1,
        2,
        2,
        3,
    ]


@pytest.fixture
def entered(monkeypatch):
    """The blocks that were brought in, one entry each time."""
    monkeypatch.setattr(evaluating, "BATCH_TOKENS", 64)
    monkeypatch.setattr(evaluating, "TOGETHER_TOKENS", 4 * 64)
    return []


def answers(loaded, steps=ignore_steps, n=30):
    return evaluate_alone(loaded, _chosen(passages(n)), steps).outcomes


def test_a_streamed_models_blocks_are_read_once_for_several_batches(
    model_folder, store, entered, monkeypatch
):
    source = locate_model(str(model_folder), store)
    streamed = stream_model(source, "float32", store)
    enter = type(streamed.residency)._enter

    def watched(self, index):
        entered.append(index)
        enter(self, index)

    monkeypatch.setattr(type(streamed.residency), "_enter", watched)
    monkeypatch.setattr(
        evaluating, "finish_answers_", lambda loaded, parts, on_left: None
    )
    alone = []
    together = []
    monkeypatch.setattr(evaluating, "n_fitting", lambda sizes, n_tokens: 1)
    one_by_one = answers(streamed, lambda step: alone.append(step.done))
    n_alone = entered.count(2)
    entered.clear()
    monkeypatch.setattr(evaluating, "n_fitting", n_fitting)
    assert answers(streamed, lambda step: together.append(step.done)) == one_by_one
    assert entered.count(2) <= -(-n_alone // 3) < n_alone
    assert set(together) < set(alone)


def test_what_is_kept_of_passages_lies_in_files_as_the_weights_do(
    model_folder, store, entered, monkeypatch
):
    streamed = stream_model(locate_model(str(model_folder), store), "float32", store)
    parts = []
    monkeypatch.setattr(
        evaluating,
        "finish_answers_",
        lambda loaded, unfinished, on_left: parts.extend(unfinished),
    )
    answers(streamed)

    def in_files(tensors):
        places = {address for _, address, _ in streamed.residency._offloaded}
        return {tensor.untyped_storage().data_ptr() for tensor in tensors} <= places

    assert len(parts) > 3
    assert all(in_files(chain(*part.layers)) for part in parts)
    cache = _AnswerCache(streamed, parts, 3).cache
    assert all(in_files(layer._buffers) for layer in cache.layers)
    cache.batch_select_indices(torch.tensor([0, 2]))
    assert len(cache.layers[0].keys) == 2
    assert all(in_files(layer._buffers) for layer in cache.layers)


def test_a_resident_model_is_read_batch_by_batch_with_a_step_after_every_block(entered):
    loaded = tiny_loaded("llama")
    steps = []
    right = sum(outcome.last_word_right for outcome in answers(loaded, steps.append))
    assert steps[0] == Step(
        "evaluate",
        0,
        30,
        unit="passages",
        n_right=0,
    )
    # Answers that are not finished yet count in part.
    assert replace(steps[-1], ahead=0.0) == Step(
        "evaluate",
        30,
        30,
        unit="passages",
        n_right=right,
    )
    assert steps[-1].ahead < 0 < max(step.ahead for step in steps)
    n_steps = Counter(step.done for step in steps)
    del n_steps[30]
    # At the beginning and between blocks; behind the last one, the batch counts as read.
    assert set(n_steps.values()) == {len(loaded.blocks)}


def test_the_rules_differ_in_the_last_token_of_passages_that_are_too_long_and_in_nothing_else():
    loaded = tiny_loaded("gptj")
    loaded.model.lm_head.bias[loaded.tokenizer(" the").input_ids[-1]] = 1e4
    chosen = _chosen([" the" * length for length in (40, 196, 197, 198, 230)])
    plain, published = (
        evaluate_alone(
            loaded,
            chosen,
            ignore_steps,
            rule=rule,
        ).outcomes
        for rule in ("plain", "published")
    )
    assert [outcome.last_token_right for outcome in plain] == [True] * 5
    assert [outcome.last_token_right for outcome in published] == [
        True,
        True,
        True,
        False,
        False,
    ]
    for one, published_outcome in zip(plain, published, strict=True):
        assert replace(published_outcome, last_token_right=one.last_token_right) == one
