"""Widths by hand, their total and their multiples; schedules."""

from dataclasses import replace
from itertools import product
from typing import get_args

import pytest
import torch

from sparsedash.engine.pruning.channel_pruning import (
    ALLOCATIONS,
    SCHEDULES,
    ChannelScores,
)
from sparsedash.schema.method_settings import MethodSettings, Schedule
from tests.engine.tiny import seeded


def block(width=64, scores=None, slope=1.0):
    """A block whose loss grows with the square of the number of removed channels."""
    removed = torch.arange(width, -1, -1).double()
    if scores is None:
        scores = torch.rand(width, generator=seeded(width))
    return ChannelScores(
        width=width,
        cost=1,
        scores=scores,
        losses=slope * removed.square(),
    )


def widths(name, blocks, permille, multiple=8):
    method = MethodSettings(
        allocation=name,
        width_multiple=multiple,
    )
    return ALLOCATIONS[name](blocks, permille / 1000, method)


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_zero_percent_and_blocks_narrower_than_a_multiple_change_nothing(name):
    assert widths(name, [block(64), block(60)], 0) == [64, 60]
    assert widths(
        name,
        [block(8), block(8)],
        500,
        multiple=32,
    ) == [8, 8]


@pytest.mark.parametrize("name", ALLOCATIONS)
@pytest.mark.parametrize("permille", [100, 250, 500, 700])
def test_widths_are_multiples_with_the_requested_sum(name, permille):
    kept = widths(name, [block(64, slope=slope) for slope in (1, 2, 5, 9)], permille)
    assert all(width % 8 == 0 and 8 <= width <= 64 for width in kept)
    assert abs(sum(kept) - 256 * (1 - permille / 1000)) <= 8 * 4 / 2


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_widths_depend_on_no_other_block_where_the_settings_say_so(name):
    blocks = [
        block(64),
        block(
            64,
            scores=torch.full((64,), 9.0),
            slope=9.0,
        ),
    ]
    separate = widths(name, blocks[:1], 250) + widths(name, blocks[1:], 250)
    assert (widths(name, blocks, 250) == separate) == MethodSettings(
        allocation=name
    ).is_block_local


def test_uniform_removes_the_same_share_everywhere():
    assert widths("uniform", [block(64), block(128)], 250) == [48, 96]


@pytest.mark.parametrize("width", [1536, 1537, 5461])
def test_curves_spread_over_equal_blocks_whether_or_not_their_widths_are_multiples(
    width,
):
    kept = widths(
        "curves",
        [block(width)] * 30,
        100,
        multiple=32,
    )
    assert max(kept) - min(kept) <= 64
    assert sum(kept) == pytest.approx(0.9 * 30 * width, abs=16)


@pytest.mark.parametrize("name", ["global", "standardised"])
@pytest.mark.parametrize(
    ("n_blocks", "multiple", "permille"), [(7, 32, 900), (26, 32, 500), (9, 256, 800)]
)
def test_other_blocks_make_up_for_those_that_keep_one_multiple(
    name, n_blocks, multiple, permille
):
    drawn = torch.rand(
        n_blocks,
        1536,
        generator=seeded(0),
    )
    blocks = []
    for index, scores in enumerate(drawn):
        outliers = (index % 3 == 0) * scores.square()
        blocks.append(block(1536, scores=scores * 4.0**index + outliers))
    kept = widths(name, blocks, permille, multiple)
    assert abs(sum(kept) - n_blocks * 1536 * (1 - permille / 1000)) <= multiple / 2
    assert all(width % multiple == 0 for width in kept)
    assert min(kept) >= multiple


def test_global_removes_the_lowest_scores_of_the_whole_model():
    blocks = [block(scores=torch.full((64,), score)) for score in (1.0, 2.0)]
    assert widths("global", blocks, 250) == [32, 64]


def test_standardised_ignores_that_one_block_scores_higher_than_another():
    scores = torch.rand(64)
    blocks = [block(scores=scores), block(scores=1000 * scores + 5)]
    assert widths("standardised", blocks, 250) == [48, 48]
    # Also if all channels of a block score alike.
    alike = block(scores=torch.zeros(64))
    assert widths("standardised", [block(), alike, block()], 400)[1] < 64


@pytest.mark.parametrize("permille", [130, 400, 660])
def test_curves_give_the_least_sum_of_losses_among_all_widths_that_remove_as_much(
    permille,
):
    """Also where a further multiple costs less than the one before."""
    random = seeded(permille)
    blocks = []
    options = []
    for width in (32, 40, 24, 36):
        losses = torch.rand(width + 1, generator=random)
        blocks.append(replace(block(width), losses=losses))
        options.append([k for k in range(1, width + 1) if k % 8 == 0 or k == width])
    kept = widths("curves", blocks, permille)

    def loss(choice):
        return sum(float(b.losses[k]) for b, k in zip(blocks, choice, strict=True))

    # 36 is no multiple: its first step saves four channels, and so sums of four can be reached.
    target = 132 * (1 - permille / 1000)
    choices = list(product(*options))
    assert abs(target - sum(kept)) == min(
        abs(target - sum(choice)) for choice in choices
    )
    losses = [loss(choice) for choice in choices if sum(choice) == sum(kept)]
    assert len(losses) > 1
    assert loss(kept) == pytest.approx(min(losses))


def test_of_few_unequal_steps_the_nearest_is_chosen():
    # 13.5 channels off, where 64 would be 18.5.
    assert widths("curves", [block(65)], 300, multiple=32) == [32]


@pytest.mark.parametrize(
    ("schedule", "half_way"),
    # 1 - sqrt(0.36), 0.64 / 2, 0.64 / 8, 0.64 (1 - sqrt(1/2)).
    [("exponential", 0.4), ("linear", 0.32), ("cubic", 0.08), ("cosine", 0.187)],
)
def test_a_schedule_rises_from_the_dense_model_to_the_target(schedule, half_way):
    assert SCHEDULES[schedule](0.64, 0.5) == pytest.approx(half_way, abs=0.0005)
    reached = [SCHEDULES[schedule](0.3, done / 6) for done in range(7)]
    assert (reached[0], reached[-1]) == (0, pytest.approx(0.3))
    assert reached == sorted(reached)


def test_every_schedule_of_the_settings_has_a_row():
    assert set(SCHEDULES) == set(get_args(Schedule))
