"""Style of every chart: colours of both themes, frame, axes, and labels at the ends of lines.

Dense is blue and sparse orange everywhere; a method is told from another by its symbol, dash and label, never by colour
alone. Lines carry their own labels, so there is no legend.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

Theme = Literal["light", "dark"]

FONT = "'Source Sans', sans-serif"


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Colours of one theme. Text in any of them but `sparse` reaches a contrast of 4.5 on that theme's ground."""

    dense: str
    band: str
    allowed: str
    sparse: str
    sparse_text: str
    broke: str
    mended: str
    text: str
    muted: str
    grid: str
    ground: str


PALETTES: dict[Theme, Palette] = {
    "light": Palette(
        dense="#2F5D9B",
        band="rgba(47, 93, 155, 0.12)",
        allowed="rgba(11, 122, 91, 0.10)",
        sparse="#C2571A",
        sparse_text="#A94A12",
        broke="#B3261E",
        mended="#0B7A5B",
        text="#22262B",
        muted="#5B6068",
        grid="#E7E4DB",
        ground="#FCFBF8",
    ),
    "dark": Palette(
        dense="#8DB4E8",
        band="rgba(141, 180, 232, 0.16)",
        allowed="rgba(92, 201, 160, 0.13)",
        sparse="#F0955A",
        sparse_text="#F2A06B",
        broke="#FF8A7A",
        mended="#5CC9A0",
        text="#E8E6E1",
        muted="#A3A8B0",
        grid="#2D3136",
        ground="#17191C",
    ),
}


def theme_switch_css() -> str:
    """CSS that repaints a chart which is already drawn when the theme changes: nobody tells the server of that.

    Each colour of one theme is found by the value that plotly has written and gets the other theme's beside it.
    """
    light, dark = asdict(PALETTES["light"]), asdict(PALETTES["dark"])
    rules = []
    for name in (field for field in light if field not in ("band", "allowed")):
        for colour in (light[name], dark[name]):
            red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
            rules += [
                f'.js-plotly-plot [style*="{what}: rgb({red}, {green}, {blue})"]'
                f" {{ {what}: light-dark({light[name]}, {dark[name]}) !important }}"
                for what in ("fill", "stroke")
            ]
    return "\n".join(rules)


def chart_frame(title: str, height: int, colours: Palette) -> dict[str, Any]:
    """The layout that every chart begins with: a title at the left edge, no legend, nothing that can be dragged."""
    return {
        "height": height,
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "font": {"family": FONT, "size": 14, "color": colours.text},
        "showlegend": False,
        "dragmode": False,
        "hoverlabel": {"bgcolor": colours.ground, "bordercolor": colours.grid, "font": {"color": colours.text}},
        "title": {
            "text": title,
            "font": {"size": 14, "color": colours.muted, "weight": 400},
            "x": 0,
            "xref": "container",
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 8},
        },
    }


def fixed_axis(colours: Palette, **more: Any) -> dict[str, Any]:
    """An axis that stays where it is, with quiet numbers."""
    return {"zeroline": False, "fixedrange": True, "tickfont": {"color": colours.muted}} | more


LONGEST = 14
"""Characters that stay on one line; two such lines leave a phone's chart most of its width."""

AWAY = 14
"""Pixels between the plot and the labels, crossed by a thin line where a label had to move."""
_SIZE, _SMALL_SIZE, _FEW = 15, 13, 4
_WIDTH_OF_LETTER, _HEIGHT_OF_LINE = 0.54, 1.35
"""Of a label's letters, as shares of their size."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """What stands at the right edge for a line at height y; where there is no y yet, only its room is kept.

    x: where the line has that height, as a share of the plot's width; from there a thin line leads to the edge.
    """

    y: float | None
    lines: Sequence[str]
    colour: str
    x: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Where the labels' axis is: its range, its height in pixels, and its lower and upper end as shares of the plot."""

    y_range: tuple[float, float]
    height: float
    domain: tuple[float, float] = (0.0, 1.0)


def room_for(labels: Sequence[Label]) -> float:
    """The height in pixels that the labels need above each other, with a little air."""
    return 1.05 * sum(_heights(labels))


def label_layout(labels: Sequence[Label], panel: Panel, colours: Palette) -> dict[str, Any]:
    """The part of a layout that puts labels at the right edge, none on another, with the margin that they need."""
    size, (low, high), (bottom, top) = _size(labels), panel.y_range, panel.domain
    share = (top - bottom) / panel.height
    ends = [(i, label.y) for i, label in enumerate(labels) if label.y is not None]
    wanted = [panel.height * (high - y) / (high - low) for _, y in ends]
    middles = place_labels(wanted, [_heights(labels)[i] for i, _ in ends], panel.height)
    notes = [
        {
            "x": 1,
            "xref": "paper",
            "xanchor": "left",
            "xshift": AWAY,
            "y": top - share * middle,
            "yref": "paper",
            "yanchor": "middle",
            "text": "<br>".join(labels[i].lines),
            "align": "left",
            "showarrow": False,
            "font": {"color": labels[i].colour, "size": size, "weight": 600},
        }
        for (i, _), middle in zip(ends, middles, strict=True)
    ]
    ties = [
        {
            "type": "line",
            "xref": "paper",
            "xsizemode": "pixel",
            "xanchor": 1,
            "x0": 2,
            "x1": AWAY - 2,
            "yref": "paper",
            "y0": top - share * at,
            "y1": top - share * middle,
            "line": {"color": colours.muted, "width": 1},
        }
        for at, middle in zip(wanted, middles, strict=True)
        if abs(at - middle) > size / 2
    ]
    ties += [
        {
            "type": "line",
            "xref": "paper",
            "x0": labels[i].x,
            "x1": 1,
            "yref": "paper",
            "y0": top - share * at,
            "y1": top - share * at,
            "line": {"color": colours.muted, "width": 1, "dash": "dot"},
            "layer": "below",
        }
        for (i, _), at in zip(ends, wanted, strict=True)
        if labels[i].x < 1
    ]
    longest = max(len(line) for label in labels for line in label.lines)
    right = AWAY + 6 + _WIDTH_OF_LETTER * size * longest
    return {"annotations": notes, "shapes": ties, "margin_r": right}


def _size(labels: Sequence[Label]) -> int:
    return _SIZE if len(labels) <= _FEW else _SMALL_SIZE


def _heights(labels: Sequence[Label]) -> list[float]:
    return [_HEIGHT_OF_LINE * _size(labels) * len(label.lines) for label in labels]


def wrap_label(text: str, sign: str = "") -> list[str]:
    """The text on one line, or on two of about the same length, parted after a space or a hyphen.

    sign: stands before it.
    """
    cuts = [i + 1 for i, letter in enumerate(text[:-1]) if letter in " -"]
    if len(text) <= LONGEST or not cuts:
        return [sign + text]
    cut = min(cuts, key=lambda at: max(len(text[:at].rstrip()), len(text[at:])))
    return [sign + text[:cut].rstrip(), text[cut:]]


def place_labels(wanted: Sequence[float], heights: Sequence[float], room: float) -> list[float]:
    """Middles of labels as near to the wanted ones as can be, from 0 to `room`, none on another; in the order given.

    heights: of the labels; when they need more than the room, the last ones stand outside.
    """
    order, offsets = _stacked(wanted, heights)
    if not order:
        return []
    low = heights[order[0]] / 2
    high = room - offsets[-1] - heights[order[-1]] / 2
    middles = spread_apart(wanted, heights)
    for i, offset in zip(order, offsets, strict=True):
        middles[i] = max(low, min(high, middles[i] - offset)) + offset
    return middles


def spread_apart(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Middles as near to the wanted ones as can be, none on another; in the order given."""
    order, offsets = _stacked(wanted, heights)
    # Without its offset every middle only has to be no less than the one before: a monotone regression.
    blocks: list[tuple[float, int]] = []
    for i, offset in zip(order, offsets, strict=True):
        blocks.append((wanted[i] - offset, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (first, n), (second, m) = blocks[-2:]
            blocks[-2:] = [((first * n + second * m) / (n + m), n + m)]
    free = [value for value, n in blocks for _ in range(n)]
    middles = [0.0] * len(wanted)
    for i, value, offset in zip(order, free, offsets, strict=True):
        middles[i] = value + offset
    return middles


def _stacked(wanted: Sequence[float], heights: Sequence[float]) -> tuple[list[int], list[float]]:
    """The order in which they stand, and how far each is beyond the first when none is away from the next."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gaps = [(heights[i] + heights[j]) / 2 for i, j in pairwise(order)]
    return order, list(accumulate([0.0, *gaps]))[: len(order)]
