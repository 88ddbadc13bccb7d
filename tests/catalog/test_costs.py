"""What narrower widths save, by hand; tests/engine/models/test_model_shape.py holds it against real models."""

import pytest

from sparsedash.catalog.model_shape import (
    ModelShape,
    Workload,
    decode_bytes,
    decode_ceiling,
    parameter_count,
    prefill_ceiling,
    prefill_multiply_adds,
    shape_from_plain,
    weight_bytes,
)

# Two blocks, d = 4, m = 8, gated without biases: 3 * 4 * 8 = 96 weights of an MLP; four projections of 16 weights each;
# a head of 10 words that shares the embedding; 2 norms a block and one after them.
SHAPE = ModelShape(
    family="llama",
    hidden=4,
    widths=(8, 8),
    per_channel=12,
    bias_per_channel=0,
    n_matmul=2 * (96 + 64) + 40,
    n_head=40,
    n_parameters=2 * (96 + 64) + 40 + 20,
    attention=4,
    keys=4,
)
HALF = (4, 4)


def test_multiply_adds_count_linear_layers_attention_and_the_head_once_a_passage():
    # 3 tokens through 320 weights, the head once; scores and sums: 2 * 4 * (1 + 2 + 3) in each of two blocks.
    assert prefill_multiply_adds(SHAPE, (8, 8), Workload(batch=1, n_tokens=3)) == 3 * 320 + 40 + 2 * 48
    assert prefill_multiply_adds(SHAPE, HALF, Workload(batch=5, n_tokens=3)) == 5 * (3 * (320 - 96) + 40 + 2 * 48)


def test_writing_reads_every_weight_once_and_the_keys_and_values_of_all_passages():
    # Keys and values: 2 * 4 in each of two blocks for 3 tokens of 5 passages.
    assert decode_bytes(SHAPE, (8, 8), Workload(batch=5, n_tokens=3), "float32") == 4 * (360 + 2 * 4 * 2 * 3 * 5)
    assert decode_bytes(SHAPE, HALF, Workload(batch=1, n_tokens=3), "bfloat16") == 2 * (360 - 96 + 48)


def test_the_ceilings_are_dense_over_sparse():
    load = Workload(batch=1, n_tokens=3)
    assert prefill_ceiling(SHAPE, HALF, load) == pytest.approx(1096 / 808)
    assert decode_ceiling(SHAPE, HALF, load, "float32") == pytest.approx(408 / 312)
    assert prefill_ceiling(SHAPE, SHAPE.widths, load) == decode_ceiling(SHAPE, SHAPE.widths, load, "float32") == 1


def test_longer_passages_leave_less_to_gain_since_attention_is_not_removed():
    gains = [prefill_ceiling(SHAPE, HALF, Workload(batch=1, n_tokens=n)) for n in (8, 64, 512)]
    assert gains == sorted(gains, reverse=True)


def test_weights_count_each_shared_one_once_and_biases_leave_with_their_channel():
    biased = ModelShape(**{**vars(SHAPE), "bias_per_channel": 2, "n_parameters": SHAPE.n_parameters + 32})
    assert parameter_count(SHAPE, (7, 6)) == 380 - 3 * 12
    assert parameter_count(biased, (7, 6)) == 412 - 3 * 14
    assert weight_bytes(SHAPE, (7, 6), "float32") == 4 * (380 - 36)
    assert weight_bytes(SHAPE, (7, 6), "bfloat16") == 2 * (380 - 36)


def test_a_shape_is_read_as_it_was_written_and_anything_else_is_none():
    assert shape_from_plain(SHAPE.plain()) == SHAPE
    assert shape_from_plain("{}") is None
    assert shape_from_plain("no JSON") is None
