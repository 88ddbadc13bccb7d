"""Labels inside a plot stand on nothing, at every width."""

import itertools
import random

import pytest

from sparsedash.reporting.charts.label_places import WIDTHS, Room
from sparsedash.reporting.charts.tradeoff_chart import gain_chart, tradeoff_chart
from sparsedash.reporting.charts.tradeoff_data import Gained
from tests.reporting.charts.test_tradeoff_chart import FAR_RACE, GOOD, far_point, far_race, gain

HEIGHT, SIZE = 280, 13


def box(note, at, width):
    """Left, bottom, right and top of a note's text in a plot from 0 to 10 on both axes."""
    x = at[0] / 10 * width + note.get("xshift", note.get("ax", 0))
    y = at[1] / 10 * HEIGHT + note.get("yshift", -note.get("ay", 0))
    half = 0.28 * SIZE * len(note["text"])
    return x - half, y - SIZE / 2, x + half, y + SIZE / 2


@pytest.mark.parametrize("seed", range(20))
def test_no_label_lies_on_a_line_a_mark_or_another_label(seed):
    rng = random.Random(seed)
    at = sorted((rng.uniform(0, 10), rng.uniform(0, 10)) for _ in range(8))
    line = {"mode": "lines+markers", "x": [x for x, _ in at], "y": [y for _, y in at]}
    room = Room([line], (0, 10), (0, 10), HEIGHT)
    placed = [
        (note, mark) for mark in at for note in room.note("✓ 10 %", mark, "ink", "grey", SIZE)
    ]
    assert placed
    for width in WIDTHS:
        boxes = [box(note, mark, width) for note, mark in placed]
        for one, other in itertools.combinations(boxes, 2):
            assert (
                one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            )
        for (x0, y0), (x1, y1) in itertools.pairwise(at):
            for share in (i / 200 for i in range(201)):
                x, y = (x0 + share * (x1 - x0)) / 10 * width, (y0 + share * (y1 - y0)) / 10 * HEIGHT
                assert not any(
                    left < x < right and low < y < high for left, low, right, high in boxes
                )
        assert all(
            left >= 0 and right <= width and low >= 0 and high <= HEIGHT
            for left, low, right, high in boxes
        )


def test_a_label_far_from_its_mark_has_a_leader_line_and_one_without_a_place_is_left_out():
    def notes(*heights):
        lines = [{"mode": "lines", "x": [0, 10], "y": [y, y]} for y in heights]
        return Room(lines, (0, 10), (0, 10), HEIGHT).note("10 %", (5, 5), "ink", "grey", SIZE)

    (near,), (far,) = notes(5), notes(4.3, 5, 5.7)
    assert not near["showarrow"]
    assert far["showarrow"] and far["arrowcolor"] == "grey" and far["ax"] and far["ay"], (
        "never like an error bar"
    )
    assert notes(*(i / 4 for i in range(41))) == []


def test_charts_of_one_point_of_equal_points_and_of_nothing_but_hopeless_ones_are_drawn():
    one, hopeless = [GOOD[0]], [far_point(f"h{p}", p, 13.8) for p in (100, 200)]
    for race in (
        far_race(sparse=one),
        far_race(one=one, other=one),
        far_race(sparse=hopeless),
        FAR_RACE,
    ):
        gained = Gained(name="Speed", gains={point.key: gain(1.2) for point in race.sparse})
        for figure in (tradeoff_chart(race), gain_chart(race, gained, "word perplexity")):
            assert len(figure.layout.title.text) <= 44, "no longer than a phone is wide"
