"""Text that a model writes itself is what reading everything anew for every token would give, many texts at once."""

from itertools import accumulate

import pytest
import torch

from sparsedash.engine.texts import generation
from sparsedash.engine.texts.generation import generate_texts
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import CalibrationSettings
from tests.engine.tiny import CONFIGS, tiny_loaded

OPENINGS = ("the lamp", "the boat went home and the letter", "a door")
LENGTH = 60
"""Longer than the sliding windows of the tiny models."""


def loaded_of(model_type):
    loaded = tiny_loaded(model_type)
    loaded.model.generation_config.eos_token_id = 0
    return loaded


def asked(n_samples=3, length=LENGTH, seed=5):
    return CalibrationSettings(n_samples=n_samples, length=length, seed=seed)


def written_anew(loaded, opening, luck, n_new):
    """The text after one opening, alone, without a cache, each token drawn as the definition says."""
    ids = loaded.tokenizer(opening).input_ids
    for number in range(n_new):
        logits = loaded.model(torch.tensor([ids])).logits[0, -1]
        logits[0] = float("-inf")
        sums = list(accumulate(logits.double().softmax(-1).tolist()))
        ids = [*ids, next(token for token, upto in enumerate(sums) if upto > luck[number] * sums[-1])]
    return loaded.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_texts_written_together_are_those_written_alone(model_type):
    loaded = loaded_of(model_type)
    texts = generate_texts(loaded, OPENINGS, asked(), ignore_steps)
    luck = torch.rand(3, LENGTH, generator=torch.Generator().manual_seed(5)).tolist()
    n_new = LENGTH - min(len(loaded.tokenizer(opening).input_ids) for opening in OPENINGS)
    assert texts == [written_anew(loaded, o, row, n_new) for o, row in zip(OPENINGS, luck, strict=True)]


def test_the_same_settings_give_the_same_texts_and_another_seed_others():
    loaded = loaded_of("llama")
    first, again, other = (generate_texts(loaded, OPENINGS, asked(seed=seed), ignore_steps) for seed in (5, 5, 6))
    assert first == again
    assert all(one != another for one, another in zip(first, other, strict=True))


def test_writing_leaves_the_luck_of_everybody_else_alone():
    state = torch.random.get_rng_state()
    generate_texts(loaded_of("llama"), OPENINGS, asked(length=20), ignore_steps)
    assert torch.equal(torch.random.get_rng_state(), state)


def steps_of(loaded, n_samples, length=20):
    steps = []
    generate_texts(loaded, OPENINGS, asked(n_samples, length), steps.append)
    return [step.done for step in steps]


def test_fewer_texts_are_written_at_once_where_what_is_kept_of_them_takes_much_room(monkeypatch):
    loaded = loaded_of("llama")
    together = steps_of(loaded, 40)
    monkeypatch.setattr(generation, "CACHE_BYTES", 1)
    in_turn = steps_of(loaded, 40)
    assert together[-1] == in_turn[-1] == 40 * 20
    assert len(in_turn) == 2 * len(together)
    assert together == sorted(together) and in_turn == sorted(in_turn)


def test_nobody_ends_a_text():
    loaded = loaded_of("llama")
    loaded.model.lm_head.weight[0] = 1e3 * loaded.model.lm_head.weight[0].sign()
    (text,) = generate_texts(loaded, OPENINGS, asked(n_samples=1), ignore_steps)
    assert len(loaded.tokenizer(text).input_ids) > LENGTH // 2
