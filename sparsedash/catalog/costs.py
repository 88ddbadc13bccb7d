"""What a narrower model saves, by arithmetic from widths: multiply-adds, bytes, and the speed-up they leave room for.

Amdahl's law: what is not removed (attention, the output head) takes as long as before, so that it bounds the speed-up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sparsedash.schema.model_shape import ModelShape

WEIGHT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a model is given at once. n_tokens: read in each passage, or held from before in each when it writes."""

    batch: int
    n_tokens: int


def parameters(shape: ModelShape, widths: Sequence[int]) -> int:
    """Parameters of the model with these widths; what is shared counts once."""
    return shape.n_parameters - removed_channels(shape, widths) * (shape.per_channel + shape.bias_per_channel)


def weight_bytes(shape: ModelShape, widths: Sequence[int], dtype: str) -> int:
    """Bytes of all parameters of the model with these widths, as a file of weights holds them."""
    return parameters(shape, widths) * WEIGHT_BYTES[dtype]


def prefill_multiply_adds(shape: ModelShape, widths: Sequence[int], load: Load) -> int:
    """Multiply-adds of reading passages: all Linear layers, attention over what stands before each token, and the
    head, which answers at the last token of each passage only.
    """
    t = load.n_tokens
    linear = (_matmul_weights(shape, widths) - shape.n_head) * t + shape.n_head
    scores_and_sums = 2 * shape.attention * t * (t + 1) // 2 * len(shape.widths)
    return load.batch * (linear + scores_and_sums)


def decode_bytes(shape: ModelShape, widths: Sequence[int], load: Load, dtype: str) -> int:
    """Bytes that writing one token in each passage must read: the weights of every Linear layer once, the head's too,
    and the keys and values of all passages.
    """
    cached = 2 * shape.keys * len(shape.widths) * load.n_tokens * load.batch
    return (_matmul_weights(shape, widths) + cached) * WEIGHT_BYTES[dtype]


def prefill_ceiling(shape: ModelShape, widths: Sequence[int], load: Load) -> float:
    """How many times as fast reading can become where multiply-adds are all that takes time."""
    return prefill_multiply_adds(shape, shape.widths, load) / prefill_multiply_adds(shape, widths, load)


def decode_ceiling(shape: ModelShape, widths: Sequence[int], load: Load, dtype: str) -> float:
    """How many times as fast writing can become where fetching bytes is all that takes time."""
    return decode_bytes(shape, shape.widths, load, dtype) / decode_bytes(shape, widths, load, dtype)


def removed_channels(shape: ModelShape, widths: Sequence[int]) -> int:
    """Inner channels that are gone."""
    return sum(shape.widths) - sum(widths)


def _matmul_weights(shape: ModelShape, widths: Sequence[int]) -> int:
    return shape.n_matmul - removed_channels(shape, widths) * shape.per_channel
