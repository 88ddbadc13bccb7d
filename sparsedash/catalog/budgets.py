"""Budgets: what a sparsity can be a share of, what share of each one a model's widths reach, and how much can go.

channels: inner channels of the MLPs. weights: of all Linear layers in the decoder blocks. bytes: of the model's file in
one type, every parameter once. macs: multiply-adds of a token, one for each weight of the Linear and Conv layers, the
output head included; attention's own products grow with the context and are not counted.
"""

from collections.abc import Sequence
from typing import get_args

from sparsedash.catalog.model_shape import ModelShape, removed_channels
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.method_settings import Budget, MethodSettings
from sparsedash.schema.records import Reached
from sparsedash.schema.settings import MAX_SPARSITY_PERMILLE, RunSettings, percents_text

BUDGETS: tuple[Budget, ...] = get_args(Budget)
BUDGET_TITLES: dict[Budget, str] = {
    "channels": "MLP channels",
    "weights": "blocks' weights",
    "bytes": "file size",
    "macs": "multiply-adds",
}


def mlp_share(shape: ModelShape, budget: Budget) -> float:
    """The share of a budget that all inner channels of the MLPs take, 0 to 1: where they all went, it would be gone."""
    a_channel, whole = {
        "channels": (1, sum(shape.widths)),
        "weights": (shape.per_channel, shape.n_block_weights),
        "bytes": (shape.per_channel + shape.bias_per_channel, shape.n_parameters),
        "macs": (shape.per_channel, shape.n_matmul),
    }[budget]
    return a_channel * sum(shape.widths) / whole


def channel_share(shape: ModelShape, method: MethodSettings, permille: int) -> float:
    """The share of channels whose removal takes so many per mille of the method's budget; at most all of them."""
    return min(1.0, permille / 1000 / mlp_share(shape, method.budget))


def reached(shape: ModelShape, widths: Sequence[int]) -> Reached:
    """The share of every budget that is gone at these widths; the few biases that a method may add do not count."""
    gone = removed_channels(shape, widths) / sum(shape.widths)
    return Reached(**{budget: gone * mlp_share(shape, budget) for budget in BUDGETS})


def most_permille(shape: ModelShape, method: MethodSettings) -> int:
    """The most of its budget that a method can remove: all channels but one width multiple in each MLP.

    Of channels as much as of any model: widths are rounded to what is possible.
    """
    if method.budget == "channels":
        return MAX_SPARSITY_PERMILLE
    kept = [min(width, method.width_multiple) for width in shape.widths]
    return min(MAX_SPARSITY_PERMILLE, round(1000 * reached(shape, kept)[method.budget]))


def require_possible(settings: RunSettings, shape: ModelShape) -> None:
    """Raise SettingsError where a sparsity of the run is more than its methods can remove of this model."""
    for method, permille in settings.points:
        if permille > (most := most_permille(shape, method)):
            allowed = f"at most {most / 10:g} % of the {BUDGET_TITLES[method.budget]}"
            reason = "The rest of this model is not in MLP channels that can go."
            raise SettingsError("sparsity", f"{percents_text((permille,))} %", allowed, reason)
