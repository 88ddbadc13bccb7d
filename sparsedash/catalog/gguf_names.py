"""Keys and tensors of GGUF files: mapped to the config and the model, or harmless. What is not listed is refused.

Keys of an architecture stand without its name; `#` is a number. engine/models/model_conversion.py reads nothing that is
not listed here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"

Class = Literal["mapped", "harmless", "refused"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One architecture of GGUF.

    model_type: its family. keys: of its keys that are mapped, the entries of config.json. tensors: of its tensors, the
    names in the model. harmless: keys of which this architecture needs nothing, with the reason.
    """

    model_type: str
    keys: Mapping[str, str]
    tensors: Mapping[str, str]
    harmless: Mapping[str, str] = field(default_factory=dict)


def _pairs(text: str) -> dict[str, str]:
    """GGUF's names and ours, each pair joined by `=`."""
    return dict(pair.split("=") for pair in text.split())


def _both(text: str) -> dict[str, str]:
    """The weight and the bias of each module."""
    return {f"{gguf}.{kind}": f"{ours}.{kind}" for gguf, ours in _pairs(text).items() for kind in ("weight", "bias")}


def _of_blocks(place: str, weights: str, biased: str = "") -> dict[str, str]:
    """Modules of each block, which is at this place: those with a weight alone, and those with a bias as well."""
    names = {f"{gguf}.weight": f"{ours}.weight" for gguf, ours in _pairs(weights).items()} | _both(biased)
    return {f"blk.#.{gguf}": f"{place}.#.{ours}" for gguf, ours in names.items()}


_SIZES = _pairs(
    "vocab_size=vocab_size context_length=max_position_embeddings embedding_length=hidden_size "
    "block_count=num_hidden_layers attention.head_count=num_attention_heads"
)
_ROPE = _pairs(
    "rope.freq_base=rope_parameters rope.scaling.type=rope_parameters rope.scaling.factor=rope_parameters "
    "rope.scaling.attn_factor=rope_parameters rope.scaling.original_context_length=rope_parameters "
    "rope.scaling.yarn_beta_fast=rope_parameters rope.scaling.yarn_beta_slow=rope_parameters"
)
_USUAL = _SIZES | _ROPE
_USUAL |= _pairs(
    "attention.head_count_kv=num_key_value_heads attention.key_length=head_dim attention.value_length=head_dim "
    "rope.dimension_count=head_dim feed_forward_length=intermediate_size attention.layer_norm_rms_epsilon=rms_norm_eps"
)
_GEMMA = _USUAL | _pairs(
    "attention.sliding_window=sliding_window attention.sliding_window_pattern=layer_types "
    "final_logit_softcapping=final_logit_softcapping"
)
_NORM_EPSILON = {"attention.layer_norm_epsilon": "layer_norm_epsilon"}

_OUTER = _pairs(
    "token_embd.weight=model.embed_tokens.weight output_norm.weight=model.norm.weight output.weight=lm_head.weight"
)
_GPT_OUTER = {"output.weight": "lm_head.weight", **_both("output_norm=transformer.ln_f")}
_BLOCKS, _GPT_BLOCKS = "model.layers", "transformer.h"
_QKV = " attn_q=self_attn.q_proj attn_k=self_attn.k_proj attn_v=self_attn.v_proj"
_ATTENTION = f"{_QKV} attn_output=self_attn.o_proj"
_GATED_MLP = " ffn_gate=mlp.gate_proj ffn_up=mlp.up_proj ffn_down=mlp.down_proj"
_NORMS = " attn_norm=input_layernorm ffn_norm=post_attention_layernorm"
_HEAD_NORMS = " attn_q_norm=self_attn.q_norm attn_k_norm=self_attn.k_norm"
_GEMMA_NORMS = (
    " attn_norm=input_layernorm post_attention_norm=post_attention_layernorm ffn_norm=pre_feedforward_layernorm "
    "post_ffw_norm=post_feedforward_layernorm"
)
_BLOOM_BLOCK = "attn_qkv=self_attention.query_key_value attn_output=self_attention.dense"
_BLOOM_MLP = "ffn_up=mlp.dense_h_to_4h ffn_down=mlp.dense_4h_to_h"
_FREQUENCIES = {"rope_freqs.weight": "rope_parameters"}
_LONG_AND_SHORT = {"rope_factors_long.weight": "rope_parameters", "rope_factors_short.weight": "rope_parameters"}
_BY_SHAPE = "the shapes of the tensors say it, and others are refused"

ARCHITECTURES: dict[str, Architecture] = {
    "bloom": Architecture(
        model_type="bloom",
        keys=_SIZES | {"block_count": "n_layer", "attention.head_count": "n_head"} | _NORM_EPSILON,
        tensors={
            "token_embd.weight": "transformer.word_embeddings.weight",
            **_both("token_embd_norm=transformer.word_embeddings_layernorm"),
            **_GPT_OUTER,
            **_of_blocks(_GPT_BLOCKS, "", f"{_NORMS} {_BLOOM_BLOCK} {_BLOOM_MLP}"),
        },
        harmless={"feed_forward_length": _BY_SHAPE, "attention.head_count_kv": _BY_SHAPE},
    ),
    "falcon": Architecture(
        model_type="falcon",
        keys=_SIZES
        | _ROPE
        | {"attention.head_count_kv": "num_kv_heads", "feed_forward_length": "ffn_hidden_size"}
        | _NORM_EPSILON,
        tensors={
            "token_embd.weight": "transformer.word_embeddings.weight",
            **_GPT_OUTER,
            **_of_blocks(_GPT_BLOCKS, f"{_BLOOM_BLOCK} {_BLOOM_MLP}", "attn_norm=ln_mlp attn_norm_2=ln_attn"),
        },
        harmless={"tensor_data_layout": "it says how the file was made; llama.cpp does not read it"},
    ),
    "gemma2": Architecture(
        model_type="gemma2",
        keys=_GEMMA | {"attn_logit_softcapping": "attn_logit_softcapping"},
        tensors=_OUTER | _of_blocks(_BLOCKS, _ATTENTION + _GATED_MLP + _GEMMA_NORMS),
    ),
    "gemma3": Architecture(
        model_type="gemma3_text",
        keys=_GEMMA | {"rope.freq_base_swa": "rope_parameters"},
        tensors=_OUTER | _of_blocks(_BLOCKS, _ATTENTION + _GATED_MLP + _GEMMA_NORMS + _HEAD_NORMS),
    ),
    "gpt2": Architecture(
        model_type="gpt2",
        keys=_pairs(
            "vocab_size=vocab_size context_length=n_positions embedding_length=n_embd block_count=n_layer "
            "attention.head_count=n_head feed_forward_length=n_inner"
        )
        | _NORM_EPSILON,
        tensors={
            "token_embd.weight": "transformer.wte.weight",
            "position_embd.weight": "transformer.wpe.weight",
            **_GPT_OUTER,
            **_of_blocks(
                _GPT_BLOCKS,
                "",
                "attn_norm=ln_1 attn_qkv=attn.c_attn attn_output=attn.c_proj ffn_norm=ln_2 ffn_up=mlp.c_fc "
                "ffn_down=mlp.c_proj",
            ),
        },
        harmless={"attention.head_count_kv": _BY_SHAPE},
    ),
    "llama": Architecture(
        model_type="llama",
        keys=_USUAL,
        tensors=_OUTER | _FREQUENCIES | _LONG_AND_SHORT | _of_blocks(_BLOCKS, _NORMS, _ATTENTION + _GATED_MLP),
    ),
    "phi3": Architecture(
        model_type="phi3",
        keys=_USUAL | {"attention.sliding_window": "sliding_window"},
        tensors=_OUTER
        | _LONG_AND_SHORT
        | _of_blocks(
            _BLOCKS,
            "attn_qkv=self_attn.qkv_proj attn_output=self_attn.o_proj ffn_up=mlp.gate_up_proj ffn_down=mlp.down_proj"
            + _NORMS,
        ),
    ),
    "qwen2": Architecture(
        model_type="qwen2",
        keys=_USUAL,
        tensors=_OUTER
        | _FREQUENCIES
        | _of_blocks(_BLOCKS, f"attn_output=self_attn.o_proj {_GATED_MLP} {_NORMS}", _QKV),
    ),
    "qwen3": Architecture(
        model_type="qwen3",
        keys=_USUAL,
        tensors=_OUTER | _FREQUENCIES | _of_blocks(_BLOCKS, _ATTENTION + _GATED_MLP + _NORMS + _HEAD_NORMS),
    ),
    "starcoder2": Architecture(
        model_type="starcoder2",
        keys={key: entry for key, entry in _USUAL.items() if entry != "rms_norm_eps"}
        | {"attention.layer_norm_epsilon": "norm_epsilon"},
        tensors=_OUTER
        | {"output_norm.bias": "model.norm.bias"}
        | _of_blocks(_BLOCKS, "", f"{_ATTENTION} {_NORMS} ffn_up=mlp.c_fc ffn_down=mlp.c_proj"),
    ),
}

_HARMLESS: dict[str, str] = {
    "it says where the file comes from, and nothing is computed by it": (
        "general.name general.author general.version general.organization general.finetune general.basename "
        "general.description general.quantized_by general.size_label general.license general.license.name "
        "general.license.link general.url general.doi general.uuid general.repo_url general.source.url "
        "general.source.doi general.source.uuid general.source.repo_url general.source.huggingface.repository "
        "general.tags general.languages general.datasets general.base_model.count general.base_model.# "
        "general.dataset.count general.dataset.#"
    ),
    "every tensor says itself in which numbers it is written": "general.file_type general.quantization_version",
    "it says how words are drawn, and none are drawn where a model is judged": "general.sampling.#",
    "it numbers the parts of a model, and split.count says that there is one": "split.no split.tensors.count",
    "it says whether the model was trained so, and llama.cpp computes nothing by it": "rope.scaling.finetuned",
    "it says how the weights were quantised, which is done": "imatrix.# quantize.imatrix.#",
    "it names a token that is in the list of tokens, and no passage is written with it": (
        "tokenizer.ggml.eot_token_id tokenizer.ggml.eom_token_id tokenizer.ggml.seperator_token_id "
        "tokenizer.ggml.mask_token_id tokenizer.ggml.cls_token_id tokenizer.ggml.fim_pre_token_id "
        "tokenizer.ggml.fim_suf_token_id tokenizer.ggml.fim_mid_token_id tokenizer.ggml.fim_pad_token_id "
        "tokenizer.ggml.fim_rep_token_id tokenizer.ggml.fim_sep_token_id tokenizer.ggml.prefix_token_id "
        "tokenizer.ggml.suffix_token_id tokenizer.ggml.middle_token_id"
    ),
    "a second copy of the tokenizer, which llama.cpp does not read either": "tokenizer.huggingface.json",
    "a further template of chats, and none is held here": "tokenizer.chat_template.# tokenizer.chat_templates",
}
HARMLESS = {name: reason for reason, names in _HARMLESS.items() for name in names.split()}
"""Keys that change no number, each with the reason."""

GENERAL = {
    "general.type": "what the file is",
    "general.architecture": "model_type",
    "general.alignment": "where tensors begin",
    "split.count": "how many files there are",
    "tokenizer.ggml.bos_token_id": "bos_token_id",
    "tokenizer.ggml.eos_token_id": "eos_token_id",
    "tokenizer.ggml.unknown_token_id": "unk_token_id",
    "tokenizer.ggml.padding_token_id": "pad_token_id",
    "tokenizer.chat_template": "the tokenizer",
    **{
        f"tokenizer.ggml.{name}": "the tokenizer"
        for name in (
            *("model", "pre", "tokens", "token_type", "scores", "merges"),
            *("add_bos_token", "add_eos_token", "add_space_prefix"),
        )
    },
}
"""Keys without an architecture that are mapped, with what they become."""

NEUTRAL: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(("attention.clamp_kqv", "attention.max_alibi_bias", "attention.scale"), (0.0,)),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "rope.scaling.yarn_log_multiplier"), (0.0,)),
    **dict.fromkeys(("attention.sliding_window", "expert_count", "expert_used_count", "nextn_predict_layers"), (0,)),
    **dict.fromkeys(("embedding_scale", "logit_scale", "residual_scale"), (0.0, 1.0)),
    **dict.fromkeys(("tokenizer.ggml.add_sep_token", "tokenizer.ggml.remove_extra_whitespaces"), (False,)),
    "attention.causal": (True,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (-1.0, 1.0),
}
"""Values at which a refused key changes nothing, as llama.cpp reads it."""

_REQUIRED = ("context_length", "embedding_length", "block_count", "attention.head_count")
_YES_OR_NO = [name for name in GENERAL if name.startswith("tokenizer.ggml.add_")]
_SCALINGS = ("none", "linear", "yarn", "longrope")
_NAMED = 5

PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais"), (_GPT2,)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), (r"\p{N}", _GPT2)),
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), (_BLOOM,)),
    "viking": (_BLOOM, r"\p{N}"),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    # transformers cuts these as llama.cpp does.
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "dbrx", "smaug-bpe"), ()),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "tekken", "gpt-4o", "llama4"), ()),
}
"""By the name that tokenizer.ggml.pre holds, where words are cut, one rule after the other, as llama.cpp cuts them."""

QWEN_PRE_TOKENIZERS = ("qwen2", "deepseek-r1-qwen")
"""Those of the Qwen families: their class in transformers knows one rule."""

WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken")
"""Under these a word that is a token is never made of merges, and a text begins with a token if nothing is said."""

_MANY = re.compile(
    r"^(general\.(?:base_model|dataset)\.(?=\d)|general\.sampling\.|tokenizer\.chat_template\.|(?:quantize\.)?imatrix\.).*"
)


def gguf_problem(values: Mapping[str, Any], tensors: Iterable[str]) -> str:
    """Why a file with these keys and tensors cannot be read as the model that it is; empty where it can."""
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        return f"its architecture is {str(architecture)[:40]!r}; possible: {', '.join(ARCHITECTURES)}"
    own = {name.removeprefix(f"{architecture}."): value for name, value in values.items()}
    if values.get("general.type", "model") != "model":
        return f"it holds no model: general.type is {str(values['general.type'])[:40]!r}"
    if values.get("split.count", 1) not in (0, 1):
        return f"it is one of {values['split.count']} parts; join them with llama-gguf-split --merge"
    if odd := _odd_value(own, architecture) or _odd_tokenizer(own, architecture):
        return odd
    found = [*_refused_keys(values, architecture), *_refused_tensors(tensors, own["block_count"], architecture)]
    if found:
        more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
        return f"it would be another model without {', '.join(found[:_NAMED])}{more}, which nothing here can express"
    return ""


def general_name(name: str) -> str:
    """A key or tensor as the tables have it: `#` for the number of its block, or for all names of one kind."""
    return _MANY.sub(r"\1#", re.sub(r"^blk\.\d+\.", "blk.#.", name))


def class_of_key(name: str, architecture: str) -> Class:
    """The class of a key in a file of this architecture."""
    known, key = ARCHITECTURES[architecture], general_name(name.removeprefix(f"{architecture}."))
    if key in known.keys or key in GENERAL:
        return "mapped"
    return "harmless" if key in known.harmless or key in HARMLESS else "refused"


def class_of_tensor(name: str, architecture: str) -> Class:
    """The class of a tensor in a file of this architecture."""
    return "mapped" if general_name(name) in ARCHITECTURES[architecture].tensors else "refused"


def _refused_keys(values: Mapping[str, Any], architecture: str) -> Iterator[str]:
    for name, value in values.items():
        key = name.removeprefix(f"{architecture}.")
        if class_of_key(name, architecture) == "refused" and value not in NEUTRAL.get(key, ()):
            yield f"{name[:80]!r} = {str(value)[:20]}" if not isinstance(value, list) else repr(name[:80])


def _refused_tensors(tensors: Iterable[str], n_blocks: int, architecture: str) -> Iterator[str]:
    for name in tensors:
        block = name.split(".")[1] if name.startswith("blk.") else "0"
        beyond = not block.isdecimal() or int(block) >= n_blocks
        if beyond or class_of_tensor(name, architecture) != "mapped":
            yield f"tensor {name[:80]!r}"


def _odd_value(own: Mapping[str, Any], architecture: str) -> str:
    """The first mapped key with an impossible value, in words. own: the values, without the architecture's name."""
    mapped = ARCHITECTURES[architecture].keys
    required = [*_REQUIRED, *(key for key in mapped if key.endswith("epsilon"))]
    required += ["attention.sliding_window"] if architecture.startswith("gemma") else []
    if missing := [key for key in required if key not in own]:
        return f"it lacks {architecture}.{missing[0]}"
    for key in sorted(mapped.keys() & own.keys() - {"rope.scaling.type", "attention.sliding_window_pattern"}):
        value, none = own[key], (architecture, key) == ("phi3", "attention.sliding_window") or "softcapping" in key
        counts = key in ("rope.dimension_count", "rope.scaling.original_context_length")
        counts = counts or not (key.startswith("rope.") or "epsilon" in key or "softcapping" in key)
        kinds = (int,) if counts else (int, float)
        if type(value) not in kinds or not (0 < value < inf or (value == 0 and none)):
            return f"{architecture}.{key} is {str(value)[:40]}; possible: one {'whole ' * counts}number above 0"
    if own.get("rope.scaling.type", "none") not in _SCALINGS:
        kind = str(own["rope.scaling.type"])[:40]
        return f"{architecture}.rope.scaling.type is {kind!r}; possible: {', '.join(_SCALINGS)}"
    heads = {own[key] for key in ("attention.key_length", "attention.value_length") if key in own}
    heads = heads or {own["embedding_length"] // max(1, own["attention.head_count"])}
    turned = own.get("rope.dimension_count", max(heads))
    if len(heads) > 1 or (turned != max(heads) and architecture != "phi3"):
        sizes = ", ".join(map(str, sorted({*heads, turned})))
        return f"keys, values and rotated parts of a head have {sizes} numbers; they must have as many"
    pattern = own.get("attention.sliding_window_pattern", 1)
    each = pattern if isinstance(pattern, list) else [pattern] * own["block_count"]
    if len(each) != own["block_count"] or not all(type(one) in (int, bool) and one >= 0 for one in each):
        return (
            f"{architecture}.attention.sliding_window_pattern is {str(pattern)[:40]}; possible: one number for a block"
        )
    return ""


def _odd_tokenizer(values: Mapping[str, Any], architecture: str) -> str:
    possible = QWEN_PRE_TOKENIZERS if architecture.startswith("qwen") else tuple(PRE_TOKENIZERS)
    model, cut = values.get("tokenizer.ggml.model"), values.get("tokenizer.ggml.pre", "default")
    if model not in ("gpt2", "llama") or (model == "llama" and architecture.startswith("qwen")):
        return f"its tokenizer is {str(model)[:40]!r}; possible: gpt2{', llama' * (possible != QWEN_PRE_TOKENIZERS)}"
    if model == "gpt2" and cut not in possible:
        return f"tokenizer.ggml.pre is {str(cut)[:40]!r}; possible: {', '.join(possible)}"
    if odd := [key for key in _YES_OR_NO if type(values.get(key, True)) is not bool]:
        return f"{odd[0]} is {str(values[odd[0]])[:40]}; possible: true, false"
    tokens = values.get("tokenizer.ggml.tokens")
    n_tokens = len(tokens) if isinstance(tokens, list) else 0
    if values.get("vocab_size", n_tokens) != n_tokens:
        return f"it has {n_tokens:,} tokens, and its vocab_size is {values['vocab_size']}"
    return ""
