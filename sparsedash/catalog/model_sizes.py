"""Sizes of a model: weights, widths, multiply-adds and bytes; no torch, no download.

`engine.models.model_inspection` counts them from a config, on the meta device. Amdahl's law: what
is not removed (attention, the output head) takes as long as before, so it bounds the speed-up.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import msgspec

from sparsedash.catalog.published_results import PUBLISHED_MODELS
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.settings import BUILTIN_MODEL

CONFIGS = Path(__file__).parent / "configs"
SHAPES = Path(__file__).parent / "shapes"
"""Counted from the configs; `make docs` writes them."""
_LISTED = {BUILTIN_MODEL: "smollm2-135m"} | {
    model.reference: model.config for model in PUBLISHED_MODELS
}

WEIGHT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def read_shape(plain: str | bytes) -> ModelShape:
    """The shape of this JSON text. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(plain, type=ModelShape)


@cache
def shipped_shape(name: str) -> ModelShape:
    """A shape that ships with the program; see SHAPES."""
    return read_shape((SHAPES / f"{name}.json").read_bytes())


def listed_shape(reference: str) -> ModelShape | None:
    """The shape of a model whose sizes ship with the program, or None."""
    return shipped_shape(_LISTED[reference]) if reference in _LISTED else None


def removed_channels(shape: ModelShape, widths: Sequence[int]) -> int:
    """Inner channels that are gone."""
    return sum(shape.widths) - sum(widths)


def removed_layers(widths: Sequence[int]) -> int:
    """Layers that are gone as a whole: those that keep no channel."""
    return sum(width == 0 for width in widths)


def removed_weights(shape: ModelShape, widths: Sequence[int]) -> int:
    """Weights of Linear layers that are gone with these channels and layers."""
    of_layers = _of_removed_layers(shape.other_weights, widths)
    return removed_channels(shape, widths) * shape.per_channel + of_layers


def _of_removed_layers(counts: Sequence[int], widths: Sequence[int]) -> int:
    """Sum of the counts of those layers that keep no channel."""
    return sum(count for count, width in zip(counts, widths, strict=True) if not width)


def parameter_count(shape: ModelShape, widths: Sequence[int]) -> int:
    """Parameters of the model with these widths; what is shared counts once."""
    beside = removed_channels(shape, widths) * shape.bias_per_channel
    beside += _of_removed_layers(shape.other_parameters, widths)
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
