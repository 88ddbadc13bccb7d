"""The layers of one sparse model, and the histogram of changes."""

from dataclasses import replace

import pytest

from sparsedash.reporting.charts import bar_charts
from sparsedash.reporting.charts.chart_style import PALETTES
from tests.factories import PRUNED
from tests.factories import THREE_LAYERS as MADE
from tests.reporting.charts.drawn import drawn, labels, trace


def test_every_layer_has_its_loss_on_each_text_in_percent():
    figure = drawn(bar_charts.layers_chart(MADE))
    assert trace(figure, "calibration")["x"] == [1, 2, 3]
    assert trace(figure, "calibration")["y"] == pytest.approx([10, 2, 40])
    assert trace(figure, "the passages")["y"] == pytest.approx([12, 3, 40])
    assert trace(figure, "uncompensated")["y"] == pytest.approx([20, 4, 50])


def test_curves_are_told_apart_by_mark_and_dash_and_carry_their_labels():
    figure = drawn(bar_charts.layers_chart(MADE))
    curves = [t for t in figure["data"] if t["type"] == "scatter"]
    assert len({t["line"]["dash"] for t in curves}) == len(
        {t["marker"]["symbol"] for t in curves}
    )
    text = " ".join(labels(figure)).replace("<br>", " ")
    for label in (
        "● calibration",
        "○ held-out text",
        "◆ the passages",
        "× uncompensated",
    ):
        assert label in text


def test_kept_widths_and_losses_alone_stand_below_in_panels_of_their_own():
    figure = drawn(bar_charts.layers_chart(MADE))
    assert trace(figure, "y2")["y"] == [75, 100, 50]
    assert trace(figure, "y3")["y"] == [0.02, 0.01, 0.04]
    ends = [figure["layout"][f"yaxis{n}"]["domain"] for n in ("", "2", "3")]
    assert ends[0][0] > ends[1][1] > ends[1][0] > ends[2][1] > ends[2][0] == 0


def test_what_was_not_measured_is_left_out():
    nothing = replace(
        PRUNED,
        layer_errors=(0.0, 0.0),
        held_out_errors=(),
        alone=(0.0, 0.0),
    )
    figure = drawn(bar_charts.layers_chart(nothing))
    assert figure["layout"]["yaxis"]["range"][1] > 0 and trace(figure, "y3")["y"] == [
        0,
        0,
    ]
    figure = drawn(bar_charts.layers_chart(replace(MADE, alone=(), passage_errors=())))
    assert {t["name"] for t in figure["data"]} == {
        "calibration",
        "held-out text",
        "uncompensated",
        "y2",
    }
    assert "yaxis3" not in figure["layout"]


WORDS = ("fell by 1 or more", "fell by 0 to 1", "rose by 0 or more")


def test_every_range_has_a_bar_of_its_count_with_labelled_ends_and_the_chosen_one_stands_out():
    figure = bar_charts.changes_chart(
        (-1.0, 0.0),
        (2, 0, 5),
        WORDS,
        0,
        "light",
    )
    colours = PALETTES["light"]
    (bars,) = figure.data
    axis = figure.layout.xaxis
    assert list(bars.y) == [2, 0, 5]
    assert (list(axis.tickvals), list(axis.ticktext)) == ([1, 2], ["−1", "0"])
    assert list(bars.marker.color) == [colours.text, colours.grid, colours.grid]
    assert bars.unselected.marker.opacity == 1, "no lighter for being clicked"


def test_it_is_said_in_words():
    text = bar_charts.changes_words((2, 0, 5), WORDS)
    assert text.endswith("passages: 2 fell by 1 or more; 5 rose by 0 or more.")
    assert bar_charts.changes_words((0, 0, 0), WORDS).endswith("none.")


def test_a_click_names_a_bar_or_none():
    clicks = [
        [],
        [{}],
        [{"point_index": "2"}],
        [{"point_index": 3}],
        [{"point_index": 2}],
    ]
    assert [bar_charts.clicked_bar(points, 3) for points in clicks] == [
        None,
        None,
        None,
        None,
        2,
    ]
