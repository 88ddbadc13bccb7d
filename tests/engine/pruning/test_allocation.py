"""Widths by hand, their total and their multiples; schedules."""

from dataclasses import replace
from itertools import product
from typing import get_args

import pytest
import torch

from sparsedash.engine.pruning.channel_pruning import ALLOCATIONS, SCHEDULES, ChannelScores
from sparsedash.schema.method_settings import MethodSettings, Schedule


def prospect(width=64, scores=None, slope=1.0):
    """A block whose loss grows with the square of what it gives."""
    gone = torch.arange(width, -1, -1).double()
    drawn = torch.rand(width, generator=torch.Generator().manual_seed(width))
    return ChannelScores(
        width=width,
        cost=1,
        scores=drawn if scores is None else scores,
        losses=slope * gone.square(),
    )


def widths(name, blocks, permille, multiple=8):
    method = MethodSettings(allocation=name, width_multiple=multiple)
    return ALLOCATIONS[name](blocks, permille / 1000, method)


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_zero_percent_and_blocks_narrower_than_a_multiple_are_left_alone(name):
    assert widths(name, [prospect(64), prospect(60)], 0) == [64, 60]
    assert widths(name, [prospect(8), prospect(8)], 500, multiple=32) == [8, 8]


@pytest.mark.parametrize("name", ALLOCATIONS)
@pytest.mark.parametrize("permille", [100, 250, 500, 700])
def test_widths_are_multiples_and_their_sum_is_what_was_asked(name, permille):
    blocks = [prospect(64, slope=slope) for slope in (1, 2, 5, 9)]
    kept = widths(name, blocks, permille)
    assert all(k % 8 == 0 and 8 <= k <= 64 for k in kept)
    assert abs(sum(kept) - 256 * (1 - permille / 1000)) <= 8 * 4 / 2


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_widths_depend_on_no_other_block_where_the_settings_say_so(name):
    blocks = [prospect(64), prospect(64, scores=torch.full((64,), 9.0), slope=9.0)]
    alone = [widths(name, [block], 250)[0] for block in blocks]
    assert (widths(name, blocks, 250) == alone) == MethodSettings(allocation=name).per_block


def test_uniform_is_the_same_share_everywhere():
    assert widths("uniform", [prospect(64), prospect(128)], 250) == [48, 96]


@pytest.mark.parametrize("width", [1536, 1537, 5461])
def test_what_is_removed_is_spread_evenly_over_equal_blocks_whether_or_not_they_are_multiples_wide(
    width,
):
    kept = widths("curves", [prospect(width) for _ in range(30)], 100, multiple=32)
    assert len(kept) == 30 and max(kept) - min(kept) <= 64
    assert sum(kept) == pytest.approx(0.9 * 30 * width, abs=16)


@pytest.mark.parametrize("name", ["global", "standardised"])
@pytest.mark.parametrize(
    ("n_blocks", "multiple", "permille"), [(7, 32, 900), (26, 32, 500), (9, 256, 800)]
)
def test_blocks_that_keep_one_multiple_though_all_should_go_are_made_up_for_by_others(
    name, n_blocks, multiple, permille
):
    drawn = torch.rand(n_blocks, 1536, generator=torch.Generator().manual_seed(0))
    blocks = [
        prospect(1536, scores=own * 4.0**i + (i % 3 == 0) * own.square())
        for i, own in enumerate(drawn)
    ]
    kept = widths(name, blocks, permille, multiple)
    assert abs(sum(kept) - n_blocks * 1536 * (1 - permille / 1000)) <= multiple / 2
    assert all(k % multiple == 0 for k in kept) and min(kept) >= multiple


def test_global_takes_the_lowest_scores_of_the_whole_model():
    low, high = torch.full((64,), 1.0), torch.full((64,), 2.0)
    assert widths("global", [prospect(scores=low), prospect(scores=high)], 250) == [32, 64]


def test_standardised_ignores_that_one_block_scores_higher_than_another():
    scores = torch.rand(64)
    blocks = [prospect(scores=scores), prospect(scores=1000 * scores + 5)]
    assert widths("standardised", blocks, 250) == [48, 48]


def test_a_block_whose_channels_all_score_alike_gives_as_the_others_do():
    alike = prospect(scores=torch.zeros(64))
    kept = widths("standardised", [prospect(), alike, prospect()], 400)
    assert kept[1] < 64


@pytest.mark.parametrize("permille", [130, 400, 660])
def test_curves_give_the_least_sum_of_losses_among_all_widths_that_remove_as_much(permille):
    """Whatever the shape of the curves, also where a further multiple is cheaper than the one
    before.
    """
    random = torch.Generator().manual_seed(permille)
    blocks = [
        replace(prospect(width), losses=torch.rand(width + 1, generator=random))
        for width in (32, 40, 24, 36)
    ]
    kept = widths("curves", blocks, permille)

    def loss(found):
        return sum(float(block.losses[k]) for block, k in zip(blocks, found, strict=True))

    choices = (
        [k for k in range(block.width, 0, -1) if k % 8 == 0 or k == block.width] for block in blocks
    )
    every = list(product(*choices))
    # 36 is no multiple: its first step saves four channels, and so sums of four can be reached.
    alike = [each for each in every if sum(each) == sum(kept)]
    nearest = min(abs(132 * (1 - permille / 1000) - sum(each)) for each in every)
    assert abs(132 * (1 - permille / 1000) - sum(kept)) == nearest and len(alike) > 1
    assert loss(kept) == pytest.approx(min(map(loss, alike)))


def test_of_few_unequal_steps_the_nearest_is_taken():
    assert widths("curves", [prospect(65)], 300, multiple=32) == [32], (
        "13.5 channels off, where 64 would be 18.5"
    )


@pytest.mark.parametrize(
    ("schedule", "half_way"),
    # 1 - sqrt(0.36), 0.64 / 2, 0.64 / 8, 0.64 (1 - sqrt(1/2)).
    [("exponential", 0.4), ("linear", 0.32), ("cubic", 0.08), ("cosine", 0.187)],
)
def test_half_way_to_64_percent(schedule, half_way):
    assert SCHEDULES[schedule](0.64, 0.5) == pytest.approx(half_way, abs=0.0005)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_begins_with_the_dense_model_ends_at_the_target_and_never_falls(schedule):
    reached = [SCHEDULES[schedule](0.3, done / 6) for done in range(7)]
    assert (reached[0], reached[-1]) == (0, pytest.approx(0.3)) and set(SCHEDULES) == set(
        get_args(Schedule)
    )
    assert reached == sorted(reached)
