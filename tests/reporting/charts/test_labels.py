"""Labels: short lines, and never one on another."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedash.catalog.presets import METHODS
from sparsedash.reporting.charts.chart_style import place_labels, wrap_label


def test_a_short_label_stays_on_one_line():
    assert wrap_label("least-squares") == ["least-squares"]


def test_a_long_label_is_parted_where_both_lines_are_short():
    assert wrap_label("retrain-free (published)") == ["retrain-free", "(published)"]
    assert wrap_label("obs-by-sensitivity") == ["obs-by-", "sensitivity"]


def test_a_sign_stands_before_the_first_line_and_does_not_part_a_label_that_fits():
    assert wrap_label("least-squares", "● ") == ["● least-squares"]
    assert wrap_label("retrain-free (published)", "■ ") == ["■ retrain-free", "(published)"]


def test_a_word_that_cannot_be_parted_stays_whole():
    assert wrap_label("incomprehensibilities") == ["incomprehensibilities"]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_name_of_the_catalog_takes_more_than_a_third_of_a_phone(method):
    assert max(map(len, wrap_label(method.name))) <= 14


def test_labels_with_room_stay_where_they_are():
    assert place_labels([10, 100, 50], [10, 10, 10], 200) == [10, 100, 50]


def test_two_labels_at_one_place_part_by_the_same_way():
    assert place_labels([50, 50], [20, 20], 200) == [40, 60]


def test_a_pushed_label_pushes_its_neighbour():
    assert place_labels([50, 50, 70], [20, 20, 20], 200) == pytest.approx([110 / 3, 170 / 3, 230 / 3])


def test_labels_stay_inside():
    assert place_labels([0, 0, 200, 200], [20, 20, 20, 20], 200) == [10, 30, 170, 190]


def test_no_label_needs_no_place():
    assert place_labels([], [], 100) == []


@given(st.lists(st.tuples(st.floats(-50, 450), st.floats(5, 40)), min_size=1, max_size=10))
def test_no_label_covers_another_and_all_have_their_order(pairs):
    wanted, heights = [w for w, _ in pairs], [h for _, h in pairs]
    middles = place_labels(wanted, heights, 400)
    ordered = sorted(range(len(pairs)), key=lambda i: middles[i])
    for i, j in itertools.pairwise(ordered):
        assert middles[j] - middles[i] >= (heights[i] + heights[j]) / 2 - 1e-6
        assert wanted[i] <= wanted[j] + 1e-6
    assert middles[ordered[0]] - heights[ordered[0]] / 2 >= -1e-6
    assert middles[ordered[-1]] + heights[ordered[-1]] / 2 <= 400 + 1e-6
