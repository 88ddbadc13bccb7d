"""Shares of every budget by hand, and what is more than can go."""

from dataclasses import replace

import pytest

from sparsedash.catalog.budgets import (
    channel_share,
    mlp_share,
    most_permille,
    n_experts_kept,
    n_layers_gone,
    reached,
)
from sparsedash.catalog.model_sizes import shipped_shape
from sparsedash.catalog.presets import method_named
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.model_shape import KeptParts
from sparsedash.schema.records import Reached
from sparsedash.stats.sparsity_search import channel_steps
from tests.catalog.test_model_sizes import ONE_BLOCK, SHAPE
from tests.factories import MIXTURE_SHAPE

# Two blocks of 8 channels of 12 weights and 2 biases, 64 other weights in each, a head of 40, 20
# more parameters.
BIASED = replace(
    SHAPE,
    bias_per_channel=2,
    n_parameters=2 * (96 + 64 + 16) + 40 + 20,
)
BY_WEIGHTS = MethodSettings(budget="weights", width_multiple=2)
SINGLE = MethodSettings(pattern="1x1")


def test_half_of_the_channels_is_another_share_of_every_budget():
    prunings = reached(BIASED, KeptParts(widths=(2, 6)))
    assert prunings == Reached(
        channels=8 / 16, weights=8 * 12 / 320, bytes=8 * 14 / 412, macs=8 * 12 / 360
    )


@pytest.mark.parametrize("budget", ["channels", "weights", "bytes", "macs"])
def test_a_share_of_a_budget_is_reached_by_its_share_of_the_channels(budget):
    share = channel_share(BIASED, MethodSettings(budget=budget), 200)
    assert share * mlp_share(BIASED, budget) == pytest.approx(0.2)


def test_every_step_of_a_search_is_reached_by_its_own_width():
    shape = shipped_shape("smollm2-135m")
    method = MethodSettings(budget="bytes")
    steps = channel_steps(shape.widths, 32, mlp_share(shape, "bytes"))
    kept = [
        round(1536 * (1 - channel_share(shape, method, step)) / 32) for step in steps
    ]
    assert (
        kept == list(range(47, 0, -1))
        and steps[-1] == most_permille(shape, method) == 580
    )


def test_all_but_one_multiple_of_each_mlp_can_go():
    # 12 of 16 channels of 12 weights among 320.
    assert most_permille(SHAPE, BY_WEIGHTS) == 450
    assert most_permille(SHAPE, MethodSettings()) == 900


def test_all_layers_but_one_can_go():
    layers = method_named("layers")
    assert most_permille(SHAPE, replace(layers, budget="weights")) == 500
    assert most_permille(SHAPE, layers) == 900


@pytest.mark.parametrize(
    ("n_groups", "n_least", "n_kept"),
    [(1, 2, 6), (2, 4, 6), (4, 8, 8)],
)
def test_as_many_experts_stay_as_a_token_takes_and_two_of_each_group(
    n_groups, n_least, n_kept
):
    layout = replace(
        MIXTURE_SHAPE.structure.experts[1], n=8, n_chosen=2, n_groups=n_groups
    )
    assert n_experts_kept(layout, 0.99) == n_least
    assert n_experts_kept(layout, 0.25) == n_kept


def test_the_only_layer_of_a_model_stays():
    assert n_layers_gone(ONE_BLOCK, method_named("layers"), 900) == 0
