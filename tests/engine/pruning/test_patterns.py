"""What is set to zero: so many of so many neighbours, a share of a row, a share of all."""

from itertools import pairwise
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsedash.engine.pruning.weight_pruning import PATTERNS
from sparsedash.schema.method_settings import FIXED_PERMILLE, Pattern


def scores(rows, columns, seed=0):
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_every_pattern_that_can_be_asked_for_has_a_row():
    assert set(PATTERNS) == set(get_args(Pattern))


def test_patterns_that_decide_the_sparsity_are_those_with_groups():
    decided = {name: 1000 * row.n_zero // row.group for name, row in PATTERNS.items() if row.group}
    assert decided == FIXED_PERMILLE


@given(st.sampled_from(["2:4", "4:8"]), st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**31))
def test_every_full_group_has_exactly_its_zeros_and_the_rest_of_a_row_stays(name, rows, columns, seed):
    pattern = PATTERNS[name]
    gone = pattern.zeros(scores(rows, columns, seed), 500, by_row=True)
    n_full = columns // pattern.group
    groups = gone[:, : n_full * pattern.group].reshape(rows, n_full, pattern.group)
    assert (groups.sum(dim=2) == pattern.n_zero).all()
    assert not gone[:, n_full * pattern.group :].any()


def test_of_four_neighbours_the_two_lowest_go():
    found = PATTERNS["2:4"].zeros(torch.tensor([[4.0, 1, 3, 2, 5, 8, 7, 6]]), 500, by_row=False)
    assert found.tolist() == [[False, True, False, True, True, False, False, True]]


def test_a_share_goes_from_every_row_or_from_all():
    ranked = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    by_row = PATTERNS["1x1"].zeros(ranked, 500, by_row=True)
    overall = PATTERNS["1x1"].zeros(ranked, 500, by_row=False)
    assert by_row.tolist() == [[True, True, False, False]] * 2
    assert overall.tolist() == [[True] * 4, [False] * 4]


@pytest.mark.parametrize("by_row", [True, False])
def test_masks_of_single_weights_are_nested_and_nothing_goes_at_zero(by_row):
    drawn = scores(6, 50)
    masks = [PATTERNS["1x1"].zeros(drawn, permille, by_row) for permille in (0, 100, 300, 900)]
    assert not masks[0].any()
    for less, more in pairwise(masks):
        assert (more | less).equal(more)
        assert more.sum() > less.sum()
