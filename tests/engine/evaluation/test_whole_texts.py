"""Models that remember more than keys and values answer and write as in their own forward."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sparsedash.engine.comparison.model_pair import RecordModel
from sparsedash.engine.comparison.text_comparison import (
    ContinuationWriter,
    _distributions,
)
from sparsedash.engine.evaluation import evaluate as evaluating
from sparsedash.engine.evaluation.answers import (
    MAX_MORE_TOKENS,
    _is_whole_word,
    first_word,
)
from sparsedash.engine.evaluation.continuations import score_continuations
from sparsedash.engine.evaluation.evaluate import (
    EvaluatedModel,
    evaluate_alone,
    evaluate_together,
)
from sparsedash.engine.evaluation.greedy_texts import write_greedily
from sparsedash.engine.evaluation.questions import Question
from sparsedash.engine.texts import next_logits
from sparsedash.engine.texts.generation import continue_prompts, generate_texts
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import CalibrationSettings
from tests.engine.comparison.conftest import PROMPT, continuation_request
from tests.engine.conftest import passages
from tests.engine.evaluation.test_continuations import (
    REQUESTS,
    first_choices,
    plain_scores,
)
from tests.engine.evaluation.test_evaluate import _chosen, _one_by_one
from tests.engine.tiny import VOCABULARY, as_loaded, tiny_loaded

_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
}
_MIXED = {"layer_types": ["linear_attention", "full_attention"] * 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
HYBRIDS = {
    "bamba": _SMALL | _MAMBA | {"attn_layer_indices": [1, 3]},
    "falcon_h1": _SMALL | _MAMBA | {"mamba_d_ssm": 64},
    "lfm2": _SMALL | {"layer_types": ["conv", "full_attention"] * 2},
    "olmo_hybrid": _SMALL | _LINEAR | _MIXED,
    "qwen3_5_text": _SMALL | _LINEAR | _MIXED,
    "qwen3_next": _SMALL | _LINEAR | _EXPERTS | _MIXED,
    "recurrent_gemma": _SMALL | {"attention_window_size": 8, "lru_width": 32},
}


def hybrid(model_type):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **HYBRIDS[model_type])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    model.generation_config.eos_token_id = 0
    return as_loaded(model.eval().requires_grad_(False))


def all_answers(loaded):
    """Everything that is read and written by one model, small enough to compare."""
    outcomes = evaluate_alone(loaded, _chosen(passages(12)), ignore_steps).outcomes
    (scores,) = score_continuations(loaded, [nullcontext], REQUESTS, lambda n: None)
    return (
        [(outcome.answer, outcome.last_word_right) for outcome in outcomes],
        [(scored.greedy, scored.first) for scored in scores],
        write_greedily(loaded, [nullcontext], [[5, 6, 7], [9]], 6, [], lambda n: None),
        continue_prompts(loaded, (PROMPT, "a boat"), 6, ignore_steps),
        generate_texts(
            loaded,
            (PROMPT, "a boat"),
            CalibrationSettings(n_samples=3, length=20),
            ignore_steps,
        ),
    )


def test_a_plain_model_answers_the_same_with_and_without_a_cache():
    loaded = tiny_loaded("llama")
    without_cache = replace(loaded.shape.structure, plain_cache=False)
    whole = replace(loaded, shape=replace(loaded.shape, structure=without_cache))
    assert all_answers(whole) == all_answers(loaded)


@pytest.fixture
def small_batches(monkeypatch):
    """Several batches of each text set."""
    monkeypatch.setattr(evaluating, "BATCH_TOKENS", 64)
    monkeypatch.setattr(next_logits, "BATCH_TOKENS", 64)


@pytest.mark.parametrize("model_type", HYBRIDS)
def test_answers_of_a_hybrid_are_those_of_its_own_forward_one_by_one(
    model_type, small_batches
):
    loaded = hybrid(model_type)
    texts = passages(8)
    chosen = _chosen(texts)
    models = [EvaluatedModel(nullcontext), EvaluatedModel(nullcontext)]
    results = evaluate_together(loaded, chosen, models, ignore_steps)
    assert results[0].outcomes == results[1].outcomes
    for text, outcome, context, target in zip(
        texts, results[0].outcomes, chosen.contexts, chosen.targets, strict=True
    ):
        likelihood, greedy = _one_by_one(loaded, text)
        assert outcome.log_likelihood == pytest.approx(likelihood, abs=5e-4)
        assert outcome.last_word_right == all(greedy)
        if not all(greedy):
            question = Question.of(loaded, context, target)
            n_begun = greedy.index(False) + 1
            written = first_choices(loaded, question.context, n_begun + MAX_MORE_TOKENS)
            lengths = range(n_begun, len(written))
            is_whole = (n for n in lengths if _is_whole_word(loaded, written[:n]))
            word = first_word(loaded, written[: next(is_whole, len(written))])
            assert outcome.answer == word.strip() or not word.strip()


@pytest.mark.parametrize("model_type", HYBRIDS)
def test_scores_and_texts_of_a_hybrid_are_those_of_whole_texts(
    model_type, small_batches
):
    loaded = hybrid(model_type)
    (scores,) = score_continuations(loaded, [nullcontext], REQUESTS, lambda n: None)
    for scored, (value, greedy) in zip(
        scores, plain_scores(loaded, REQUESTS), strict=True
    ):
        assert scored.log_likelihood == pytest.approx(value, abs=5e-4)
        assert scored.greedy == greedy
    prompts = [list(range(3, 12)), [9, 8, 7]]
    by_hand = []
    for prompt in prompts:
        new = first_choices(loaded, prompt, 6)
        new = new[: new.index(0)] if 0 in new else new
        by_hand.append(loaded.tokenizer.decode(new))
    written = write_greedily(loaded, [nullcontext], prompts, 6, [], lambda n: None)
    assert written == [by_hand]
    texts = [loaded.tokenizer.decode(prompt) for prompt in prompts]
    for text, continued in zip(
        texts, continue_prompts(loaded, texts, 6, ignore_steps), strict=True
    ):
        new = first_choices(loaded, loaded.tokens(text), 6)
        new = new[: new.index(0)] if 0 in new else new
        assert continued == loaded.tokenizer.decode(new).rstrip("\ufffd")


@pytest.mark.parametrize("model_type", HYBRIDS)
def test_a_writer_and_its_divergences_read_whole_texts(model_type, monkeypatch):
    loaded = hybrid(model_type)
    monkeypatch.setattr(
        "sparsedash.engine.comparison.text_comparison.CHUNK_LOGITS", 4 * VOCABULARY
    )
    record_model = RecordModel(loaded)
    writer = ContinuationWriter(record_model, continuation_request(n_tokens=5))
    steps = []
    writer.read(lambda step: steps.append(step.done))
    for _ in range(5):
        writer.write()
    ids = loaded.tokens(PROMPT)
    assert steps[0] == 0 and steps == sorted(steps) and steps[-1] == len(ids)
    new = first_choices(loaded, ids, 5)
    assert writer._written == (new[: new.index(0)] if 0 in new else new)
    with torch.inference_mode():
        chunks = list(_distributions(record_model, ids))
    logits = loaded.model(torch.tensor([ids[:-1]]), use_cache=False).logits[0]
    assert len(chunks) > 1
    assert torch.allclose(torch.cat(chunks), logits.log_softmax(-1), atol=5e-4)
