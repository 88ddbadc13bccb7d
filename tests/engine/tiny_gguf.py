"""A tiny random model of every family that GGUF has, written as llama.cpp's converter writes it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants

from sparsedash.catalog.gguf_names import ARCHITECTURES
from tests.engine.tiny import tiny_model, tiny_tokenizer

FAMILIES = tuple(ARCHITECTURES)

_CHANGES: dict[str, dict[str, Any]] = {
    "bloom": {"seq_length": 256},
    "falcon": {
        "bias": False,
        "multi_query": True,
        "num_kv_heads": 1,
    },
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3": {"query_pre_attn_scalar": 8},
    "llama": {"mlp_bias": False},
    "qwen3": {"tie_word_embeddings": True},
}


def tiny_gguf_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """The model that `write_tiny_gguf` writes. changes: to its config."""
    model_type = ARCHITECTURES[family].model_type
    return tiny_model(
        model_type,
        seed,
        **(_CHANGES.get(family, {}) | changes),
    )


def write_tiny_gguf(
    path: Path,
    seed: int = 0,
    without: str | tuple[str, ...] = (),
    family: str = "llama",
    keys: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    quantised: str = "F32",
    **changes: Any,
) -> Path:
    """The file at this path.

    without: the names of keys and tensors to leave out, or one. keys, tensors: to be written as
    well or instead; `#` in the name of a key is the architecture. quantised: the type of all
    matrices. changes: to its config.
    """
    kind = GGMLQuantizationType[quantised]
    model = tiny_gguf_model(family, seed, **changes)
    writer = GGUFWriter(path, family)
    without = (without,) if isinstance(without, str) else without
    wanted = _keys(model.config, family) | {
        name.replace("#", family): value for name, value in (keys or {}).items()
    }
    for name, value in wanted.items():
        if name not in without:
            add_key(writer, name, value)
    written = {
        name: np.asarray(weight) for name, weight in _tensors(model, family).items()
    } | dict(tensors or {})
    for name, weight in written.items():
        if name not in without:
            values = np.ascontiguousarray(weight, dtype=np.float32)
            if values.ndim > 1 and quantised != "F32":
                writer.add_tensor(
                    name,
                    quants.quantize(values, kind),
                    raw_dtype=kind,
                )
            else:
                writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _keys(config: Any, family: str) -> dict[str, Any]:
    """What llama.cpp's converter writes of a config and a tokenizer."""
    fields = {
        "context_length": getattr(config, "max_position_embeddings", 256),
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_attention_heads,
        "feed_forward_length": _width(config),
        "vocab_size": config.vocab_size,
    }
    if (
        few := getattr(config, "num_key_value_heads", None)
        or getattr(config, "num_kv_heads", None)
    ) is not None:
        fields["attention.head_count_kv"] = few
    rms = getattr(config, "rms_norm_eps", None)
    if rms is not None:
        fields["attention.layer_norm_rms_epsilon"] = rms
    else:
        fields["attention.layer_norm_epsilon"] = (
            getattr(config, "layer_norm_epsilon", None) or config.norm_epsilon
        )
    if getattr(config, "head_dim", None) and family not in ("falcon", "phi3"):
        fields |= {
            "attention.key_length": config.head_dim,
            "attention.value_length": config.head_dim,
        }
    if "expert_count" in ARCHITECTURES[family].keys:
        fields["expert_count"] = config.num_experts
        fields["expert_used_count"] = config.num_experts_per_tok
    if family == "qwen3moe":
        fields["expert_feed_forward_length"] = config.moe_intermediate_size
    if family in ("gemma2", "gemma3"):
        fields["attention.sliding_window"] = config.sliding_window
    if family == "gemma2":
        fields["attn_logit_softcapping"] = config.attn_logit_softcapping
        fields["final_logit_softcapping"] = config.final_logit_softcapping
    if "rope.freq_base" in ARCHITECTURES[family].keys:
        fields["rope.freq_base"] = 10_000.0
    if family == "phi3":
        fields["rope.dimension_count"] = (
            config.hidden_size // config.num_attention_heads
        )
        fields["rope.scaling.original_context_length"] = config.max_position_embeddings
    own_keys = {f"{family}.{name}": value for name, value in fields.items()}
    return own_keys | tokenizer_keys(
        config.vocab_size, "qwen2" if family.startswith("qwen") else "gpt-2"
    )


def tokenizer_keys(n_tokens: int, cut: str = "gpt-2") -> dict[str, Any]:
    """Those of the tiny tokenizer, filled up with unused tokens. cut: tokenizer.ggml.pre."""
    tokenizer = tiny_tokenizer()
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    n_known = len(tokens)
    tokens += [f"<unused{i}>" for i in range(n_tokens - n_known)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": cut,
        "tokenizer.ggml.tokens": tokens,
        # Control, then normal, then unused, as llama.cpp numbers them.
        "tokenizer.ggml.token_type": [3]
        + [1] * (n_known - 1)
        + [5] * (len(tokens) - n_known),
        "tokenizer.ggml.merges": _merges(
            tokenizer.backend_tokenizer.model.__getstate__()
        ),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.eos_token_id": 0,
    }


def _width(config: Any) -> int:
    named = (
        getattr(config, name, None)
        for name in ("ffn_hidden_size", "intermediate_size", "n_inner")
    )
    return next((width for width in named if width), 4 * config.hidden_size)


def add_key(writer: GGUFWriter, name: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(name, value)
        case int():
            writer.add_uint32(name, value)
        case float():
            writer.add_float32(name, value)
        case str():
            if name != "general.architecture":
                writer.add_string(name, value)
        case _:
            writer.add_array(name, value)


def _tensors(model: Any, family: str) -> dict[str, Any]:
    """The model's weights as GGUF names and turns them."""
    names = {ours: theirs for theirs, ours in ARCHITECTURES[family].tensors.items()}
    config = model.config
    tensors = {}
    for name, weight in model.state_dict().items():
        parts = name.split(".")
        block = next((part for part in parts if part.isdecimal()), "")
        if ".experts." in name:
            tensors |= _of_experts(f"blk.{block}.", name, weight)
            continue
        whole = ".".join("#" if part == block else part for part in parts)
        if family == "falcon" and config.num_ln_in_parallel_attn != 2:
            whole = whole.replace("input_layernorm", "ln_mlp")
        theirs = names[whole].replace("#", block)
        if not (theirs == "output.weight" and config.tie_word_embeddings):
            tensors[theirs] = _turned(theirs, weight, config, family)
    return tensors


def _of_experts(block: str, name: str, weight: Any) -> dict[str, Any]:
    """Of all experts of a block: gate and up in a tensor each."""
    if name.endswith("down_proj"):
        return {f"{block}ffn_down_exps.weight": weight}
    gate, up = weight.chunk(2, dim=1)
    return {f"{block}ffn_gate_exps.weight": gate, f"{block}ffn_up_exps.weight": up}


def _turned(name: str, weight: Any, config: Any, family: str) -> Any:
    """As convert_hf_to_gguf.py of llama.cpp b11739 does it."""
    heads = config.num_attention_heads
    columns = weight.shape[1:]
    if family == "llama" and (".attn_q." in name or ".attn_k." in name):
        n = heads if ".attn_q." in name else config.num_key_value_heads
        return (
            weight.reshape(n, 2, len(weight) // n // 2, *columns)
            .swapaxes(1, 2)
            .reshape(weight.shape)
        )
    if family in ("gemma2", "gemma3") and name.endswith("norm.weight"):
        return weight + 1
    if family == "gpt2" and weight.dim() == 2 and name.startswith("blk."):
        return weight.T
    if family == "bloom" and ".attn_qkv." in name:
        per_head = weight.reshape(heads, 3, -1, *columns)
        return per_head.swapaxes(0, 1).reshape(weight.shape)
    if family == "falcon" and ".attn_qkv." in name and config.new_decoder_architecture:
        grouped = weight.reshape(
            config.num_kv_heads, heads // config.num_kv_heads + 2, -1, *columns
        )
        parts = (grouped[:, :-2], grouped[:, -2:-1], grouped[:, -1:])
        return np.concatenate([part.reshape(-1, *columns) for part in parts])
    return weight


def _merges(state: bytes) -> list[str]:
    return [
        " ".join(pair) if isinstance(pair, list) else pair
        for pair in json.loads(state)["merges"]
    ]
