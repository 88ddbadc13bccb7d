"""A tiny random LLaMA, or another, as a .gguf file; its tokenizer knows the words of the tests' own passages."""

import json
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType, GGUFWriter, quants

from tests.engine.tiny import tiny_model, tiny_tokenizer

_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers.": "blk.",
}


_CHANGES: dict[str, dict[str, Any]] = {"llama": {"mlp_bias": False}, "qwen3": {"tie_word_embeddings": True}}


def write_tiny_gguf(
    path: Path, seed: int = 0, without: str = "", family: str = "llama", quantised: str = "F32", **changes: Any
) -> Path:
    """The file at this path. without: the name of a tensor, as GGUF calls it, to leave out. changes: to its config.

    quantised: the type of all matrices.
    """
    kind = GGMLQuantizationType[quantised]
    model = tiny_model(family, seed, **(_CHANGES.get(family, {}) | changes))
    config, writer = model.config, GGUFWriter(path, family)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    tokenizer = tiny_tokenizer()
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    known = tuple(tokens)
    tokens += [f"<unused{i}>" for i in range(config.vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    # Control, then normal, then unused, as llama.cpp numbers them.
    writer.add_token_types([3] + [1] * (len(known) - 1) + [5] * (len(tokens) - len(known)))
    writer.add_token_merges(_merges(tokenizer.backend_tokenizer.model.__getstate__()))
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_eos_token_id(0)
    for name, weight in model.state_dict().items():
        for ours, theirs in _NAMES.items():
            name = name.replace(ours, theirs)
        if name != without and not (name == "output.weight" and config.tie_word_embeddings):
            values = weight.numpy()
            if values.ndim > 1 and quantised != "F32":
                writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)
            else:
                writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _merges(state: bytes) -> list[str]:
    return [" ".join(pair) if isinstance(pair, list) else pair for pair in json.loads(state)["merges"]]
