"""Budgets: what a sparsity can be a share of, what share of each one a model's widths reach, and
how much can go.

channels: inner channels of the MLPs. weights: of all Linear layers in the decoder blocks. bytes: of
the model's file in one type, every parameter once. macs: multiply-adds of a token, one for each
weight of the Linear and Conv layers, the output head included; attention's own products grow with
the context and are not counted. kv-cache: keys and values of a token.
"""

from collections.abc import Sequence
from typing import get_args

from sparsedash.catalog.model_sizes import (
    parameter_count,
    removed_channels,
    removed_layers,
    removed_weights,
)
from sparsedash.schema.method_settings import Budget, MethodSettings
from sparsedash.schema.model_shape import ModelShape
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
    return a_channel * sum(shape.widths) / whole


def channel_share(shape: ModelShape, method: MethodSettings, permille: int) -> float:
    """The share of channels to remove for so many per mille of the budget; at most 1."""
    if method.removes_layers:
        return n_layers_gone(shape, method, permille) / len(shape.widths)
    whole = mlp_share(shape, method.budget)
    return min(1.0, permille / 1000 / whole) if whole else float(permille > 0)


def n_layers_gone(shape: ModelShape, method: MethodSettings, permille: int) -> int:
    """Layers to remove for so many per mille of the budget: at least one, never all."""
    if not permille:
        return 0
    nearest = round(permille / 1000 / layer_share(shape, method.budget))
    return min(len(shape.widths) - 1, max(1, nearest))


def layer_share(shape: ModelShape, budget: Budget) -> float:
    """The share of a budget that one whole layer takes."""
    return reached(shape, (0, *shape.widths[1:]))[budget]


def reached(shape: ModelShape, widths: Sequence[int]) -> Reached:
    """The share of every budget removed at these widths, without added biases."""
    weights = removed_weights(shape, widths)
    return Reached(
        channels=removed_channels(shape, widths) / sum(shape.widths),
        weights=weights / shape.n_block_weights,
        bytes=1 - parameter_count(shape, widths) / shape.n_parameters,
        macs=weights / shape.n_matmul,
        kv_cache=removed_layers(widths) / len(widths),
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
    if method.budget == "channels" and not (method.removes_layers and len(shape.widths) == 1):
        return MAX_SPARSITY_PERMILLE
    kept = [min(width, method.width_multiple) for width in shape.widths]
    if method.removes_layers:
        kept = [*shape.widths[:1], *[0] * (len(shape.widths) - 1)]
    return min(MAX_SPARSITY_PERMILLE, round(1000 * reached(shape, kept)[method.budget]))
