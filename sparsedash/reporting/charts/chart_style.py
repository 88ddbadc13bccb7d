"""Style of every chart: colours of both themes, frame, axes, bands, error bars, and labels at the
ends of lines.

Dense is blue everywhere, sparse orange where it is one line; several lines differ by symbol, dash,
colour and label. Lines carry their own labels, so there is no legend. Traces and notes are dicts in
plotly's own terms.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from statistics import fmean
from typing import Any, Literal, NamedTuple

Theme = Literal["light", "dark"]

FONT = "'Source Sans', sans-serif"
LABEL_LENGTH = 14
"""Characters that stay on one line; two such lines leave a phone's chart most of its width."""
AWAY = 14
"""Pixels between the plot and the labels, crossed by a thin line where a label had to move."""
_SIZE = 15
_SMALL_SIZE = 13
_FEW = 4
_WIDTH_OF_LETTER = 0.54
_HEIGHT_OF_LINE = 1.35
"""Of a label's letters, as shares of their size."""
_NEAR = 0.1
"""How far from the edge a line may end, as a share of the axis, and still need no leader line."""


class Palette(NamedTuple):
    """Colours of one theme. Text in any but `sparse` and `faded` reaches a contrast of 4.5 on that
    theme's ground.

    lines: of several lines, in their order; apart from each other and from dense for colour-blind
    eyes too.
    """

    dense: str
    band: str
    allowed: str
    sparse: str
    sparse_text: str
    broke: str
    fixed: str
    text: str
    muted: str
    grid: str
    faded: str
    ground: str
    lines: tuple[str, ...]


_COLOURS = {
    "dense": ("#2F5D9B", "#8DB4E8"),
    "band": ("rgba(47, 93, 155, 0.12)", "rgba(141, 180, 232, 0.16)"),
    "allowed": ("rgba(11, 122, 91, 0.10)", "rgba(92, 201, 160, 0.13)"),
    "sparse": ("#C2571A", "#F0955A"),
    "sparse_text": ("#A94A12", "#F2A06B"),
    "broke": ("#B3261E", "#FF8A7A"),
    "fixed": ("#0B7A5B", "#5CC9A0"),
    "text": ("#22262B", "#E8E6E1"),
    "muted": ("#5B6068", "#A3A8B0"),
    "grid": ("#E7E4DB", "#2D3136"),
    "faded": ("#B4B0A5", "#5C626A"),
    "ground": ("#FCFBF8", "#17191C"),
}
_LINES = (
    _COLOURS["sparse_text"],
    ("#9442D9", "#BB60F4"),
    ("#104042", "#ACFAEA"),
    ("#86046B", "#DB479A"),
    ("#494401", "#FADF27"),
    ("#5D775D", "#649029"),
    ("#49030E", "#CF8073"),
    ("#022837", "#73DEE9"),
)
COLOUR_PAIRS = [*_COLOURS.values(), *_LINES[1:]]
"""Each colour of the light theme with that of the dark one."""


def _palette(i: int) -> Palette:
    """The colours of the light theme, 0, or of the dark one, 1."""
    colours = {name: pair[i] for name, pair in _COLOURS.items()}
    return Palette(**colours, lines=tuple(pair[i] for pair in _LINES))


PALETTES: dict[Theme, Palette] = {"light": _palette(0), "dark": _palette(1)}


def theme_switch_css() -> str:
    """CSS that repaints a drawn chart when the theme changes, which the server does not learn of;
    and its lines' names.

    Each colour of one theme is found by the value that plotly has written and gets the other
    theme's beside it.
    """
    rules = []
    for light, dark in COLOUR_PAIRS:
        for colour in (light, dark) if light.startswith("#") else ():
            red, green, blue = bytes.fromhex(colour[1:])
            for what in ("fill", "stroke"):
                rules.append(
                    f'.js-plotly-plot [style*="{what}: rgb({red}, {green}, {blue})"]'
                    f" {{ {what}: light-dark({light}, {dark}) !important }}"
                )
    for i, (light, dark) in enumerate(_LINES):
        rules.append(f".sd-line-{i} {{ color: light-dark({light}, {dark}) }}")
    return "\n".join(rules)


def chart_frame(
    title: str, height: int, colours: Palette, **more: Any
) -> dict[str, Any]:
    """The layout that every chart begins with: a title at the left edge, no legend, nothing that
    can be dragged.
    """
    return {
        "height": height,
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "font": {
            "family": FONT,
            "size": 14,
            "color": colours.text,
        },
        "showlegend": False,
        "dragmode": False,
        "hoverlabel": {
            "bgcolor": colours.ground,
            "bordercolor": colours.grid,
            "font": {"color": colours.text},
        },
        "title": {
            "text": title,
            "font": {
                "size": 14,
                "color": colours.muted,
                "weight": 400,
            },
            "x": 0,
            "xref": "container",
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 8},
        },
    } | more


def fixed_axis(colours: Palette, **more: Any) -> dict[str, Any]:
    """An axis that stays where it is, with quiet numbers."""
    return {
        "zeroline": False,
        "fixedrange": True,
        "tickfont": {"color": colours.muted},
    } | more


def whole_ticks(n: int) -> dict[str, Any]:
    """The numbers of an axis that counts from 1 to n: at most twelve, none between two."""
    return {"tick0": 1, "dtick": 1} if n <= 12 else {"nticks": 12}


def x_axis(title: str, colours: Palette, **more: Any) -> dict[str, Any]:
    """The line under a chart with its title and without a grid. more: range and numbers."""
    named = {"text": title, "font": {"color": colours.muted, "size": 14}}
    return fixed_axis(
        colours,
        showgrid=False,
        showline=True,
        linecolor=colours.grid,
        title=named,
        **more,
    )


def y_axis(colours: Palette, **more: Any) -> dict[str, Any]:
    """The numbers left of a chart, each with a line across."""
    return fixed_axis(
        colours,
        gridcolor=colours.grid,
        ticklabelstandoff=6,
        **more,
    )


def annotation(
    text: str, x: float, y: float, colour: str, size: int = 14, **more: Any
) -> dict[str, Any]:
    """Text at a place of the plot, without an arrow; by default at values of both axes, centred."""
    font = {"color": colour, "size": size}
    place = {
        "x": x,
        "y": y,
        "xref": "x",
        "yref": "y",
        "xanchor": "center",
        "yanchor": "middle",
    }
    return {"text": text, "showarrow": False, "font": font} | place | more


def error_bars(
    bars: Iterable[tuple[float, float, float]],
    colour: str,
    thickness: float = 1,
    width: int = 3,
) -> dict[str, Any]:
    """Error bars. bars: a value with the low and the high end of its interval, for each point."""
    intervals = list(bars)
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, _, high in intervals],
        "arrayminus": [value - low for value, low, _ in intervals],
        "color": colour,
        "thickness": thickness,
        "width": width,
    }


@dataclass(frozen=True, kw_only=True)
class Label:
    """Text at the right edge for a line that ends at x, y; where there is no y yet, only its
    room is kept.

    x: None where the line ends at the edge.
    """

    y: float | None
    lines: Sequence[str]
    colour: str
    x: float | None = None


def room_for(labels: Sequence[Label]) -> float:
    """The height in pixels that the labels need above each other, with a little air."""
    return (
        1.05
        * _HEIGHT_OF_LINE
        * _label_size(labels)
        * sum(len(label.lines) for label in labels)
    )


def label_layout(
    labels: Sequence[Label],
    y_range: tuple[float, float],
    height: float,
    colours: Palette,
    *,
    domain: tuple[float, float] = (0.0, 1.0),
    x_range: tuple[float, float] = (0.0, 1.0),
) -> dict[str, Any]:
    """The part of a layout that puts labels at the right edge, none on another, with the margin
    that they need.

    A label that had to move, or whose line ends before the edge, has a leader line: dotted, grey,
    from the line's end to the edge and on to the label. height: of the plot in pixels. domain: the
    lower and upper end of the labels' axis, as shares of it.
    """
    size = _label_size(labels)
    low, high = y_range
    bottom, top = domain
    x_low, x_high = x_range
    placed = [label for label in labels if label.y is not None]
    # Pixels from the top.
    wanted = [height * (high - (label.y or 0.0)) / (high - low) for label in placed]
    heights = [_HEIGHT_OF_LINE * size * len(label.lines) for label in placed]
    middles = spread_apart(wanted, heights, height)
    notes = []
    leaders = []
    for label, line_end, middle in zip(placed, wanted, middles, strict=True):
        line_y = top - (top - bottom) * line_end / height
        label_y = top - (top - bottom) * middle / height
        note = annotation(
            "<br>".join(map(plain, label.lines)),
            1,
            label_y,
            label.colour,
            size,
            xref="paper",
            yref="paper",
            xanchor="left",
            xshift=AWAY,
            align="left",
        )
        note["font"]["weight"] = 600
        notes.append(note)
        ends_early = label.x is not None and x_high - label.x > _NEAR * (x_high - x_low)
        if not ends_early and abs(line_end - middle) <= size / 2:
            continue
        line = {
            "type": "line",
            "yref": "paper",
            "y0": line_y,
            "layer": "below",
            "line": leader(colours),
        }
        to_label = {
            "xref": "paper",
            "xsizemode": "pixel",
            "xanchor": 1,
            "x0": 0,
            "x1": AWAY - 3,
        }
        leaders.append(line | to_label | {"y1": label_y})
        if label.x is not None:
            leaders.append(
                line | {"xref": "x", "x0": label.x, "x1": x_high, "y1": line_y}
            )
    longest = max(map(len, chain.from_iterable(label.lines for label in labels)))
    margin = AWAY + 6 + _WIDTH_OF_LETTER * size * longest
    return {
        "annotations": notes,
        "shapes": leaders,
        "margin_r": margin,
    }


def leader(colours: Palette) -> dict[str, Any]:
    """The stroke of a line that leads from a mark to its label: no line of data is grey, or as
    thin.
    """
    return {
        "color": colours.muted,
        "width": 1,
        "dash": "1px,2px",
    }


def _label_size(labels: Sequence[Label]) -> int:
    return _SIZE if len(labels) <= _FEW else _SMALL_SIZE


def plain(text: str) -> str:
    """Foreign text for a figure: plotly reads tags and entities in it."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def wrap_label(text: str, sign: str = "", longest: int = LABEL_LENGTH) -> list[str]:
    """The text on as few lines of this length as can be, all about as long, cut after a space or a
    hyphen.

    sign: stands before it.
    """
    pieces = re.split(r"(?<=[ -])", text)
    n_lines = len(_filled(pieces, longest))
    length = 0
    while len(_filled(pieces, length)) > n_lines:
        length += 1
    first, *others = _filled(pieces, length)
    return [sign + first, *others]


def _filled(pieces: Sequence[str], length: int) -> list[str]:
    """The pieces on lines of at most this length, where each is no longer."""
    lines = [""]
    for piece in pieces:
        if lines[-1] and len((lines[-1] + piece).rstrip()) > length:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def spread_apart(
    wanted: Sequence[float], heights: Sequence[float], room: float | None = None
) -> list[float]:
    """Middles as near to the wanted ones as can be, none on another; in the order given.

    room: from 0 to it they must stand; what needs more than that stands beyond its end.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gaps = [(heights[i] + heights[j]) / 2 for i, j in pairwise(order)]
    offsets = list(accumulate(gaps, initial=0.0))
    # Without its offset every middle only has to be no less than the one before: isotonic
    # regression.
    free = [wanted[i] - offset for i, offset in zip(order, offsets, strict=False)]
    middles = [0.0] * len(order)
    for k, i in enumerate(order):
        lows = []
        for start in range(k + 1):
            lows.append(
                min(fmean(free[start:end]) for end in range(k + 1, len(order) + 1))
            )
        middle = max(lows)
        if room is not None:
            last = room - offsets[-1] - heights[order[-1]] / 2
            middle = max(heights[order[0]] / 2, min(last, middle))
        middles[i] = middle + offsets[k]
    return middles
