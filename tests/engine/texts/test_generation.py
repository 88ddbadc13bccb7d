"""Texts generated in batches, with a cache, equal those generated one token at a time."""

from itertools import accumulate

import pytest
import torch

from sparsedash.catalog import resources
from sparsedash.engine.texts.generation import continue_prompts, generate_texts
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import CalibrationSettings
from tests.engine.tiny import CONFIGS, seeded, tiny_loaded

OPENINGS = ("the lamp", "the boat went home and the letter", "a door")
LENGTH = 60
"""Longer than the sliding windows of the tiny models."""


def loaded_of(model_type):
    loaded = tiny_loaded(model_type)
    loaded.model.generation_config.eos_token_id = 0
    return loaded


def self_text(n_samples=3, length=LENGTH, seed=5):
    return CalibrationSettings(
        n_samples=n_samples,
        length=length,
        seed=seed,
    )


def sampled_without_a_cache(loaded, opening, uniform, n_new):
    """The text after one opening, each token drawn from the whole text before it."""
    ids = loaded.tokenizer(opening).input_ids
    for number in range(n_new):
        logits = loaded.model(torch.tensor([ids])).logits[0, -1]
        logits[0] = float("-inf")
        sums = list(accumulate(logits.double().softmax(-1).tolist()))
        threshold = uniform[number] * sums[-1]
        ids = [
            *ids,
            next(token for token, total in enumerate(sums) if total > threshold),
        ]
    return loaded.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    "model_type", ["bloom", "falcon", "gemma3_text", "gpt2", "llama"]
)
def test_prompts_are_continued_together_as_each_alone_up_to_its_end(model_type):
    loaded = loaded_of(model_type)
    together = continue_prompts(loaded, OPENINGS, 12, ignore_steps)
    for opening, text in zip(OPENINGS, together, strict=True):
        ids = loaded.tokenizer(opening, return_tensors="pt").input_ids
        generated = loaded.model.generate(
            ids,
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
        )
        alone = loaded.tokenizer.decode(
            generated[0, ids.shape[1] :], skip_special_tokens=True
        )
        assert text == alone.rstrip("\ufffd")


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_texts_sampled_together_are_those_sampled_alone_from_the_seed_alone(model_type):
    loaded = loaded_of(model_type)
    state = torch.random.get_rng_state()
    uniform = torch.rand(
        3,
        LENGTH,
        generator=seeded(5),
    ).tolist()
    n_new = LENGTH - min(
        len(loaded.tokenizer(opening).input_ids) for opening in OPENINGS
    )
    alone = []
    for opening, draws in zip(OPENINGS, uniform, strict=True):
        alone.append(sampled_without_a_cache(loaded, opening, draws, n_new))
    assert generate_texts(loaded, OPENINGS, self_text(), ignore_steps) == alone
    assert torch.equal(torch.random.get_rng_state(), state)


def test_fewer_texts_are_written_at_once_where_their_cache_is_large(monkeypatch):
    loaded = loaded_of("llama")

    def steps():
        reported = []
        generate_texts(loaded, OPENINGS, self_text(40, 20), reported.append)
        return [step.done for step in reported]

    together = steps()
    monkeypatch.setattr(resources, "CACHE_BYTES", 1)
    in_turn = steps()
    assert together[-1] == in_turn[-1] == 40 * 20
    assert len(in_turn) == 2 * len(together)
    assert together == sorted(together)
    assert in_turn == sorted(in_turn)


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("gpt2", "n_positions"),
        ("opt", "max_position_embeddings"),
        ("gpt_neo", "max_position_embeddings"),
    ],
)
def test_no_text_is_longer_than_the_context(family, key):
    loaded = tiny_loaded(family, **{key: 24})
    texts = generate_texts(loaded, OPENINGS, self_text(4, 64), ignore_steps)
    assert max(len(loaded.tokens(text)) for text in texts) > 12


def test_no_sampled_text_ends_early():
    loaded = loaded_of("llama")
    loaded.model.lm_head.weight[0] = 1e3 * loaded.model.lm_head.weight[0].sign()
    (text,) = generate_texts(loaded, OPENINGS, self_text(n_samples=1), ignore_steps)
    assert len(loaded.tokenizer(text).input_ids) > LENGTH // 2
