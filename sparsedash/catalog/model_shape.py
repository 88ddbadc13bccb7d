"""Sizes of a model, counted from its config.json: weights, widths, multiply-adds and bytes; no torch, no download.

One function and one row add an architecture. A test compares every count with the real model class on the meta device.
Amdahl's law: what is not removed (attention, the output head) takes as long as before, so it bounds the speed-up.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from sparsedash.catalog.families import FAMILIES, Family


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Counts of one dense model.

    family: its model_type. hidden: width of the residual stream, d. widths: inner channels of each block, m.
    per_channel: weights that leave with one channel of any block. bias_per_channel: biases that leave with it.
    n_matmul: weights of Linear and Conv layers, the output head included even where it shares the embedding's.
    n_head: of that head. n_parameters: everything; what is shared counts once. attention: width of all heads of one
    block together. keys: width of its keys, which its values share.
    """

    family: str
    hidden: int
    widths: tuple[int, ...]
    per_channel: int
    bias_per_channel: int
    n_matmul: int
    n_head: int
    n_parameters: int
    attention: int
    keys: int

    def plain(self) -> str:
        """The counts as one JSON text."""
        return msgspec.json.encode(self).decode()


def shape_from_plain(text: str) -> ModelShape | None:
    """The counts that `plain` wrote; None for anything else."""
    try:
        return msgspec.json.decode(text, type=ModelShape)
    except (msgspec.MsgspecError, RecursionError):
        return None


CONFIGS = Path(__file__).parent / "configs"

_STORED_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_SHARE_THEIR_HEAD = {"falcon", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "smollm3", "starcoder2"}
"""Families without a row whose head is the embedding where the config does not say."""


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """Counts of one model.

    hidden: width of the residual stream. vocabulary: tokens it can predict. widths: inner channels of each block.
    per_channel: weights that leave with one channel of any block. n_matmul: weights of Linear and Conv layers, the
    output head included even where it shares the embedding's. n_parameters: everything, embeddings, norms and biases
    too; what is shared counts once. stored_bytes: of one weight on the hub. kept_of_a_token: keys and values of all
    blocks, numbers that are kept of each token while a text is written.
    """

    hidden: int
    vocabulary: int
    widths: tuple[int, ...]
    per_channel: int
    n_matmul: int
    n_parameters: int
    stored_bytes: int
    kept_of_a_token: int

    @property
    def n_mlp(self) -> int:
        """Weights of all MLPs."""
        return sum(self.widths) * self.per_channel

    def matmul_ratio(self, mlp_sparsity: float) -> float:
        """Share of the Linear and Conv weights that is gone at this MLP sparsity: what the published tables state."""
        return mlp_sparsity * self.n_mlp / self.n_matmul

    def parameter_ratio(self, mlp_sparsity: float) -> float:
        """The same removed weights as a share of all parameters."""
        return mlp_sparsity * self.n_mlp / self.n_parameters


@cache
def shipped_shape(name: str) -> Dimensions:
    """The dimensions of a config that ships with the program."""
    return dimensions(json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8")))


def dimensions(config: Mapping[str, Any]) -> Dimensions:
    """The dimensions of a model with this config.json. Raises KeyError for a family that is none of ours.

    So it does where a size is missing.
    """
    family = config["model_type"]
    counted = _ARCHITECTURES[family](config) if family in _ARCHITECTURES else _usual(config, FAMILIES[family])
    return Dimensions(
        hidden=counted.hidden,
        vocabulary=counted.head // counted.hidden,
        widths=(counted.width,) * counted.n_blocks,
        per_channel=counted.n_projections * counted.hidden,
        n_matmul=counted.n_matmul,
        n_parameters=counted.n_matmul + counted.n_rest,
        stored_bytes=_STORED_BYTES[config.get("torch_dtype") or config.get("dtype") or "float32"],
        kept_of_a_token=2 * counted.n_blocks * (counted.keys or counted.hidden),
    )


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """hidden, width: of every block. n_projections: of its MLP. n_attention: weights of its attention's projections.

    head: weights of the output head. n_rest: parameters that are in no Linear layer; a shared embedding is the head's.
    keys: width of the keys of one block, which its values share; 0 where it is that of the residual stream.
    """

    n_blocks: int
    hidden: int
    width: int
    n_projections: int
    n_attention: int
    head: int
    n_rest: int
    keys: int = 0

    @property
    def n_matmul(self) -> int:
        block = self.n_attention + self.n_projections * self.hidden * self.width
        return self.n_blocks * block + self.head


def _gptj(config: Mapping[str, Any]) -> _Counted:
    """One norm a block; attention without biases, an MLP and a head with them; embeddings and head are two matrices."""
    d, n_blocks, words = config["n_embd"], config["n_layer"], config["vocab_size"]
    m = config.get("n_inner") or 4 * d
    return _Counted(
        n_blocks=n_blocks,
        hidden=d,
        width=m,
        n_projections=2,
        n_attention=4 * d * d,
        head=words * d,
        n_rest=words * d + n_blocks * (2 * d + m + d) + 2 * d + words,
    )


def _opt(config: Mapping[str, Any]) -> _Counted:
    """Learned positions, of which two are never used; two norms a block; biases everywhere but in the shared head."""
    d, m = config["hidden_size"], config["ffn_dim"]
    n_blocks = config["num_hidden_layers"]
    return _Counted(
        n_blocks=n_blocks,
        hidden=d,
        width=m,
        n_projections=2,
        n_attention=4 * d * d,
        head=config["vocab_size"] * d,
        n_rest=(config["max_position_embeddings"] + 2) * d + n_blocks * (9 * d + m) + 2 * d,
    )


def _llama(config: Mapping[str, Any]) -> _Counted:
    """Gate, up and down; no biases; two norms of one vector each a block; keys and values may have fewer heads."""
    d, m, n_blocks = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    of_a_head = config.get("head_dim") or d // heads
    keys = of_a_head * (config.get("num_key_value_heads") or heads)
    embedding = config["vocab_size"] * d
    return _Counted(
        n_blocks=n_blocks,
        hidden=d,
        width=m,
        n_projections=3,
        n_attention=2 * d * (of_a_head * heads + keys),
        head=embedding,
        n_rest=n_blocks * 2 * d + d + (0 if config.get("tie_word_embeddings") else embedding),
        keys=keys,
    )


def _qwen2(config: Mapping[str, Any]) -> _Counted:
    """As LLaMA, with biases of queries, keys and values."""
    plain = _llama(config)
    heads = config["num_attention_heads"]
    of_keys = config.get("num_key_value_heads") or heads
    biases = plain.hidden // heads * (heads + 2 * of_keys)
    return replace(plain, n_rest=plain.n_rest + plain.n_blocks * biases)


def _bloom(config: Mapping[str, Any]) -> _Counted:
    """Four times the hidden width, whatever the config says; a norm after the embedding; a shared head."""
    d, n_blocks = config["hidden_size"], config["n_layer"]
    return _Counted(
        n_blocks=n_blocks,
        hidden=d,
        width=4 * d,
        n_projections=2,
        n_attention=4 * d * d,
        head=config["vocab_size"] * d,
        n_rest=2 * d + n_blocks * (4 * d + 4 * d + 4 * d + d) + 2 * d,
    )


def _usual(config: Mapping[str, Any], family: Family) -> _Counted:
    """As most are: an attention of four projections, an MLP as its family says; of the rest only embeddings in full."""
    d, n_blocks = _named(config, "hidden_size", "n_embd"), _named(config, "num_hidden_layers", "n_layer", "num_layers")
    heads, words = _named(config, "num_attention_heads", "n_head", "num_heads"), config["vocab_size"]
    of_keys = config.get("num_key_value_heads") or config.get("num_kv_heads") or heads
    if config.get("multi_query", config["model_type"] == "falcon") and not config.get("new_decoder_architecture"):
        of_keys = 1
    shares = config.get("tie_word_embeddings", config["model_type"] in _SHARE_THEIR_HEAD)
    of_a_head = config.get("head_dim") or d // heads
    learned = {"gpt2": "n_positions", "gpt_neo": "max_position_embeddings"}.get(config["model_type"])
    positions = config[learned] if learned else 0
    return _Counted(
        n_blocks=n_blocks,
        hidden=d,
        width=config.get(family.width) or 4 * d,
        n_projections=len(family.inner) * family.fused + 1,
        n_attention=2 * d * of_a_head * (heads + of_keys),
        head=words * d,
        n_rest=positions * d + n_blocks * 4 * d + (0 if shares else words * d),
        keys=of_a_head * of_keys,
    )


def _named(config: Mapping[str, Any], *names: str) -> int:
    """The size that goes by one of these names. Raises KeyError where none is there."""
    return int(config[next((name for name in names if config.get(name)), names[0])])


_ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], _Counted]] = {
    "bloom": _bloom,
    "gptj": _gptj,
    "llama": _llama,
    "mistral": _llama,
    "opt": _opt,
    "qwen2": _qwen2,
}


WEIGHT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a model is given at once. n_tokens: read in each passage, or held from before in each when it writes."""

    batch: int
    n_tokens: int


def parameter_count(shape: ModelShape, widths: Sequence[int]) -> int:
    """Parameters of the model with these widths; what is shared counts once."""
    return shape.n_parameters - removed_channels(shape, widths) * (shape.per_channel + shape.bias_per_channel)


def weight_bytes(shape: ModelShape, widths: Sequence[int], dtype: str) -> int:
    """Bytes of all parameters of the model with these widths, as a file of weights holds them."""
    return parameter_count(shape, widths) * WEIGHT_BYTES[dtype]


def prefill_multiply_adds(shape: ModelShape, widths: Sequence[int], load: Workload) -> int:
    """Multiply-adds of reading passages: all Linear layers, attention over what stands before each token, and the
    head, which answers at the last token of each passage only.
    """
    t = load.n_tokens
    linear = (_matmul_weights(shape, widths) - shape.n_head) * t + shape.n_head
    scores_and_sums = 2 * shape.attention * t * (t + 1) // 2 * len(shape.widths)
    return load.batch * (linear + scores_and_sums)


def decode_bytes(shape: ModelShape, widths: Sequence[int], load: Workload, dtype: str) -> int:
    """Bytes that writing one token in each passage must read: the weights of every Linear layer once, the head's too,
    and the keys and values of all passages.
    """
    cached = 2 * shape.keys * len(shape.widths) * load.n_tokens * load.batch
    return (_matmul_weights(shape, widths) + cached) * WEIGHT_BYTES[dtype]


def prefill_ceiling(shape: ModelShape, widths: Sequence[int], load: Workload) -> float:
    """How many times as fast reading can become where multiply-adds are all that takes time."""
    return prefill_multiply_adds(shape, shape.widths, load) / prefill_multiply_adds(shape, widths, load)


def decode_ceiling(shape: ModelShape, widths: Sequence[int], load: Workload, dtype: str) -> float:
    """How many times as fast writing can become where fetching bytes is all that takes time."""
    return decode_bytes(shape, shape.widths, load, dtype) / decode_bytes(shape, widths, load, dtype)


def removed_channels(shape: ModelShape, widths: Sequence[int]) -> int:
    """Inner channels that are gone."""
    return sum(shape.widths) - sum(widths)


def _matmul_weights(shape: ModelShape, widths: Sequence[int]) -> int:
    return shape.n_matmul - removed_channels(shape, widths) * shape.per_channel
