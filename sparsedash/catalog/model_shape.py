"""Sizes of a model, counted from its config.json: weights, widths, multiply-adds and bytes; no
torch, no download.

A test compares every count with the real model class on the meta device. Amdahl's law:
what is not removed (attention, the output head) takes as long as before, so it bounds the speed-up.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from sparsedash.catalog.families import FAMILIES, Bias
from sparsedash.catalog.published_results import PUBLISHED_MODELS
from sparsedash.schema.settings import BUILTIN_MODEL

CONFIGS = Path(__file__).parent / "configs"
_LISTED = {BUILTIN_MODEL: "smollm2-135m"} | {
    model.reference: model.config for model in PUBLISHED_MODELS
}

WEIGHT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Counts of one dense model.

    family: its model_type. hidden: width of the residual stream, d. vocabulary: tokens it can
    predict. widths: inner channels of each block, m. per_channel: weights that leave with one
    channel. bias_per_channel: biases that leave with it. n_matmul: weights of Linear and Conv
    layers, the output head included even where it shares the embedding's.
    n_head: of that head. n_parameters: everything; what is shared counts once. attention: width of
    all heads of one block together. keys: width of its keys, and of its values. block_rest:
    parameters of a block that are neither weights of its projections nor biases of its channels.
    stored_bytes: of one weight in the checkpoint.
    """

    family: str
    hidden: int
    vocabulary: int
    widths: tuple[int, ...]
    per_channel: int
    bias_per_channel: int
    n_matmul: int
    n_head: int
    n_parameters: int
    attention: int
    keys: int
    block_rest: int
    stored_bytes: int

    @property
    def n_mlp(self) -> int:
        """Weights of all MLPs."""
        return sum(self.widths) * self.per_channel

    @property
    def n_block_weights(self) -> int:
        """Weights of all projections in the decoder blocks."""
        return self.n_mlp + self.per_attention * len(self.widths)

    @property
    def per_attention(self) -> int:
        """Weights of the projections of one block's attention."""
        return 2 * self.hidden * (self.attention + self.keys)

    @property
    def cache_per_token(self) -> int:
        """Numbers in the key-value cache for one token, over all blocks."""
        return 2 * len(self.widths) * self.keys

    def plain(self) -> str:
        """The counts as one JSON text."""
        return msgspec.json.encode(self).decode()


@cache
def shipped_shape(name: str) -> ModelShape:
    """The shape of a config that ships with the program."""
    return model_shape(json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8")))


def listed_shape(reference: str) -> ModelShape | None:
    """The shape of a model whose config ships with the program, or None."""
    return shipped_shape(_LISTED[reference]) if reference in _LISTED else None


def model_shape(config: Mapping[str, Any]) -> ModelShape:
    """The shape of a model with this config.json.

    Raises KeyError for an unknown family or a missing size.
    """
    name = config["model_type"]
    family = FAMILIES[name]
    d = _size(config, "hidden_size", "n_embd")
    n_blocks = _size(config, "num_hidden_layers", "n_layer", "num_layers")
    heads = _size(config, "num_attention_heads", "n_head", "num_heads")
    words = int(config["vocab_size"])
    head = config.get("head_dim") or d // heads
    queries = head * heads
    keys = head * _key_heads(config, heads)
    n_projections = len(family.inner) * family.fused + 1
    # A gated MLP has no usual width.
    m = config[family.width] if n_projections == 3 else config.get(family.width) or 4 * d
    embedded = config.get("word_embed_proj_dim") or d
    n_head = words * embedded
    n_matmul = n_blocks * (2 * d * (queries + keys) + n_projections * d * m) + n_head

    def has(bias: Bias) -> bool:
        return bias if isinstance(bias, bool) else bool(config.get(bias[0], bias[1]))

    norms = family.norms
    if name == "falcon" and config.get("parallel_attn", True):
        one = config.get("num_ln_in_parallel_attn") == 1 or not config.get(
            "new_decoder_architecture"
        )
        norms = 2 if one else 4
    bias_per_channel = (n_projections - 1) * has(family.mlp_bias)
    a_block = (
        norms * d
        + (queries + 2 * keys) * has(family.qkv_bias)
        + d * (has(family.out_bias) + has(family.mlp_bias))
    )
    a_block += m * bias_per_channel + head * family.head_norm + (queries + keys) * (name == "olmo2")
    # Norms of Phi's queries and keys, with biases.
    a_block += 4 * head * bool(config.get("qk_layernorm"))
    positions, more = family.positions
    outer = 0 if config.get("do_layer_norm_before") is False else family.outer
    outside = (
        outer * d + ((config[positions] + more) * d if positions else 0) + words * family.head_bias
    )
    if embedded != d:
        n_matmul += 2 * d * embedded
    if not config.get("tie_word_embeddings", family.tied):
        outside += n_head
    return ModelShape(
        family=name,
        hidden=d,
        vocabulary=words,
        widths=(m,) * n_blocks,
        per_channel=n_projections * d,
        bias_per_channel=bias_per_channel,
        n_matmul=n_matmul,
        n_head=n_head,
        n_parameters=n_matmul + n_blocks * a_block + outside,
        attention=queries,
        keys=keys,
        block_rest=a_block - m * bias_per_channel,
        stored_bytes=(WEIGHT_BYTES | {"float64": 8})[
            config.get("torch_dtype") or config.get("dtype") or "float32"
        ],
    )


def _size(config: Mapping[str, Any], *names: str) -> int:
    """The size under one of these names. Raises KeyError where none is there."""
    return int(config[next((name for name in names if config.get(name)), names[0])])


def _key_heads(config: Mapping[str, Any], heads: int) -> int:
    if config["model_type"] == "falcon" and not config.get("new_decoder_architecture"):
        return 1 if config.get("multi_query", True) else heads
    return config.get("num_key_value_heads") or config.get("num_kv_heads") or heads


def removed_channels(shape: ModelShape, widths: Sequence[int]) -> int:
    """Inner channels that are gone."""
    return sum(shape.widths) - sum(widths)


def removed_layers(widths: Sequence[int]) -> int:
    """Layers that are gone as a whole: those that keep no channel."""
    return sum(width == 0 for width in widths)


def removed_weights(shape: ModelShape, widths: Sequence[int]) -> int:
    """Weights of Linear layers that are gone with these channels and layers."""
    return (
        removed_channels(shape, widths) * shape.per_channel
        + removed_layers(widths) * shape.per_attention
    )


def parameter_count(shape: ModelShape, widths: Sequence[int]) -> int:
    """Parameters of the model with these widths; what is shared counts once."""
    beside = (
        removed_channels(shape, widths) * shape.bias_per_channel
        + removed_layers(widths) * shape.block_rest
    )
    return shape.n_parameters - removed_weights(shape, widths) - beside


def weight_bytes(shape: ModelShape, widths: Sequence[int], dtype: str) -> int:
    """Bytes of all parameters of the model with these widths, as a file of weights holds them."""
    return parameter_count(shape, widths) * WEIGHT_BYTES[dtype]


def prefill_multiply_adds(shape: ModelShape, widths: Sequence[int], n_tokens: int) -> int:
    """Multiply-adds of a passage: linear layers, causal attention, the head once."""
    linear = (_matmul_weights(shape, widths) - shape.n_head) * n_tokens + shape.n_head
    scores_and_sums = (
        2
        * shape.attention
        * n_tokens
        * (n_tokens + 1)
        // 2
        * (len(widths) - removed_layers(widths))
    )
    return linear + scores_and_sums


def prefill_ceiling(shape: ModelShape, widths: Sequence[int], n_tokens: int) -> float:
    """Largest possible speed-up of reading, where multiply-adds are all that takes time."""
    return prefill_multiply_adds(shape, shape.widths, n_tokens) / prefill_multiply_adds(
        shape, widths, n_tokens
    )


def decode_ceiling(shape: ModelShape, widths: Sequence[int], *, batch: int, n_tokens: int) -> float:
    """Largest possible speed-up of writing, where fetching numbers is all that takes time.

    A token in each passage of a batch takes all Linear weights once, and all keys and values.
    n_tokens: those that each passage has already.
    """

    def fetched(own: Sequence[int]) -> int:
        n_kept = len(own) - removed_layers(own)
        return (
            _matmul_weights(shape, own)
            + shape.cache_per_token * n_kept // len(own) * n_tokens * batch
        )

    return fetched(shape.widths) / fetched(widths)


def _matmul_weights(shape: ModelShape, widths: Sequence[int]) -> int:
    return shape.n_matmul - removed_weights(shape, widths)
