"""Batches that go through a model together: fewer readings of its files, the same answers."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache

from sparsedash.catalog.families import FAMILIES
from sparsedash.engine.evaluation import evaluate as evaluating
from sparsedash.engine.evaluation.answers import _Decoding
from sparsedash.engine.evaluation.evaluate import cache_bytes_per_token, evaluate, fitting_batches
from sparsedash.engine.evaluation.questions import choose_passages
from sparsedash.engine.models.loading import load_model, locate_model, stream_model
from sparsedash.engine.texts.corpora import Texts
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import EvaluationSettings
from tests.engine.conftest import passages
from tests.engine.tiny import CONFIGS, save_tiny, tiny_loaded


def of_tokens(*numbers):
    return [SimpleNamespace(batch=SimpleNamespace(ids=torch.zeros(n, 1))) for n in numbers]


@pytest.mark.parametrize(
    ("numbers", "n_tokens", "fit"),
    [((5, 4, 3), 0, 1), ((5, 4, 3), 8, 1), ((5, 4, 3), 9, 2), ((5, 4, 3), 11.9, 2), ((5, 4, 3), 99, 3), ((), 9, 0)],
)
def test_as_many_batches_go_together_as_fit_and_one_at_least(numbers, n_tokens, fit):
    assert len(fitting_batches(of_tokens(*numbers), n_tokens)) == fit


@pytest.fixture
def entered(monkeypatch):
    """The blocks that were brought in, one entry each time."""
    monkeypatch.setattr(evaluating, "BATCH_TOKENS", 64)
    monkeypatch.setattr(evaluating, "TOGETHER_TOKENS", 4 * 64)
    return []


def answers(loaded, steps=ignore_steps):
    texts = Texts(texts=tuple(passages(30)), identity="t")
    return evaluate(loaded, choose_passages(texts, EvaluationSettings(corpus="t")), steps).outcomes


def test_a_streamed_models_blocks_are_read_once_for_several_batches(model_folder, store, entered, monkeypatch):
    source = locate_model(str(model_folder), store)
    streamed = stream_model(source, "float32", store)
    enter = type(streamed.residency)._enter

    def watched(self, block):
        if block is not self._inside:
            entered.append(block)
        enter(self, block)

    monkeypatch.setattr(type(streamed.residency), "_enter", watched)
    monkeypatch.setattr(evaluating, "finish_", lambda loaded, parts: None)
    alone, together = [], []
    monkeypatch.setattr(evaluating, "that_fit", lambda asked, n_tokens: fitting_batches(asked, 0))
    one_by_one = answers(streamed, lambda step: alone.append(step.done))
    n_alone = entered.count(streamed.blocks[-1])
    entered.clear()
    monkeypatch.setattr(evaluating, "that_fit", fitting_batches)
    assert answers(streamed, lambda step: together.append(step.done)) == one_by_one
    assert entered.count(streamed.blocks[-1]) <= -(-n_alone // 3) < n_alone
    assert set(together) < set(alone)


def test_what_is_kept_of_passages_lies_in_files_as_the_weights_do(model_folder, store, entered, monkeypatch):
    streamed = stream_model(locate_model(str(model_folder), store), "float32", store)
    parts = []
    monkeypatch.setattr(evaluating, "finish_", lambda loaded, unfinished: parts.extend(unfinished))
    answers(streamed)

    def in_files(tensors):
        places = {address for _, address, _ in streamed.residency._mapped}
        return {tensor.untyped_storage().data_ptr() for tensor in tensors} <= places

    assert len(parts) > 3
    assert all(in_files(layer) for part in parts for layer in part.layers)
    cache = _Decoding(streamed, nullcontext, parts).cache
    assert all(in_files(layer._room) for layer in cache.layers)
    cache.batch_select_indices(torch.tensor([0, 2]))
    assert len(cache.layers[0].keys) == 2
    assert all(in_files(layer._room) for layer in cache.layers)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_streamed_model_of_every_family_answers_the_same(model_type, store, tmp_path, entered):
    source = locate_model(str(save_tiny(tmp_path / "model", model_type)), store)
    assert answers(stream_model(source, "float32", store)) == answers(load_model(source, "float32"))


def test_what_goes_together_is_no_other_number(model_folder, store, entered):
    source = locate_model(str(model_folder), store)
    assert answers(stream_model(source, "float32", store)) == answers(load_model(source, "float32"))


def test_a_resident_model_is_read_batch_by_batch(model_folder, store, entered, monkeypatch):
    fits = []
    monkeypatch.setattr(evaluating, "that_fit", lambda asked, n: fits.append(n) or fitting_batches(asked, n))
    answers(load_model(locate_model(str(model_folder), store), "float32"))
    assert len(fits) > 3
    assert set(fits) == {0}


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_what_a_model_keeps_of_a_token_is_known_from_one(model_type):
    loaded, cache = tiny_loaded(model_type), DynamicCache()
    loaded.model(torch.zeros((2, 5), dtype=torch.long), cache=cache, use_cache=True)
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert 10 * cache_bytes_per_token(loaded) == kept


def test_a_step_is_told_after_every_block(model_folder, store, entered):
    loaded, steps = load_model(locate_model(str(model_folder), store), "float32"), []
    answers(loaded, steps.append)
    by_count = [sum(step.done == done for step in steps) for done in sorted({step.done for step in steps})]
    # At the beginning and between blocks; behind the last one, the batch counts as read.
    assert set(by_count[:-1]) == {len(loaded.blocks)}
