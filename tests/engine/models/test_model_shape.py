"""The sizes noted of a model, and what is worked out of them, against the real modules of every family."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sparsedash.catalog.model_shape import Workload, parameter_count, prefill_multiply_adds, shape_from_plain
from sparsedash.engine.models.loading import note_shape, shape_of
from sparsedash.engine.pruning.surgery import PrunedMlp, out_weight, pruned
from sparsedash.schema import store_keys
from tests.engine.tiny import CONFIGS, tiny_loaded

N_TOKENS, BATCH = 24, 2


def narrower(loaded):
    """Every MLP without its last channels, each block with fewer."""
    cuts = [8 * (i + 1) for i in range(len(loaded.mlps))]
    return [
        PrunedMlp(torch.arange(mlp.width - cut), out_weight(mlp)[:, : mlp.width - cut])
        for mlp, cut in zip(loaded.mlps, cuts, strict=True)
    ]


@torch.inference_mode()
def counted_by_torch(model):
    """Multiply-adds of the matrix products that really happen; those of attention over the whole square of tokens."""
    model.set_attn_implementation("eager")
    ids = torch.arange(BATCH * N_TOKENS).reshape(BATCH, N_TOKENS)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, logits_to_keep=1, use_cache=True)
    return counter.get_total_flops() // 2


def expected_by_torch(shape, widths):
    """The prediction with attention over the whole square instead of the triangle before each token."""
    cells = 2 * shape.attention * len(widths) * BATCH
    triangle, square = cells * N_TOKENS * (N_TOKENS + 1) // 2, cells * N_TOKENS**2
    return prefill_multiply_adds(shape, widths, Workload(batch=BATCH, n_tokens=N_TOKENS)) - triangle + square


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_multiply_adds_and_parameters_are_those_of_the_real_modules(model_type):
    loaded = tiny_loaded(model_type)
    shape, cut = shape_of(loaded), narrower(loaded)
    dense = counted_by_torch(loaded.model)
    # Some families make their rotary angles, and BLOOM its biases of attention, by small products beside these.
    beside = dense - expected_by_torch(shape, shape.widths)
    assert 0 <= beside <= 4 * N_TOKENS * shape.attention * BATCH
    assert parameter_count(shape, shape.widths) == sum(p.numel() for p in loaded.model.parameters())
    widths = tuple(len(each.kept) for each in cut)
    with pruned(loaded.mlps, cut):
        assert counted_by_torch(loaded.model) == expected_by_torch(shape, widths) + beside
        assert parameter_count(shape, widths) == sum(p.numel() for p in loaded.model.parameters())


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
@torch.inference_mode()
def test_the_width_of_the_keys_is_that_of_the_real_cache(model_type):
    loaded = tiny_loaded(model_type)
    cache = loaded.model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=True).cache
    assert {layer.keys.shape[1] * layer.keys.shape[3] for layer in cache.layers} == {shape_of(loaded).keys}
    assert {layer.values.shape[1] * layer.values.shape[3] for layer in cache.layers} == {shape_of(loaded).keys}


def test_the_sizes_are_noted_under_the_identity_of_the_model(store):
    loaded = tiny_loaded("llama")
    note_shape(loaded, store)
    assert shape_from_plain(store.recall(store_keys.model_shape_note("tiny"))) == shape_of(loaded)
