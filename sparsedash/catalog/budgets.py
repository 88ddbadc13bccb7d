"""Budgets: what a sparsity can be a share of, what share of each one a model's widths reach, and
how much can go.

channels: inner channels of the MLPs, or of what the method removes: layers, experts. weights: of
all projections and experts in the decoder blocks. bytes: of the model's file in one type, every
parameter once. macs: multiply-adds of a token, one for each weight it is multiplied with, the
output head included; attention's own products grow with the context and are not counted. kv-cache:
keys and values of a token.
"""

from math import ceil
from typing import get_args

from sparsedash.catalog.model_sizes import (
    multiplied_weights,
    parameter_count,
    removed_channels,
    removed_expert_channels,
    removed_experts,
    removed_weights,
)
from sparsedash.schema.method_settings import Budget, MethodSettings
from sparsedash.schema.model_shape import ExpertsLayout, KeptParts, ModelShape
from sparsedash.schema.records import Reached
from sparsedash.schema.settings import MAX_SPARSITY_PERMILLE

BUDGETS: tuple[Budget, ...] = get_args(Budget)
BUDGET_TITLES: dict[Budget, str] = {
    "channels": "MLP channels",
    "weights": "blocks' weights",
    "bytes": "file size",
    "macs": "multiply-adds",
    "kv-cache": "KV cache",
}


def mlp_share(shape: ModelShape, budget: Budget) -> float:
    """The share of a budget that all inner channels of the MLPs take, 0 to 1."""
    a_channel, whole = {
        "channels": (1, sum(shape.widths)),
        "weights": (shape.per_channel, shape.n_block_weights),
        "bytes": (shape.per_channel + shape.bias_per_channel, shape.n_parameters),
        "macs": (shape.per_channel, shape.n_matmul),
        "kv-cache": (0, 1),
    }[budget]
    return a_channel * sum(shape.widths) / (whole or 1)


def channel_share(shape: ModelShape, method: MethodSettings, permille: int) -> float:
    """The share of channels to remove for so many per mille of the budget; at most 1."""
    if method.removes_layers:
        return n_layers_gone(shape, method, permille) / len(shape.widths)
    whole = mlp_share(shape, method.budget)
    if method.prunes_experts:
        whole = reached(shape, _without_experts(shape, method))[method.budget]
    return min(1.0, permille / 1000 / whole) if whole else float(permille > 0)


def n_layers_gone(shape: ModelShape, method: MethodSettings, permille: int) -> int:
    """Layers to remove for so many per mille of the budget: at least one, never all."""
    if not permille:
        return 0
    nearest = round(permille / 1000 / layer_share(shape, method.budget))
    return min(len(shape.widths) - 1, max(1, nearest))


def _without_experts(shape: ModelShape, method: MethodSettings) -> KeptParts:
    """The parts kept without any experts, or without any of their channels."""
    nothing = (0,) * len(shape.widths)
    if method.removes_experts:
        return KeptParts(widths=shape.widths, experts=nothing)
    return KeptParts(widths=shape.widths, expert_widths=nothing)


def n_experts_kept(layout: ExpertsLayout, share: float) -> int:
    """Experts that stay of a block where this share goes.

    As many of each group, rounded so that no more go, and never fewer than the router chooses.
    """
    in_group = layout.n // layout.n_groups
    n_gone = int(round(in_group * share, 6))
    least = -(-layout.n_chosen // layout.n_groups)
    if layout.n_groups > 1:
        # A group is judged by its two best experts.
        least = max(least, 2)
    return layout.n_groups * max(in_group - n_gone, min(least, in_group))


def fewer_experts(
    shape: ModelShape, method: MethodSettings, permille: int
) -> KeptParts:
    """Parts kept without so many per mille of the budget in experts, or in channels of them."""
    share = channel_share(shape, method, permille)
    if not method.removes_experts:
        widths = []
        for layout in shape.structure.experts:
            width = layout.width if layout else 0
            widths.append(method.nearest_width(width, share))
        return KeptParts(widths=shape.widths, expert_widths=tuple(widths))
    experts = tuple(
        n_experts_kept(layout, share) if layout else 0
        for layout in shape.structure.experts
    )
    return KeptParts(widths=shape.widths, experts=experts)


def expert_steps(shape: ModelShape, method: MethodSettings) -> tuple[int, ...]:
    """Per mille, ascending, of which each removes more of the experts than the one before."""
    steps = []
    removed = 0.0
    for permille in range(1, most_permille(shape, method) + 1):
        share = reached(shape, fewer_experts(shape, method, permille)).weights
        if share > removed:
            steps.append(permille)
            removed = share
    return tuple(steps)


def layer_share(shape: ModelShape, budget: Budget) -> float:
    """The share of a budget that one whole layer takes."""
    without_first = KeptParts(widths=(0, *shape.widths[1:]), removed_layers=(0,))
    return reached(shape, without_first)[budget]


def reached(shape: ModelShape, kept: KeptParts) -> Reached:
    """The share of every budget that is removed, without added biases."""
    weights = removed_weights(shape, kept)
    if kept.removed_layers:
        channels = len(kept.removed_layers) / len(kept.widths)
    elif kept.experts:
        channels = removed_experts(shape, kept) / max(1, sum(shape.experts))
    elif kept.expert_widths:
        n_channels = sum(
            layout.n * layout.width for layout in shape.structure.mixtures.values()
        )
        channels = removed_expert_channels(shape, kept) / max(1, n_channels)
    else:
        channels = removed_channels(shape, kept) / max(1, sum(shape.widths))
    return Reached(
        channels=channels,
        weights=weights / shape.n_block_weights,
        bytes=1 - parameter_count(shape, kept) / shape.n_parameters,
        macs=(shape.n_matmul - multiplied_weights(shape, kept)) / shape.n_matmul,
        kv_cache=len(kept.removed_layers) / len(kept.widths),
    )


def removed_percent_field(budget: Budget) -> str:
    """The name in documents and files of how much of a budget is gone."""
    return f"{budget.replace('-', '_')}_removed_percent"


def most_permille(shape: ModelShape, method: MethodSettings) -> int:
    """The most of its budget that a method can remove: all channels but one width multiple in each
    MLP, or all layers but one.

    Of channels as much as a run may ask for, since widths are rounded to what is possible; 0 where
    the only layer would go.
    """
    if method.prunes_experts:
        kept = fewer_experts(shape, method, MAX_SPARSITY_PERMILLE)
        return min(
            MAX_SPARSITY_PERMILLE, ceil(1000 * reached(shape, kept)[method.budget])
        )
    if method.budget == "channels" and not (
        method.removes_layers and len(shape.widths) == 1
    ):
        return MAX_SPARSITY_PERMILLE
    n_blocks = len(shape.widths)
    least = KeptParts(
        widths=tuple(min(width, method.width_multiple) for width in shape.widths)
    )
    if method.removes_layers:
        widths = (shape.widths[0], *[0] * (n_blocks - 1))
        least = KeptParts(widths=widths, removed_layers=tuple(range(1, n_blocks)))
    return min(
        MAX_SPARSITY_PERMILLE, round(1000 * reached(shape, least)[method.budget])
    )
