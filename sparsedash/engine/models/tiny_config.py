"""Shrinks the config of a model to a tiny one of the same kind, on which its structure is proven.

What decides how the model computes stays: activations, biases, tied weights, kinds of layers.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

from sparsedash.catalog.config_checks import DEPTH_KEYS
from sparsedash.catalog.model_hints import TINY_SIZES

VOCABULARY = 400
HIDDEN = 32
N_LAYERS = 4

_DEPTHS = (*DEPTH_KEYS, "encoder_layers")
_AT_MOST = (*_DEPTHS, "n_group", "num_expert_group", "n_shared_experts")
"""Names of sizes that stay where they are smaller already."""
_SIZES: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), HIDDEN
    ),
    **dict.fromkeys(_DEPTHS, N_LAYERS),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "dff"), 64),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(
        ("head_dim", "global_head_dim", "v_head_dim", "qk_nope_head_dim"), 8
    ),
    **dict.fromkeys(("qk_rope_head_dim", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(
        ("shared_intermediate_size", "moe_shared_expert_intermediate_size"), 32
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 8),
    "moe_num_experts": 8,
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk"), 2
    ),
    "top_k_experts": 2,
    **dict.fromkeys(("topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("n_group", "num_expert_group", "n_shared_experts"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 256),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    "sliding_window": 48,
    "rotary_dim": 4,
    **dict.fromkeys(
        ("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), 2
    ),
    **dict.fromkeys(
        ("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8
    ),
    "full_attention_interval": 2,
    "num_kv_shared_layers": 0,
    "decoder_sparse_step": 1,
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size"), 8),
    **dict.fromkeys(("mamba_expand", "expand"), 2),
    **dict.fromkeys(("mamba_n_groups", "n_groups"), 1),
}
"""What each size becomes, by its names in the configs."""
_TOWER_SIZES: dict[str, int] = {
    **dict.fromkeys(
        ("hidden_size", "embed_dim", "d_model", "output_dim", "hidden_dim"), 16
    ),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim"), 24),
    **dict.fromkeys(
        ("num_hidden_layers", "num_layers", "depth", "n_layer", "encoder_layers"), 2
    ),
    **dict.fromkeys(
        ("num_attention_heads", "num_heads", "n_head", "encoder_attention_heads"), 2
    ),
    **dict.fromkeys(("head_dim", "global_head_dim"), 8),
    "num_key_value_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "out_hidden_size": HIDDEN,
    "output_proj_dims": 16,
    "vocab_size": VOCABULARY,
}
"""The same of a vision or audio tower beside the language model."""
_PAIRS_OF_HEADS = (
    ("num_attention_heads", "num_key_value_heads"),
    ("num_attention_heads", "num_kv_heads"),
    ("n_heads", "num_key_value_heads"),
)
_SPECIAL_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_LANGUAGE_WORDS = ("text", "llm", "decoder", "thinker", "attn", "ffn", "language")
"""In the names of nested configs that belong to the language model."""


def tiny_config(config: PretrainedConfig) -> PretrainedConfig:
    """A small config of the same kind, of four decoder layers at most."""
    tiny = copy.deepcopy(config)
    _shrink(tiny, _SIZES)
    return tiny


def _shrink(config: Any, sizes: Mapping[str, int]) -> None:
    """Shrink a config and those inside it, in place."""
    is_tower = sizes is _TOWER_SIZES
    equal_heads = [kv for heads, kv in _PAIRS_OF_HEADS if _are_equal(config, heads, kv)]
    depth = next(
        (
            value
            for name in ("num_hidden_layers", "n_layer")
            if (value := _value(config, name))
        ),
        0,
    )
    head_dim = _head_dim(config)
    of_layers: Mapping[str, Mapping[str, Any]] = {}
    if _value(config, "is_heterogeneous"):
        of_layers = config.to_dict()["per_layer_config"]
        config.per_layer_config = None
    for name, size in sizes.items():
        value = _value(config, name)
        # A size of zero is none: of shared experts, for example.
        if type(value) is int and value:
            _set(config, name, min(value, size) if name in _AT_MOST else size)
    for name in equal_heads:
        _set(config, name, sizes["num_attention_heads"])
    _shrink_sections_(config, head_dim)
    for name, token in _SPECIAL_TOKENS.items():
        if hasattr(config, name):
            _set(config, name, token)
    kinds = _value(config, "layer_types")
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == depth > N_LAYERS:
            _set(config, name, [value[index] for index in _sample_of_layers(value)])
    if of_layers and isinstance(kinds, list):
        config.per_layer_config = _sample_of_values(
            of_layers, _sample_of_layers(kinds), sizes
        )
    if not is_tower:
        for name, value in TINY_SIZES.get(
            getattr(config, "model_type", ""), {}
        ).items():
            _set(config, name, value)
    for name, part in list(vars(config).items()):
        if isinstance(part, PretrainedConfig):
            is_language = any(word in name for word in _LANGUAGE_WORDS)
            _shrink(part, _SIZES if is_language else _TOWER_SIZES)


def _head_dim(config: Any) -> int:
    """Width of an attention head; 0 where the config does not say."""
    n_heads = _value(config, "num_attention_heads")
    hidden = _value(config, "hidden_size")
    if not isinstance(n_heads, int) or not isinstance(hidden, int):
        return 0
    return _value(config, "head_dim") or hidden // n_heads


def _shrink_sections_(config: Any, head_dim: int) -> None:
    """Divide narrower heads among the sections of their positions. head_dim: before."""
    rope = _value(config, "rope_parameters")
    sections = rope.get("mrope_section") if isinstance(rope, dict) else None
    if sections and head_dim:
        total = sum(sections) * _head_dim(config) // head_dim
        shares = [total // len(sections)] * len(sections)
        shares[0] += total - sum(shares)
        rope["mrope_section"] = shares


def _sample_of_layers(kinds: Sequence[Any]) -> list[int]:
    """As many layers as a tiny model has: the first of each kind, and then further ones."""
    chosen = sorted(range(len(kinds)), key=lambda index: kinds[index] in kinds[:index])
    return sorted(chosen[:N_LAYERS])


def _sample_of_values(
    of_layers: Mapping[str, Mapping[str, Any]],
    layers: Sequence[int],
    sizes: Mapping[str, int],
) -> dict[int, dict[str, Any]]:
    """Values of single layers, by the places that these layers get; sizes twice the usual tiny
    ones, so that they stay others than the rest has.
    """
    values = {int(index): of_layer for index, of_layer in of_layers.items()}
    sampled = {}
    for place, index in enumerate(layers):
        if index in values:
            sampled[place] = {
                name: 2 * sizes[name] if name in sizes else value
                for name, value in values[index].items()
            }
    return sampled


def _are_equal(config: Any, first: str, second: str) -> bool:
    value = _value(config, first)
    return value is not None and value == _value(config, second)


def _value(config: Any, name: str) -> Any:
    """A value of the config, or None: some raise an error for a name that they do not have."""
    try:
        return getattr(config, name, None)
    except Exception:  # noqa: BLE001 - a config's own property may raise any error
        return None


def _set(config: Any, name: str, value: Any) -> None:
    """Set a value, unless the config refuses it."""
    try:
        setattr(config, name, value)
    except Exception:  # noqa: BLE001 - a config's own check may raise any error
        return
