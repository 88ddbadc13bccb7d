"""The shape counted from a config, against the real modules of every family."""

import json
from itertools import chain

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from docs.model_shapes import shape_of_config
from sparsedash.catalog.model_sizes import CONFIGS, shipped_shape
from sparsedash.catalog.published_results import PUBLISHED_MODELS
from sparsedash.engine.models.model_inspection import inspect_model
from sparsedash.engine.pruning.surgery import weights_per_channel
from tests.engine.tiny import CONFIGS as TINY
from tests.engine.tiny import as_loaded, tiny_loaded

SHIPPED = {
    path.stem: json.loads(path.read_text()) for path in sorted(CONFIGS.glob("*.json"))
}
FEW = {
    "num_hidden_layers": 2,
    "num_key_value_heads": 8,
    "sliding_window": None,
}
OTHERS = {
    "llama-tied": SHIPPED["llama-7b"] | FEW | {"tie_word_embeddings": True},
    "llama-biased": SHIPPED["llama-7b"]
    | FEW
    | {"attention_bias": True, "mlp_bias": True},
    "llama-narrow-heads": SHIPPED["llama-7b"] | FEW | {"head_dim": 64},
    "llama-wide-heads": SHIPPED["llama-7b"]
    | FEW
    | {"num_key_value_heads": 4, "head_dim": 256},
    "mistral": SHIPPED["llama-7b"] | FEW | {"model_type": "mistral"},
    "qwen2": SHIPPED["llama-7b"] | FEW | {"model_type": "qwen2"},
    "qwen3-biased": TINY["qwen3"] | {"model_type": "qwen3", "attention_bias": True},
    "phi-normed": TINY["phi"] | {"model_type": "phi", "qk_layernorm": True},
    "smollm3-untied": TINY["smollm3"]
    | {"model_type": "smollm3", "tie_word_embeddings": False},
    "falcon-40b": TINY["falcon"]
    | {
        "model_type": "falcon",
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
    },
    "falcon-11b": TINY["falcon"]
    | {
        "model_type": "falcon",
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
        "num_ln_in_parallel_attn": 1,
    },
    "falcon-rw": TINY["falcon"]
    | {
        "model_type": "falcon",
        "multi_query": False,
        "parallel_attn": False,
    },
    "starcoder2-unbiased": TINY["starcoder2"]
    | {"model_type": "starcoder2", "use_bias": False},
    "opt-350m": SHIPPED["opt-1.3b"]
    | {"word_embed_proj_dim": 512, "do_layer_norm_before": False},
}
MODELS = {
    **{f"tiny-{name}": config | {"model_type": name} for name, config in TINY.items()},
    **SHIPPED,
    **OTHERS,
}


def n_numbers(tensors):
    return sum(tensor.numel() for tensor in tensors)


@pytest.mark.parametrize("name", MODELS)
def test_every_count_is_that_of_the_real_model(name):
    config = AutoConfig.for_model(**MODELS[name])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    loaded = as_loaded(model)
    shape = inspect_model(config, name)
    mlps = loaded.mlps
    assert shape.widths == tuple(mlp.width for mlp in mlps)
    assert {shape.per_channel} == {weights_per_channel(mlp) for mlp in mlps}
    inner = chain.from_iterable(mlp.inner for mlp in mlps)
    biases = [module.bias for module in inner if module.bias is not None]
    assert sum(shape.widths) * shape.bias_per_channel == n_numbers(biases)
    head = model.get_output_embeddings().weight
    assert (shape.family, shape.vocabulary) == (config.model_type, len(head))
    assert shape.n_head == head.numel()
    kinds = (torch.nn.Linear, torch.nn.Conv1d, Conv1D)
    products = [
        module.weight for module in model.modules() if isinstance(module, kinds)
    ]
    assert shape.n_matmul == n_numbers(products)
    projections = chain.from_iterable(
        block.values() for block in loaded.projections("decoder")
    )
    assert shape.n_block_weights == n_numbers(module.weight for module in projections)
    assert shape.n_parameters == n_numbers(model.parameters())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_shape_is_that_of_its_config(name):
    assert shape_of_config(name) == shipped_shape(name), "run make docs"


def test_every_tiny_type_is_counted_and_every_published_model_ships_its_shape():
    assert {config["model_type"] for config in MODELS.values()} == set(TINY)
    assert set(SHIPPED) == {model.config for model in PUBLISHED_MODELS} | {
        "smollm2-135m"
    }


@pytest.mark.parametrize("model_type", sorted(TINY))
@torch.inference_mode()
def test_a_token_takes_as_much_as_in_the_real_cache(model_type):
    loaded = tiny_loaded(model_type)
    cache = loaded.model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=True).cache
    n_numbers_cached = n_numbers(layer.keys for layer in cache.layers)
    n_numbers_cached += n_numbers(layer.values for layer in cache.layers)
    assert 3 * loaded.shape.cache_per_token == n_numbers_cached
