"""Pieces of work in threads: the results of doing them in turn, and nobody is left waiting."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from sparsedash.engine.models import matmul
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.matmul import fastest_products, same_products, torch_threads
from sparsedash.engine.texts import generation
from sparsedash.engine.texts.generation import generate_texts, n_streams, run_in_threads
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import CalibrationSettings
from tests.engine.tiny import CONFIGS, tiny_loaded

OPENINGS = ("the lamp", "the boat went home and the letter", "a door", "b")


class Stopped(Exception):
    pass


@pytest.fixture
def two_threads():
    with torch_threads(2):
        yield


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_texts_are_the_same_in_two_threads_as_in_one(model_type, two_threads, monkeypatch):
    monkeypatch.setattr(generation, "FEWEST_TEXTS", 2)
    loaded, asked = tiny_loaded(model_type), CalibrationSettings(n_samples=6, length=30, seed=5)
    threads, steps = set(), []
    write = generation._generate
    monkeypatch.setattr(generation, "_generate", lambda *own: threads.add(threading.get_ident()) or write(*own))
    together = generate_texts(loaded, OPENINGS, asked, steps.append)
    assert len(threads) == 2 and threading.get_ident() not in threads
    assert torch.get_num_threads() == 2
    done = [step.done for step in steps]
    assert done == sorted(done) and done[-1] == 6 * 30
    torch.set_num_threads(1)
    assert generate_texts(loaded, OPENINGS, asked, ignore_steps) == together


def test_each_thread_multiplies_by_itself_as_the_caller_does(two_threads, monkeypatch):
    monkeypatch.setattr(matmul, "float32_is_faster", lambda: True)

    def piece(tell):
        with same_products() as mode:
            return torch.get_num_threads(), torch.is_inference_mode_enabled(), mode is not None

    assert run_in_threads([piece, piece], ignore_steps) == [(1, True, False)] * 2
    with fastest_products("bfloat16"):
        assert run_in_threads([piece, piece], ignore_steps) == [(1, True, True)] * 2


def test_who_is_told_may_break_all_of_them_off(two_threads):
    going_on = []

    def piece(tell):
        for far in range(10**6):
            tell(far)
            time.sleep(0.001)
        going_on.append(tell)

    def on_told(far):
        if min(far) > 3:
            raise Stopped

    with pytest.raises(Stopped):
        run_in_threads([piece, piece], on_told)
    assert going_on == [] and torch.get_num_threads() == 2


def test_a_piece_that_fails_breaks_the_others_off(two_threads):
    def fails(tell):
        tell(1)
        raise Stopped

    def goes_on(tell):
        while True:
            tell(1)
            time.sleep(0.001)

    for pieces in ([fails, goes_on], [goes_on, fails]):
        with pytest.raises(Stopped):
            run_in_threads(pieces, ignore_steps)


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
    loaded.model.model.rotary_emb.rope_type = rope
    assert n_streams(loaded, 8) == streams


def test_weights_in_files_are_walked_by_one_and_nobody_is_asked_for_less(two_threads):
    loaded = tiny_loaded("llama")
    assert [n_streams(loaded, most) for most in (0, 1, 2, 8)] == [1, 1, 2, 2]
    streamed = LoadedModel(**vars(loaded) | {"residency": SimpleNamespace(streamed=True)})
    assert n_streams(streamed, 8) == 1
