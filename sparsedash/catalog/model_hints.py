"""Facts about some model types that cannot be inferred: a line each, with its reason.

The keys are values of `model_type` in config.json.
"""

from typing import Any

_HYBRID = ["linear_attention", "full_attention"] * 2
_SSM_SIZES = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1}

TINY_SIZES: dict[str, dict[str, Any]] = {
    # Their layers are told by lists or by steps that a shorter model has to follow.
    "bamba": {"attn_layer_indices": [1, 3], **_SSM_SIZES},
    "bailing_hybrid": {"layer_types": _HYBRID},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "granitemoehybrid": {"layer_types": _HYBRID, **_SSM_SIZES},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_dt_rank": 4,
    },
    "kimi_linear": {"layer_types": _HYBRID},
    "mllama_text_model": {"cross_attention_layers": [1, 3]},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
        "moe_latent_size": None,
    },
    # Sizes under names that no other type has, or that their configs leave open.
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 8, "num_experts_per_tok": 2, "head_dim": 8},
    "dots3_note_text": {
        "num_key_value_heads": 4,
        "qk_rope_head_dim": 8,
        "per_layer_config": None,
    },
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1, "expand": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
        "ple_embed_dim": 8,
        "ngram_vocab_size_base": 500,
    },
    "deepseek_v32": {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 64},
    "falcon_h1": {"mamba_d_ssm": 64, **_SSM_SIZES},
    "longcat_flash": {
        "num_layers": 2,
        "expert_ffn_hidden_size": 32,
        "zero_expert_num": 4,
        "qk_head_dim": 16,
    },
    "inkling2_text": {"unpadded_vocab_size": 400},
    "inkling2_loop_text": {"unpadded_vocab_size": 400},
    "inkling_text": {"unpadded_vocab_size": 400},
    "recurrent_gemma": {"lru_width": 32},
    "rwkv": {"attention_hidden_size": 32},
}
"""Values beside the usual ones for a tiny model of the type; see `engine.models.tiny_config`."""

DERIVED_WIDTHS: dict[str, tuple[str, dict[str, bool | None]]] = {
    # Two thirds of what it says, rounded up, unless told otherwise; read by its older name first.
    "lfm2": (
        "intermediate_size",
        {"block_ff_dim": None, "block_auto_adjust_ff_dim": False},
    ),
}
"""The key of a width that a type's code derives from it, and what else a config must say for MLPs
to be as wide as it says; None where that is the width again.
"""
