"""Widths by hand; every way keeps the total and the multiples."""

import pytest
import torch

from sparsedash.engine.pruning.allocation import ALLOCATIONS, CEILING, Prospect


def prospect(width=64, scores=None, slope=1.0):
    """A block whose loss grows with the square of what it gives."""
    gone = torch.arange(width, -1, -1).double()
    drawn = torch.rand(width, generator=torch.Generator().manual_seed(width))
    return Prospect(
        width=width, scores=drawn if scores is None else scores, losses=slope * gone.square()
    )


def widths(name, prospects, permille, multiple=8):
    return ALLOCATIONS[name].widths(prospects, permille, multiple)


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_zero_percent_removes_nothing(name):
    assert widths(name, [prospect(64), prospect(60)], 0) == [64, 60]


@pytest.mark.parametrize("name", ALLOCATIONS)
@pytest.mark.parametrize("permille", [100, 250, 500])
def test_widths_are_multiples_and_their_sum_is_what_was_asked(name, permille):
    blocks = [prospect(64, slope=slope) for slope in (1, 2, 5, 9)]
    kept = widths(name, blocks, permille)
    assert all(k % 8 == 0 and 8 <= k <= 64 for k in kept)
    assert abs(sum(kept) - 256 * (1 - permille / 1000)) <= 8 * 4 / 2


def test_uniform_is_the_same_share_everywhere():
    assert widths("uniform", [prospect(64), prospect(128)], 250) == [48, 96]


def test_global_takes_the_lowest_scores_of_the_whole_model():
    low, high = torch.full((64,), 1.0), torch.full((64,), 2.0)
    assert widths("global", [prospect(scores=low), prospect(scores=high)], 250) == [32, 64]


def test_standardised_ignores_that_one_block_scores_higher_than_another():
    scores = torch.rand(64)
    blocks = [prospect(scores=scores), prospect(scores=1000 * scores + 5)]
    assert widths("standardised", blocks, 250) == [48, 48]


def test_a_block_that_the_model_minds_less_gives_more():
    # With losses a g^2 the cheapest is to give in proportion to 1 / a: 24 against 8; half way from 16 each is 20 and 12.
    assert widths("sensitivity", [prospect(slope=1), prospect(slope=3)], 250, multiple=4) == [
        44,
        52,
    ]


def test_no_block_gives_more_than_the_ceiling():
    kept = widths("sensitivity", [prospect(slope=0.0), prospect(slope=1.0)], 500)
    assert kept[0] >= 64 * (1 - CEILING)


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_a_block_narrower_than_a_multiple_is_left_alone(name):
    assert widths(name, [prospect(8), prospect(8)], 500, multiple=32) == [8, 8]
