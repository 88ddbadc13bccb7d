"""Weights counted by arithmetic are those of the real model classes, built without memory for their weights."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sparsedash.catalog.families import FAMILIES
from sparsedash.catalog.model_shape import _ARCHITECTURES, CONFIGS, dimensions, shipped_shape
from sparsedash.catalog.published_results import PUBLISHED_MODELS
from sparsedash.engine.models.decoder_blocks import mlps_of, n_matmul_weights, weights_per_channel
from tests.engine.tiny import CONFIGS as CONFIGS_OF_TINY
from tests.engine.tiny import tiny_model

NAMES = sorted(path.stem for path in CONFIGS.glob("*.json"))


def _without_weights(config):
    parsed = AutoConfig.for_model(**config)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(parsed)


def _config(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


def _assert_equal(config):
    counted, model = dimensions(config), _without_weights(config)
    mlps = mlps_of(model, FAMILIES[config["model_type"]])
    assert counted.widths == tuple(mlp.width for mlp in mlps)
    assert {counted.per_channel} == {weights_per_channel(mlp) for mlp in mlps}
    assert counted.n_matmul == n_matmul_weights(model)
    assert counted.n_parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_config_gives_the_counts_of_the_real_model(name):
    _assert_equal(_config(name))


def test_grouped_heads_and_a_shared_embedding_are_counted():
    changed = {"num_key_value_heads": 8, "tie_word_embeddings": True, "num_hidden_layers": 2}
    _assert_equal(_config("llama-7b") | changed)


@pytest.mark.parametrize(
    "changed",
    [{"model_type": "mistral"}, {"model_type": "qwen2"}, {"head_dim": 64}, {"num_key_value_heads": 4, "head_dim": 256}],
)
def test_relatives_of_llama_are_counted_as_what_they_are(changed):
    few = {"num_key_value_heads": 8, "num_hidden_layers": 2, "sliding_window": None}
    _assert_equal(_config("llama-7b") | few | changed)


def test_every_published_model_and_the_built_in_one_ship_their_config():
    assert set(NAMES) == {model.config for model in PUBLISHED_MODELS} | {"smollm2-135m"}


SIZES = {"hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16, "vocab_size": 32_000}
GPT_SIZES = {"n_embd": 1024, "n_layer": 4, "n_head": 16, "vocab_size": 32_000, "n_positions": 1024}
GROUPED = SIZES | {"intermediate_size": 2816, "num_key_value_heads": 4}
OTHERS = {
    "falcon": SIZES,
    "gemma2": GROUPED | {"head_dim": 128},
    "gemma3_text": GROUPED | {"head_dim": 128},
    "gpt2": GPT_SIZES,
    "gpt_neo": {"hidden_size": 1024, "num_layers": 4, "num_heads": 16, "vocab_size": 32_000}
    | {"max_position_embeddings": 2048, "attention_types": [[["global", "local"], 2]]},
    "gpt_neox": SIZES | {"intermediate_size": 4096},
    "olmo2": GROUPED,
    "phi": SIZES | {"intermediate_size": 4096},
    "phi3": GROUPED | {"pad_token_id": 0},
    "qwen3": GROUPED | {"head_dim": 128},
    "smollm3": GROUPED | {"pad_token_id": 0},
    "starcoder2": GROUPED,
}


@pytest.mark.parametrize("family", sorted(OTHERS))
def test_a_family_without_a_row_is_counted_all_the_same(family):
    config = OTHERS[family] | {"model_type": family}
    parsed = AutoConfig.for_model(**config)
    counted, model = dimensions(parsed.to_dict()), _without_weights(config)
    assert counted.widths == tuple(mlp.width for mlp in mlps_of(model, FAMILIES[family]))
    assert counted.n_matmul == n_matmul_weights(model)
    assert counted.n_parameters == pytest.approx(sum(own.numel() for own in model.parameters()), rel=2e-3)
    # Families rarely write all that they know into their config.
    assert dimensions({"tie_word_embeddings": parsed.tie_word_embeddings} | config).n_matmul == counted.n_matmul


@pytest.mark.parametrize("family", sorted(CONFIGS_OF_TINY))
def test_what_is_kept_of_a_token_is_what_the_model_keeps(family):
    model = tiny_model(family)
    kept = model(torch.tensor([[1, 2, 3]]), use_cache=True).cache.layers
    counted = dimensions(model.config.to_dict()).kept_of_a_token
    assert 3 * counted == sum(layer.keys.numel() + layer.values.numel() for layer in kept)


def test_every_family_is_counted():
    assert set(FAMILIES) == set(_ARCHITECTURES) | set(OTHERS)


def test_a_family_that_is_none_of_ours_is_refused():
    with pytest.raises(KeyError, match="mamba"):
        dimensions({"model_type": "mamba"})


def test_removed_weights_are_shared_out_over_either_divisor():
    found = shipped_shape("opt-1.3b")
    removed = 0.1 * 24 * 8192 * 2 * 2048
    assert found.matmul_ratio(0.1) == pytest.approx(removed / 1_310_916_608)
    assert found.parameter_ratio(0.1) == pytest.approx(removed / 1_315_758_080)
