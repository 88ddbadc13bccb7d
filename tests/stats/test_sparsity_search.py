"""The steps of a search and its bisection, on made-up losses; the Pareto front."""

from itertools import product
from math import ceil, log2
from random import Random

import pytest

from sparsedash.stats import sparsity_search


def searched(inside):
    """The places tried and the answer, where `inside` says of every place whether its loss is
    within.
    """
    tried = []
    while (place := sparsity_search.next_trial(len(inside), tried)) is not None:
        tried.append((place, inside[place]))
    return [place for place, _ in tried], sparsity_search.search_bounds(
        len(inside), tried
    )


def test_steps_are_one_width_multiple_apart():
    steps = sparsity_search.channel_steps([1536] * 30, 32)
    assert steps[:3] == (21, 42, 62)
    assert len(steps) == 43 and steps[-1] == 896
    # The engine rounds to the nearest multiple: every step must be reached by its own.
    kept = [round(1536 * (1000 - step) / 1000 / 32) for step in steps]
    assert kept == list(range(47, 4, -1))


def test_steps_of_another_budget_are_shares_of_it():
    assert sparsity_search.channel_steps([128], 32, 0.4) == (100, 200, 300)


def test_a_width_that_is_no_multiple_begins_with_what_is_over():
    assert sparsity_search.channel_steps([1000], 32)[:3] == (8, 40, 72)


def test_the_widest_mlp_decides_the_steps():
    assert (
        sparsity_search.channel_steps([96, 128], 32)
        == sparsity_search.channel_steps([128], 32)
        == (250, 500, 750)
    )


@pytest.mark.parametrize(("width", "multiple"), [(32, 32), (20, 32), (33, 1000)])
def test_where_no_channel_can_go_there_is_no_step(width, multiple):
    assert sparsity_search.channel_steps([width], multiple) == ()


def test_single_weights_go_percent_by_percent():
    assert (
        sparsity_search.WEIGHT_STEPS[:2] == (10, 20)
        and sparsity_search.WEIGHT_STEPS[-1] == 900
    )


@pytest.mark.parametrize("n", [1, 2, 3, 11, 43, 90])
def test_every_threshold_is_found_within_the_trials_that_were_planned(n):
    for threshold in range(-1, n):
        tried, (low, high) = searched([place <= threshold for place in range(n)])
        assert (low, high) == (threshold, threshold + 1)
        assert len(tried) <= sparsity_search.most_trials(n) == ceil(log2(n + 1))
        assert len(set(tried)) == len(tried)


def test_places_over_the_tolerance_are_tried_on_one_path_whatever_is_undecided_below_it():
    # What the search's error control rests on: see the module.
    draw = Random(1)
    threshold = 17
    all_within = [place <= threshold for place in range(43)]
    path = [place for place in searched(all_within)[0] if place > threshold]
    for _ in range(200):
        inside = [place <= threshold and draw.random() < 0.7 for place in range(43)]
        over = [place for place in searched(inside)[0] if place > threshold]
        assert over == path[: len(over)]


def test_equal_points_stay_both_and_nothing_gives_nothing():
    assert sorted(sparsity_search.pareto_front([(1.0, 0.0), (1.0, 0.0)])) == [0, 1]
    assert sparsity_search.pareto_front([]) == []


def test_it_is_what_the_definition_says_on_a_grid_of_points():
    points = [
        (float(x), float((x * 7 + y * 5) % 6)) for x, y in product(range(6), range(3))
    ]

    def is_beaten(p):
        return any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)

    assert sorted(sparsity_search.pareto_front(points)) == [
        i for i, p in enumerate(points) if not is_beaten(p)
    ]
