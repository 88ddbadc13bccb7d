"""Sizes of a model: weights, widths, multiply-adds and bytes; no torch, no download.

`engine.models.model_inspection` counts them from a config, on the meta device. Amdahl's law: what
is not removed (attention, the output head) takes as long as before, so it bounds the speed-up.
"""

from functools import cache
from pathlib import Path

import msgspec

from sparsedash.catalog.published_results import PUBLISHED_MODELS
from sparsedash.schema.model_shape import KeptParts, ModelShape
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


def removed_channels(shape: ModelShape, kept: KeptParts) -> int:
    """Inner channels that are gone."""
    return sum(shape.widths) - sum(kept.widths)


def removed_experts(shape: ModelShape, kept: KeptParts) -> int:
    """Experts that are gone, those of removed layers not counted."""
    if not kept.experts:
        return 0
    pairs = zip(shape.experts, kept.experts, strict=True)
    differences = [before - after for before, after in pairs]
    return sum(
        n for index, n in enumerate(differences) if index not in kept.removed_layers
    )


def removed_expert_channels(
    shape: ModelShape, kept: KeptParts, *, chosen: bool = False
) -> int:
    """Inner channels of experts that are gone, those of removed layers not counted.

    chosen: only of as many experts as are chosen for a token.
    """
    if not kept.expert_widths:
        return 0
    n_gone = 0
    for index, layout in shape.structure.mixtures.items():
        if index not in kept.removed_layers:
            n_experts = layout.n_chosen if chosen else layout.n
            n_gone += n_experts * (layout.width - kept.expert_widths[index])
    return n_gone


def removed_shared_channels(shape: ModelShape, kept: KeptParts) -> int:
    """Inner channels of shared experts that are gone with those of the others."""
    if not kept.expert_widths:
        return 0
    n_gone = 0
    for index, layout in shape.structure.mixtures.items():
        if layout.shared and index not in kept.removed_layers:
            n_gone += layout.shared.width - layout.shared_width(
                kept.expert_widths[index]
            )
    return n_gone


def removed_weights(shape: ModelShape, kept: KeptParts) -> int:
    """Weights of projections and experts that are gone."""
    of_layers = sum(shape.other_weights[index] for index in kept.removed_layers)
    of_experts = removed_experts(shape, kept) * shape.per_expert
    of_experts += removed_expert_channels(shape, kept) * shape.per_expert_channel
    of_experts += removed_shared_channels(shape, kept) * shape.per_shared_channel
    return removed_channels(shape, kept) * shape.per_channel + of_layers + of_experts


def parameter_count(shape: ModelShape, kept: KeptParts) -> int:
    """Parameters of the model that is left; what is shared counts once."""
    beside = removed_channels(shape, kept) * shape.bias_per_channel
    beside += sum(shape.other_parameters[index] for index in kept.removed_layers)
    return shape.n_parameters - removed_weights(shape, kept) - beside


def expert_parameters(
    shape: ModelShape, kept: KeptParts, index: int, *, chosen: bool = False
) -> int:
    """Parameters of what is left of a block's experts. chosen: of those chosen for a token."""
    layout = shape.structure.mixtures.get(index)
    if layout is None or index in kept.removed_layers:
        return 0
    n_experts = kept.experts[index] if kept.experts else layout.n
    if chosen:
        n_experts = layout.n_chosen
    width = kept.expert_widths[index] if kept.expert_widths else layout.width
    return n_experts * (
        shape.per_expert - (layout.width - width) * shape.per_expert_channel
    )


def active_count(shape: ModelShape, kept: KeptParts) -> int:
    """Parameters that are read for a token: all, of the experts those that are chosen for it."""
    n_active = parameter_count(shape, kept)
    for index in shape.structure.mixtures:
        n_active -= expert_parameters(shape, kept, index)
        n_active += expert_parameters(shape, kept, index, chosen=True)
    return n_active


def weight_bytes(shape: ModelShape, kept: KeptParts, dtype: str) -> int:
    """Bytes of all parameters of the model that is left, as a file of weights holds them."""
    return parameter_count(shape, kept) * WEIGHT_BYTES[dtype]


def prefill_multiply_adds(shape: ModelShape, kept: KeptParts, n_tokens: int) -> int:
    """Multiply-adds of a passage: linear layers, causal attention, the head once."""
    n_layers = len(kept.widths) - len(kept.removed_layers)
    linear = (multiplied_weights(shape, kept) - shape.n_head) * n_tokens + shape.n_head
    scores_and_sums = 2 * shape.attention * n_tokens * (n_tokens + 1) // 2 * n_layers
    return linear + scores_and_sums


def prefill_ceiling(shape: ModelShape, kept: KeptParts, n_tokens: int) -> float:
    """Largest possible speed-up of reading, where multiply-adds are all that takes time."""
    dense = prefill_multiply_adds(shape, shape.whole, n_tokens)
    return dense / prefill_multiply_adds(shape, kept, n_tokens)


def decode_ceiling(
    shape: ModelShape, kept: KeptParts, *, batch: int, n_tokens: int
) -> float:
    """Largest possible speed-up of writing, where fetching numbers is all that takes time.

    A token in each passage of a batch takes all weights it is multiplied with once, and all keys
    and values; where there are enough experts, each its own. n_tokens: those that each passage has
    already.
    """

    def fetched(left: KeptParts) -> int:
        n_layers = len(left.widths)
        n_kept = n_layers - len(left.removed_layers)
        cache = shape.cache_per_token * n_kept // n_layers * n_tokens * batch
        others = 0
        for index, layout in shape.structure.mixtures.items():
            of_one = (
                expert_parameters(shape, left, index, chosen=True) // layout.n_chosen
            )
            n_left = left.experts[index] if left.experts else layout.n
            others += of_one * (min(batch * layout.n_chosen, n_left) - layout.n_chosen)
        return multiplied_weights(shape, left) + cache + others

    return fetched(shape.whole) / fetched(kept)


def multiplied_weights(shape: ModelShape, kept: KeptParts) -> int:
    """Weights that a token is multiplied with. Fewer experts to choose from save none of them."""
    n_removed = removed_channels(shape, kept) * shape.per_channel
    n_removed += (
        removed_expert_channels(shape, kept, chosen=True) * shape.per_expert_channel
    )
    n_removed += removed_shared_channels(shape, kept) * shape.per_shared_channel
    for index in kept.removed_layers:
        layout = shape.structure.mixtures.get(index)
        n_idle = layout.n - layout.n_chosen if layout else 0
        n_removed += shape.other_weights[index] - n_idle * shape.per_expert
    return shape.n_matmul - n_removed
