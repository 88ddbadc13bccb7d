"""What follows from a shape by hand; tests/engine/models/test_real_shapes.py compares shapes with
the real models.
"""

from dataclasses import replace

import pytest

from sparsedash.catalog.choices import MODELS as LISTED
from sparsedash.catalog.model_sizes import (
    decode_ceiling,
    listed_shape,
    parameter_count,
    prefill_ceiling,
    prefill_multiply_adds,
    shipped_shape,
    weight_bytes,
)
from sparsedash.schema.model_shape import (
    KeptParts,
    MlpLayout,
    ModelShape,
    ModelStructure,
)


def test_the_weights_of_the_mlps_and_both_that_they_are_a_share_of_are_counted():
    shape = shipped_shape("opt-1.3b")
    assert (shape.n_mlp, shape.n_matmul, shape.n_parameters) == (
        24 * 8192 * 2 * 2048,
        1_310_916_608,
        1_315_758_080,
    )


def test_the_models_of_the_list_are_known_and_no_others():
    shipped = [
        model for model in LISTED if model.group in ("", "With published results")
    ]
    assert len(shipped) == 7 and all(listed_shape(model.name) for model in shipped)
    assert listed_shape("facebook/opt-1.3b-other") is None


# Two blocks, d = 4, m = 8, gated without biases: 3 * 4 * 8 = 96 weights of an MLP; four projections
# of 16 weights each; a head of 10 words that shares the embedding; 2 norms a block and one after
# them.
GATED = MlpLayout(
    inner=("mlp.gate_proj", "mlp.up_proj"),
    out="mlp.down_proj",
    width=8,
    key="intermediate_size",
    value=8,
)
SHAPE = ModelShape(
    family="llama",
    hidden=4,
    vocabulary=10,
    widths=(8, 8),
    per_channel=12,
    bias_per_channel=0,
    n_matmul=2 * (96 + 64) + 40,
    n_head=40,
    n_parameters=2 * (96 + 64) + 40 + 20,
    attention=4,
    cache_per_token=2 * 2 * 4,
    other_weights=(64, 64),
    other_parameters=(0, 0),
    stored_bytes=4,
    structure=ModelStructure(blocks="model.layers", mlps=(GATED, GATED)),
)
HALF = KeptParts(widths=(4, 4))
FEWER = KeptParts(widths=(7, 6))
ONE_BLOCK = replace(
    SHAPE,
    widths=(8,),
    other_weights=(64,),
    other_parameters=(0,),
    structure=ModelStructure(blocks="model.layers", mlps=(GATED,)),
)


def test_multiply_adds_count_linear_layers_attention_and_the_head_once_a_passage():
    # 3 tokens through 320 weights, the head once; scores and sums: 2 * 4 * (1 + 2 + 3) in each of
    # two blocks.
    assert prefill_multiply_adds(SHAPE, SHAPE.whole, 3) == 3 * 320 + 40 + 2 * 48
    assert prefill_multiply_adds(SHAPE, HALF, 3) == 3 * (320 - 96) + 40 + 2 * 48


def test_writing_reads_every_weight_once_and_the_keys_and_values_of_all_passages():
    # Keys and values: 2 * 4 in each of two blocks for 3 tokens of 5 passages.
    assert decode_ceiling(SHAPE, HALF, batch=5, n_tokens=3) == (
        360 + 2 * 4 * 2 * 3 * 5
    ) / (360 - 96 + 240)


def test_ceilings_are_dense_over_sparse_and_fall_with_longer_passages():
    load = {"batch": 1, "n_tokens": 3}
    assert prefill_ceiling(SHAPE, HALF, 3) == pytest.approx(1096 / 808)
    assert decode_ceiling(SHAPE, HALF, **load) == pytest.approx(408 / 312)
    assert (
        prefill_ceiling(SHAPE, SHAPE.whole, 3)
        == decode_ceiling(SHAPE, SHAPE.whole, **load)
        == 1
    )
    gains = [prefill_ceiling(SHAPE, HALF, n) for n in (8, 64, 512)]
    assert gains == sorted(gains, reverse=True)


def test_parameters_count_each_shared_one_once_and_biases_leave_with_their_channel():
    biased = ModelShape(
        **{
            **vars(SHAPE),
            "bias_per_channel": 2,
            "n_parameters": SHAPE.n_parameters + 32,
        }
    )
    assert parameter_count(SHAPE, FEWER) == 380 - 3 * 12
    assert parameter_count(biased, FEWER) == 412 - 3 * 14
    assert weight_bytes(SHAPE, FEWER, "float32") == 4 * (380 - 36)
    assert weight_bytes(SHAPE, FEWER, "bfloat16") == 2 * (380 - 36)
