"""The histogram of changes."""

import pytest

from sparsedash.reporting.charts.bar_charts import changes_chart, changes_words, clicked_bar
from sparsedash.reporting.charts.chart_style import PALETTES

WORDS = ("fell by 1 or more", "fell by 0 to 1", "rose by 0 or more")


def drawn(chosen=None):
    return changes_chart((-1.0, 0.0), (2, 0, 5), WORDS, chosen, "light")


def test_every_range_has_a_bar_of_its_count_and_the_ends_are_labelled():
    figure = drawn()
    assert list(figure.data[0].y) == [2, 0, 5]
    assert list(figure.layout.xaxis.tickvals) == [1, 2]
    assert list(figure.layout.xaxis.ticktext) == ["−1", "0"]


def test_the_chosen_bar_stands_out_and_is_no_lighter_for_being_clicked():
    bars = drawn(chosen=0).data[0]
    colours = PALETTES["light"]
    assert list(bars.marker.color) == [colours.text, colours.grid, colours.grid]
    assert bars.unselected.marker.opacity == 1


def test_it_is_said_in_words():
    said = changes_words((2, 0, 5), WORDS)
    assert said.endswith("passages: 2 fell by 1 or more; 5 rose by 0 or more.")
    assert changes_words((0, 0, 0), WORDS).endswith("none.")


@pytest.mark.parametrize(
    ("points", "found"),
    [([], None), ([{"point_index": 2}], 2), ([{"point_index": 3}], None), ([{"point_index": "2"}], None), ([{}], None)],
)
def test_a_click_names_a_bar_or_none(points, found):
    assert clicked_bar(points, 3) == found
