"""Generated text is that of reading everything anew for every token; in threads it is that of one
thread.
"""

import threading
import time
from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch

from sparsedash.catalog import resources
from sparsedash.engine.models import matmul
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.matmul import fastest_products, same_products, torch_threads
from sparsedash.engine.texts import generation
from sparsedash.engine.texts.generation import (
    continue_prompts,
    generate_texts,
    n_threads,
    run_in_threads,
)
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
    """The text after one opening, alone, without a cache, each token drawn as the definition
    says.
    """
    ids = loaded.tokenizer(opening).input_ids
    for number in range(n_new):
        logits = loaded.model(torch.tensor([ids])).logits[0, -1]
        logits[0] = float("-inf")
        sums = list(accumulate(logits.double().softmax(-1).tolist()))
        ids = [
            *ids,
            next(token for token, upto in enumerate(sums) if upto > luck[number] * sums[-1]),
        ]
    return loaded.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.fixture
def two_threads():
    with torch_threads(2):
        yield


@pytest.mark.parametrize("model_type", ["bloom", "falcon", "gemma3_text", "gpt2", "llama"])
def test_prompts_are_continued_together_as_each_alone_up_to_its_end(model_type):
    loaded = loaded_of(model_type)
    together = continue_prompts(loaded, OPENINGS, 12, ignore_steps)
    for opening, text in zip(OPENINGS, together, strict=True):
        ids = loaded.tokenizer(opening, return_tensors="pt").input_ids
        alone = loaded.model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[
            0, ids.shape[1] :
        ]
        assert text == loaded.tokenizer.decode(alone, skip_special_tokens=True).rstrip("\ufffd")


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_texts_written_together_are_those_written_alone(model_type):
    loaded = loaded_of(model_type)
    luck = torch.rand(3, LENGTH, generator=torch.Generator().manual_seed(5)).tolist()
    n_new = LENGTH - min(len(loaded.tokenizer(opening).input_ids) for opening in OPENINGS)
    alone = [written_anew(loaded, o, row, n_new) for o, row in zip(OPENINGS, luck, strict=True)]
    assert generate_texts(loaded, OPENINGS, asked(), ignore_steps) == alone


def test_texts_written_in_two_threads_are_those_written_in_one(two_threads, monkeypatch):
    loaded, state = loaded_of("gemma2"), torch.random.get_rng_state()
    alone = generate_texts(loaded, OPENINGS, asked(), ignore_steps)
    monkeypatch.setattr(generation, "FEWEST_TEXTS", 1)
    threads, steps, write = set(), [], generation._generate
    monkeypatch.setattr(
        generation, "_generate", lambda *own: threads.add(threading.get_ident()) or write(*own)
    )
    assert generate_texts(loaded, OPENINGS, asked(), steps.append) == alone
    assert (
        len(threads) == 2 and threading.get_ident() not in threads and torch.get_num_threads() == 2
    )
    done = [step.done for step in steps]
    assert done == sorted(done) and done[-1] == 3 * LENGTH
    # Another seed gives others, and other random numbers are left alone.
    assert generate_texts(loaded, OPENINGS, asked(seed=6), ignore_steps) != alone
    assert torch.equal(torch.random.get_rng_state(), state)


def steps_of(loaded, n_samples, length=20):
    steps = []
    generate_texts(loaded, OPENINGS, asked(n_samples, length), steps.append)
    return [step.done for step in steps]


def test_fewer_texts_are_written_at_once_where_what_is_kept_of_them_takes_much_room(monkeypatch):
    loaded = loaded_of("llama")
    together = steps_of(loaded, 40)
    monkeypatch.setattr(resources, "CACHE_BYTES", 1)
    in_turn = steps_of(loaded, 40)
    assert together[-1] == in_turn[-1] == 40 * 20
    assert len(in_turn) == 2 * len(together)
    assert together == sorted(together) and in_turn == sorted(in_turn)


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_neo"])
def test_no_text_is_longer_than_the_model_reads(family):
    loaded = tiny_loaded(
        family, **({"n_positions": 24} if family == "gpt2" else {"max_position_embeddings": 24})
    )
    texts = generate_texts(loaded, OPENINGS, asked(4, 64), ignore_steps)
    assert max(len(loaded.tokens(text)) for text in texts) > 12


def test_nobody_ends_a_text():
    loaded = loaded_of("llama")
    loaded.model.lm_head.weight[0] = 1e3 * loaded.model.lm_head.weight[0].sign()
    (text,) = generate_texts(loaded, OPENINGS, asked(n_samples=1), ignore_steps)
    assert len(loaded.tokenizer(text).input_ids) > LENGTH // 2


class Stopped(Exception):
    pass


def test_each_thread_multiplies_by_itself_as_the_caller_does(two_threads, monkeypatch):
    monkeypatch.setattr(matmul, "float32_is_faster", lambda: True)

    def piece(report):
        with same_products() as mode:
            return torch.get_num_threads(), torch.is_inference_mode_enabled(), mode is not None

    assert run_in_threads([piece, piece], ignore_steps) == [(1, True, False)] * 2
    with fastest_products("bfloat16"):
        assert run_in_threads([piece, piece], ignore_steps) == [(1, True, True)] * 2


def test_an_error_in_the_callback_stops_all_of_them(two_threads):
    going_on = []

    def piece(report):
        for far in range(10**6):
            report(far)
            time.sleep(0.001)
        going_on.append(report)

    def on_report(far):
        if min(far) > 3:
            raise Stopped

    with pytest.raises(Stopped):
        run_in_threads([piece, piece], on_report)
    assert going_on == [] and torch.get_num_threads() == 2


@pytest.mark.parametrize("first", [True, False])
def test_a_piece_that_fails_stops_the_others(first, two_threads):
    def fails(report):
        report(1)
        raise Stopped

    def goes_on(report):
        while True:
            report(1)
            time.sleep(0.001)

    with pytest.raises(Stopped):
        run_in_threads([fails, goes_on] if first else [goes_on, fails], ignore_steps)


@pytest.mark.parametrize(
    ("rope", "streams"),
    [
        ("default", 2),
        ("llama3", 2),
        ("linear", 2),
        ("dynamic", 1),
        ("longrope", 1),
        ({"full_attention": "longrope"}, 1),
    ],
)
def test_a_model_that_keeps_what_it_works_out_by_length_is_asked_by_one(rope, streams, two_threads):
    loaded = tiny_loaded("llama")
    assert [n_threads(loaded, most) for most in (0, 1, 2, 8)] == [1, 1, 2, 2]
    streamed = LoadedModel(**vars(loaded) | {"residency": SimpleNamespace(streamed=True)})
    assert n_threads(streamed, 8) == 1
    loaded.model.model.rotary_emb.rope_type = rope
    assert n_threads(loaded, 8) == streams
