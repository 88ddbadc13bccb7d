"""The accuracy chart, looked at as the structure that plotly draws."""

import json

import plotly.io
import pytest

from sparsedash.charts import PALETTES, Palette, accuracy_chart, accuracy_words, clicked, repainting
from sparsedash.significance import wilson
from tests.ui import specimens

DENSE = specimens.record([True] * 60 + [False] * 60)
TEN = specimens.record([True] * 54 + [False] * 66, 100)
THIRTY = specimens.record([True] * 30 + [False] * 90, 300)
LINES = {"sparse": [THIRTY, TEN]}


def chart(*arguments, **keywords):
    return json.loads(plotly.io.to_json(accuracy_chart(*arguments, **keywords)))


def trace(figure, name):
    return next(t for t in figure["data"] if t["name"] == name)


def labels(figure):
    return {label["text"]: label["y"] for label in figure["layout"]["annotations"]}


def test_sparse_points_stand_at_the_measured_sparsity_in_rising_order():
    xs = trace(chart(DENSE, LINES), "sparse")["x"]
    assert xs == [0.0, 100 * TEN.pruned.mlp_sparsity, 100 * THIRTY.pruned.mlp_sparsity]


def test_the_line_begins_at_the_dense_accuracy():
    assert trace(chart(DENSE, LINES), "sparse")["y"] == [50.0, 45.0, 25.0]


def test_every_sparse_point_has_its_wilson_interval():
    bars = trace(chart(DENSE, LINES), "sparse")["error_y"]
    low, high = wilson(30, 120)
    assert bars["array"][-1] == pytest.approx(100 * high - 25)
    assert bars["arrayminus"][-1] == pytest.approx(25 - 100 * low)
    assert bars["array"][0] == bars["arrayminus"][0] == 0


def test_the_dense_line_and_its_band_cross_the_whole_chart():
    figure = chart(DENSE, LINES)
    left, right = figure["layout"]["xaxis"]["range"]
    line = trace(figure, "dense")
    band = trace(figure, "95 % interval of dense")
    assert line["x"] == [left, right]
    assert line["y"] == [50.0, 50.0]
    assert (min(band["x"]), max(band["x"])) == (left, right)
    assert (min(band["y"]), max(band["y"])) == pytest.approx([100 * b for b in wilson(60, 120)])


def test_lines_carry_their_labels_and_there_is_no_legend():
    figure = chart(DENSE, LINES)
    assert figure["layout"]["showlegend"] is False
    assert labels(figure) == {"dense": 50.0, "sparse": 25.0}


def test_labels_that_would_cover_each_other_are_moved_apart():
    same = specimens.record([True] * 60 + [False] * 60, 200)
    figure = chart(DENSE, {"sparse": [same]})
    low, high = figure["layout"]["yaxis"]["range"]
    heights = labels(figure)
    assert abs(heights["dense"] - heights["sparse"]) == pytest.approx(0.075 * (high - low))
    assert (heights["dense"] + heights["sparse"]) / 2 == pytest.approx(50.0)


def test_methods_differ_in_more_than_place():
    figure = chart(DENSE, {"least-squares": [TEN], "magnitude": [THIRTY]})
    first, second = [t for t in figure["data"] if t["name"] == "sparse"]
    assert first["marker"]["symbol"] != second["marker"]["symbol"]
    assert first["line"]["dash"] != second["line"]["dash"]
    assert set(labels(figure)) == {"dense", "least-squares", "magnitude"}


def test_a_long_label_gets_the_room_it_needs():
    short = chart(DENSE, {"sparse": [TEN]})["layout"]["margin"]["r"]
    long = chart(DENSE, {"wanda-channels": [TEN]})["layout"]["margin"]["r"]
    assert long > short


def test_the_axis_does_not_move_while_a_run_fills_it():
    asked = (100, 300)
    half = chart(DENSE, {"sparse": [TEN]}, asked=asked)
    assert half["layout"]["xaxis"]["range"][1] == pytest.approx(31.8)
    assert chart(DENSE, {}, asked=asked)["layout"]["xaxis"] == half["layout"]["xaxis"]


def test_the_dense_model_alone_is_a_chart_too():
    figure = chart(DENSE, {})
    assert labels(figure) == {"dense": 50.0}


@pytest.mark.parametrize("right", [0, 120])
def test_the_range_holds_every_interval_and_never_leaves_0_to_100(right):
    record = specimens.record([True] * right + [False] * (120 - right))
    low, high = chart(record, {})["layout"]["yaxis"]["range"]
    bottom, top = wilson(right, 120)
    assert 0 <= low <= 100 * bottom
    assert 100 * top <= high <= 100


def test_axes_say_what_they_measure_and_their_unit():
    layout = chart(DENSE, LINES)["layout"]
    assert layout["title"]["text"] == "Last word right, % of 120 passages"
    assert layout["xaxis"]["title"]["text"] == "MLP channels removed"
    assert layout["xaxis"]["ticksuffix"] == layout["yaxis"]["ticksuffix"] == " %"


def test_each_theme_has_its_own_colours():
    for theme, palette in PALETTES.items():
        figure = chart(DENSE, LINES, theme=theme)
        assert trace(figure, "dense")["line"]["color"] == palette.dense
        assert trace(figure, "sparse")["line"]["color"] == palette.sparse


def test_a_drawn_chart_is_repainted_from_either_theme_to_the_other():
    both = "light-dark(#2F5D9B, #8DB4E8)"
    assert f'[style*="fill: rgb(47, 93, 155)"] {{ fill: {both} !important }}' in repainting()
    assert f'[style*="stroke: rgb(141, 180, 232)"] {{ stroke: {both} !important }}' in repainting()


def test_no_colour_of_a_theme_means_two_things():
    for palette in PALETTES.values():
        colours = [colour for name, colour in vars(palette).items() if name != "band"]
        assert len(set(colours)) == len(colours)


@pytest.mark.parametrize("palette", PALETTES.values(), ids=list(PALETTES))
def test_text_reaches_a_contrast_of_four_and_a_half_and_marks_of_three(palette: Palette):
    for colour in (palette.text, palette.muted, palette.dense, palette.sparse_text):
        assert contrast(colour, palette.ground) >= 4.5
    assert contrast(palette.sparse, palette.ground) >= 3


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours written #rrggbb."""
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (s / 12.92 if s <= 0.03928 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_words_say_every_point_with_its_interval():
    said = accuracy_words(DENSE, LINES)
    assert said.startswith("Share of 120 last words right")
    assert "dense 50.0 % (41.2 to 58.8)" in said
    assert said.index("sparse at 10.4 % 45.0 %") < said.index("sparse at 29.2 % 25.0 %")


def test_a_sparse_point_knows_its_record_and_no_other_point_does():
    data = trace(chart(DENSE, LINES), "sparse")["customdata"]
    assert [clicked([{"customdata": point}]) for point in data] == ["", TEN.key, THIRTY.key]
    assert clicked([]) == clicked([{"x": 0}]) == clicked([{"customdata": "published"}]) == ""
