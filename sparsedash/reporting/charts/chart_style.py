"""Style of every chart: colours of both themes, frame, axes, bands, error bars, and labels at the ends of lines.

Dense is blue and sparse orange everywhere; a method is told from another by its symbol, dash and label, never by colour
alone. Lines carry their own labels, so there is no legend. Traces and notes are dicts in plotly's own terms.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

Theme = Literal["light", "dark"]

FONT = "'Source Sans', sans-serif"
LONGEST = 14
"""Characters that stay on one line; two such lines leave a phone's chart most of its width."""
AWAY = 14
"""Pixels between the plot and the labels, crossed by a thin line where a label had to move."""
_SIZE, _SMALL_SIZE, _FEW = 15, 13, 4
_WIDTH_OF_LETTER, _HEIGHT_OF_LINE = 0.54, 1.35
"""Of a label's letters, as shares of their size."""


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
COLOUR_PAIRS = list(zip(asdict(PALETTES["light"]).values(), asdict(PALETTES["dark"]).values(), strict=True))
"""Each colour of the light theme with that of the dark one."""


def theme_switch_css() -> str:
    """CSS that repaints a drawn chart when the theme changes, which the server does not learn of.

    Each colour of one theme is found by the value that plotly has written and gets the other theme's beside it.
    """
    rules = []
    for light, dark in COLOUR_PAIRS:
        for colour in (light, dark) if light.startswith("#") else ():
            red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
            rules += [
                f'.js-plotly-plot [style*="{what}: rgb({red}, {green}, {blue})"]'
                f" {{ {what}: light-dark({light}, {dark}) !important }}"
                for what in ("fill", "stroke")
            ]
    return "\n".join(rules)


def chart_frame(title: str, height: int, colours: Palette, **more: Any) -> dict[str, Any]:
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
    } | more


def fixed_axis(colours: Palette, **more: Any) -> dict[str, Any]:
    """An axis that stays where it is, with quiet numbers."""
    return {"zeroline": False, "fixedrange": True, "tickfont": {"color": colours.muted}} | more


def x_axis(title: str, colours: Palette, **more: Any) -> dict[str, Any]:
    """The line under a chart with its title and without a grid. more: range and numbers."""
    named = {"title": {"text": title, "font": {"color": colours.muted, "size": 14}}}
    return fixed_axis(colours, showgrid=False, showline=True, linecolor=colours.grid, **named) | more


def y_axis(colours: Palette, **more: Any) -> dict[str, Any]:
    """The numbers left of a chart, each with a line across."""
    return fixed_axis(colours, gridcolor=colours.grid, ticklabelstandoff=6, **more)


def annotation(text: str, x: float, y: float, colour: str, size: int = 14, **more: Any) -> dict[str, Any]:
    """Text at a place of the plot, without an arrow; by default at values of both axes, centred."""
    font = {"color": colour, "size": size}
    place = {"x": x, "y": y, "xref": "x", "yref": "y", "xanchor": "center", "yanchor": "middle"}
    return {"text": text, "showarrow": False, "font": font} | place | more


def error_bars(
    bars: Iterable[tuple[float, float, float]], colour: str, thickness: float = 1, width: int = 3
) -> dict[str, Any]:
    """Error bars. bars: a value with the low and the high end of its interval, for each point."""
    found = list(bars)
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, _, high in found],
        "arrayminus": [value - low for value, low, _ in found],
        "color": colour,
        "thickness": thickness,
        "width": width,
    }


def line_across(ends: tuple[float, float], y: float, colour: str, name: str) -> dict[str, Any]:
    """A horizontal line from end to end of the x axis."""
    line = {"color": colour, "width": 2}
    return {"x": list(ends), "y": [y, y], "mode": "lines", "line": line, "hoverinfo": "skip", "name": name}


def band_across(ends: tuple[float, float], low: float, high: float, colour: str, name: str) -> dict[str, Any]:
    """A shaded band between two heights, from end to end of the x axis."""
    left, right = ends
    return {
        "x": [left, right, right, left],
        "y": [low, low, high, high],
        "fill": "toself",
        "mode": "lines",
        "fillcolor": colour,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "name": name,
    }


@dataclass(frozen=True, kw_only=True)
class Label:
    """What stands at the right edge for a line at height y; where there is no y yet, only its room is kept."""

    y: float | None
    lines: Sequence[str]
    colour: str


def room_for(labels: Sequence[Label]) -> float:
    """The height in pixels that the labels need above each other, with a little air."""
    return 1.05 * sum(_label_heights(labels))


def label_layout(
    labels: Sequence[Label],
    y_range: tuple[float, float],
    height: float,
    colours: Palette,
    domain: tuple[float, float] = (0.0, 1.0),
) -> dict[str, Any]:
    """The part of a layout that puts labels at the right edge, none on another, with the margin that they need.

    height: of the plot in pixels. domain: the lower and upper end of the labels' axis, as shares of it.
    """
    size, (low, high), (bottom, top) = _label_size(labels), y_range, domain
    there = [(label, label.y, tall) for label, tall in zip(labels, _label_heights(labels), strict=True)]
    ends = [(label, height * (high - y) / (high - low), tall) for label, y, tall in there if y is not None]
    middles = place_labels([at for _, at, _ in ends], [tall for *_, tall in ends], height)
    notes, lines = [], []
    for (label, at, _), middle in zip(ends, middles, strict=True):
        wanted, found = (top - (top - bottom) * place / height for place in (at, middle))
        edge = {"xref": "paper", "yref": "paper", "xanchor": "left", "xshift": AWAY, "align": "left"}
        notes.append(annotation("<br>".join(label.lines), 1, found, label.colour, size, **edge))
        notes[-1]["font"]["weight"] = 600
        line = {"type": "line", "xref": "paper", "yref": "paper", "y0": wanted}
        if abs(at - middle) > size / 2:
            tie = {"xsizemode": "pixel", "xanchor": 1, "x0": 2, "x1": AWAY - 2, "y1": found}
            lines.append(line | tie | {"line": {"color": colours.muted, "width": 1}})
    longest = max(len(line) for label in labels for line in label.lines)
    right = AWAY + 6 + _WIDTH_OF_LETTER * size * longest
    return {"annotations": notes, "shapes": lines, "margin_r": right}


def _label_size(labels: Sequence[Label]) -> int:
    return _SIZE if len(labels) <= _FEW else _SMALL_SIZE


def _label_heights(labels: Sequence[Label]) -> list[float]:
    return [_HEIGHT_OF_LINE * _label_size(labels) * len(label.lines) for label in labels]


def wrap_label(text: str, sign: str = "") -> list[str]:
    """The text on one line, or on two of about the same length, cut after a space or a hyphen.

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
    order, offsets = _stack(wanted, heights)
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
    order, offsets = _stack(wanted, heights)
    # Without its offset every middle only has to be no less than the one before: isotonic regression.
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


def _stack(wanted: Sequence[float], heights: Sequence[float]) -> tuple[list[int], list[float]]:
    """The order in which they stand, and how far each is beyond the first when they touch."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gaps = [(heights[i] + heights[j]) / 2 for i, j in pairwise(order)]
    return order, list(accumulate([0.0, *gaps]))[: len(order)]
