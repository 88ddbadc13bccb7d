"""Colours with one meaning each, readable in both themes; labels, never one on another."""

import itertools
import re
from math import dist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedash.catalog.presets import METHODS
from sparsedash.reporting.charts.chart_style import (
    PALETTES,
    Palette,
    spread_apart,
    theme_switch_css,
    wrap_label,
)
from sparsedash.ui import frame

STYLE = frame._STYLE.read_text(encoding="utf-8")
TOKENS = dict(
    re.findall(
        r"^\s+--([\w-]+): light-dark\((#\w{6}, #\w{6})\);", STYLE, flags=re.MULTILINE
    )
)
TEXT_TOKENS = ("dense", "sparse-text", "broke", "fixed", "muted", "bar")
GROUNDS = ("ground", "panel")
BODY_TEXT = "#22262b, #e8e6e1"


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours written #rrggbb."""
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    return dot((0.2126, 0.7152, 0.0722), linear(colour))


def linear(colour: str) -> list[float]:
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [s / 12.92 if s <= 0.03928 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]


def dot(row, column) -> float:
    return sum(a * b for a, b in zip(row, column, strict=True))


@pytest.mark.parametrize(
    "palette",
    PALETTES.values(),
    ids=list(PALETTES),
)
def test_text_in_a_chart_reaches_four_and_a_half_and_marks_three(palette: Palette):
    texts = (
        palette.text,
        palette.muted,
        palette.dense,
        palette.sparse_text,
        palette.broke,
        palette.fixed,
    )
    for colour in (*texts, *palette.lines):
        assert contrast(colour, palette.ground) >= 4.5
    assert contrast(palette.sparse, palette.ground) >= 3


SEEN = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "deutan": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "tritan": ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
}
"""Linear colours as people without one kind of cones see them (Machado, Oliveira and Fernandes
2009).
"""


def oklab(colour: str, seen: str) -> tuple[float, ...]:
    light = [min(1.0, max(0.0, dot(row, linear(colour)))) for row in SEEN[seen]]
    cones = (
        (0.4122, 0.5363, 0.0514),
        (0.2119, 0.6807, 0.1074),
        (0.0883, 0.2817, 0.6300),
    )
    roots = [dot(row, light) ** (1 / 3) for row in cones]
    opponents = (
        (0.2105, 0.7936, -0.0041),
        (1.9780, -2.4286, 0.4506),
        (0.0259, 0.7828, -0.8087),
    )
    return tuple(dot(row, roots) for row in opponents)


@pytest.mark.parametrize(
    "palette",
    PALETTES.values(),
    ids=list(PALETTES),
)
@pytest.mark.parametrize("seen", SEEN)
def test_the_first_six_lines_and_dense_stay_apart_for_everybody(palette, seen):
    places = [oklab(colour, seen) for colour in (palette.dense, *palette.lines[:6])]
    assert (
        min(dist(one, another) for one, another in itertools.combinations(places, 2))
        > 0.075
    )


@pytest.mark.parametrize(
    "theme",
    [0, 1],
    ids=["light", "dark"],
)
@pytest.mark.parametrize("ground", [*GROUNDS, "track"])
@pytest.mark.parametrize("name", TEXT_TOKENS)
def test_text_on_a_page_reaches_four_and_a_half(name, ground, theme):
    # On the track stand only words that one continuation has, in the colour of plain text.
    text = BODY_TEXT if ground == "track" else TOKENS[name]
    assert (
        contrast(
            text.split(", ")[theme],
            TOKENS[ground].split(", ")[theme],
        )
        >= 4.5
    )


def test_every_colour_that_the_style_sheet_writes_text_in_is_looked_at():
    used = set(re.findall(r"(?<![\w-])color: var\(--([\w-]+)\)", STYLE))
    assert used - {"side-text"} <= set(TEXT_TOKENS)
    assert set(re.findall(r"--side-text: var\(--([\w-]+)\)", STYLE)) <= set(TEXT_TOKENS)


def test_chart_and_page_have_the_same_colours():
    for name, token in TOKENS.items():
        for colour, palette in zip(
            token.split(", "),
            PALETTES.values(),
            strict=True,
        ):
            chart = getattr(palette, name.replace("-", "_"), colour)
            assert chart.casefold() == colour.casefold(), name


def test_no_colour_of_a_theme_means_two_things():
    for palette in PALETTES.values():
        colours = [
            colour
            for name, colour in palette._asdict().items()
            if name not in ("band", "allowed", "lines")
        ]
        assert (
            len({*colours, *palette.lines[1:]}) == len(colours) + len(palette.lines) - 1
        )


def test_a_drawn_chart_is_repainted_from_either_theme_to_the_other():
    both = "light-dark(#2F5D9B, #8DB4E8)"
    assert (
        f'[style*="fill: rgb(47, 93, 155)"] {{ fill: {both} !important }}'
        in theme_switch_css()
    )
    assert (
        f'[style*="stroke: rgb(141, 180, 232)"] {{ stroke: {both} !important }}'
        in theme_switch_css()
    )


@pytest.mark.parametrize(
    ("text", "sign", "lines"),
    [
        ("least-squares", "", ["least-squares"]),
        ("least-squares", "● ", ["● least-squares"]),
        ("retrain-free (published)", "", ["retrain-free", "(published)"]),
        ("retrain-free (published)", "■ ", ["■ retrain-free", "(published)"]),
        ("least-squares-by-curves", "", ["least-squares-", "by-curves"]),
        ("incomprehensibilities", "", ["incomprehensibilities"]),
        (
            "obs + bias (multiples of 64)",
            "■ ",
            ["■ obs + bias", "(multiples", "of 64)"],
        ),
    ],
)
def test_a_long_label_is_cut_where_all_lines_are_short(text, sign, lines):
    assert wrap_label(text, sign) == lines
    for method in METHODS:
        assert max(map(len, wrap_label(method.name))) <= 14


@pytest.mark.parametrize(
    ("wanted", "heights", "placed"),
    [
        ([10, 100, 50], [10, 10, 10], [10, 100, 50]),
        ([50, 50], [20, 20], [40, 60]),
        ([50, 50, 70], [20, 20, 20], [110 / 3, 170 / 3, 230 / 3]),
        ([0, 0, 200, 200], [20, 20, 20, 20], [10, 30, 170, 190]),
        ([], [], []),
    ],
    ids=["room", "same-place", "pushed", "inside", "none"],
)
def test_labels_stand_as_near_to_their_places_as_can_be(wanted, heights, placed):
    assert spread_apart(wanted, heights, 200) == pytest.approx(placed)


@given(
    st.lists(
        st.tuples(st.floats(-50, 450), st.floats(5, 40)),
        min_size=1,
        max_size=10,
    )
)
def test_no_label_covers_another_and_all_have_their_order(pairs):
    wanted = [w for w, _ in pairs]
    heights = [h for _, h in pairs]
    middles = spread_apart(wanted, heights, 400)
    ordered = sorted(range(len(pairs)), key=lambda i: middles[i])
    for i, j in itertools.pairwise(ordered):
        assert middles[j] - middles[i] >= (heights[i] + heights[j]) / 2 - 1e-6
        assert wanted[i] <= wanted[j] + 1e-6
    assert middles[ordered[0]] - heights[ordered[0]] / 2 >= -1e-6
    assert middles[ordered[-1]] + heights[ordered[-1]] / 2 <= 400 + 1e-6
