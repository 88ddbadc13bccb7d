"""What a config.json says that no model can be, wherever in it that stands."""

import pytest

from sparsedash.catalog.config_checks import config_problem

_SIZES = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4}


def wrapper(text, model_type="qwen3_5_moe", **parts):
    """A config of text and images. text: its language model's."""
    vision = {"depth": 2, "num_heads": [2, 4], "hidden_size": 32}
    return {
        "model_type": model_type,
        "text_config": text,
        "vision_config": vision,
        **parts,
    }


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            wrapper({"num_experts": 8, "num_experts_per_tok": 16}),
            "text_config.num_experts_per_tok = 16 of 8 experts; possible: 1 to 8.",
        ),
        (
            wrapper({"num_experts": 4, "top_k_experts": 5}, "gemma4"),
            "text_config.top_k_experts = 5 of 4 experts; possible: 1 to 4.",
        ),
        (
            wrapper(_SIZES | {"num_hidden_layers": 10**9}),
            "text_config.num_hidden_layers = 1000000000; possible: 1 to 2,000.",
        ),
        (
            wrapper(_SIZES | {"intermediate_size": [64, 64, 0, 64]}),
            "text_config.intermediate_size = 0; possible: 1 to 10,000,000.",
        ),
        (
            wrapper(_SIZES, vision_config={"num_hidden_layers": 10**9}),
            "vision_config.num_hidden_layers = 1000000000; possible: 1 to 2,000.",
        ),
        (
            {
                "model_type": "qwen3_omni_moe",
                "thinker_config": wrapper({"hidden_size": 0}),
            },
            "thinker_config.text_config.hidden_size = 0; possible: 1 to 1,000,000.",
        ),
    ],
)
def test_a_config_inside_another_is_checked_like_it(config, said):
    assert config_problem(config, "it") == f"the config of it says {said}"


def test_a_wrapper_whose_language_model_is_quantised_is_refused():
    config = wrapper(
        _SIZES | {"quantization_config": {"quant_method": "compressed-tensors"}}
    )
    assert config_problem(config, "it").startswith("the weights in it are quantised")


def test_sizes_of_layers_and_stages_and_idle_experts_are_no_problem():
    sizes = _SIZES | {"intermediate_size": [64, 128, 64, 128]}
    assert config_problem(wrapper(sizes), "it") == ""
    routed = {"n_routed_experts": 8, "zero_expert_num": 4, "moe_topk": 12}
    assert config_problem({"model_type": "longcat_flash", **routed}, "it") == ""
    too_many = config_problem(
        {"model_type": "longcat_flash", **routed, "moe_topk": 13}, "it"
    )
    assert too_many.endswith("moe_topk = 13 of 12 experts; possible: 1 to 12.")


def test_configs_inside_one_another_without_end_are_looked_into_only_so_far():
    config = {"model_type": "llama"}
    for _ in range(500):
        config = {"model_type": "llama", "text_config": config}
    assert config_problem(config, "it") == ""
