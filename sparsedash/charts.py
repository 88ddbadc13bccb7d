"""Records as plotly figures. Pure: records in, a figure and its words out.

Dense is blue and sparse orange everywhere; a method is told from another by its symbol, dash and label, never by colour
alone. Lines carry their own labels, so there is no legend.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import plotly.graph_objects as go

from sparsedash.published import LAST_WORD, PublishedRow, published_model
from sparsedash.records import Record
from sparsedash.significance import wilson

Theme = Literal["light", "dark"]

CHART_HEIGHT = 380
_FONT = "'Source Sans', sans-serif"
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_MARGIN = 0.02
"""Air left of zero, as a share of the axis, so that the dense point does not stand on the tick labels."""
_ASIDE = 0.008
"""How far the points of two methods are drawn apart, as a share of the axis, so that their intervals can be told apart."""
_LABEL_SIZE = 15
_LABEL_GAP = 0.075
"""Least distance between two labels at the right edge, as a share of the axis."""


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Colours of one theme. Text in any of them reaches a contrast of 4.5 on that theme's background."""

    dense: str
    band: str
    sparse: str
    sparse_text: str
    text: str
    muted: str
    grid: str
    ground: str


PALETTES: dict[Theme, Palette] = {
    "light": Palette(
        dense="#2F5D9B",
        band="rgba(47, 93, 155, 0.12)",
        sparse="#C2571A",
        sparse_text="#A94A12",
        text="#22262B",
        muted="#5B6068",
        grid="#E7E4DB",
        ground="#FCFBF8",
    ),
    "dark": Palette(
        dense="#8DB4E8",
        band="rgba(141, 180, 232, 0.16)",
        sparse="#F0955A",
        sparse_text="#F2A06B",
        text="#E8E6E1",
        muted="#A3A8B0",
        grid="#2D3136",
        ground="#17191C",
    ),
}


def repainting() -> str:
    """CSS that repaints a chart which is already drawn when the theme changes: nobody tells the server of that.

    Each colour of one theme is found by the value that plotly has written and gets the other theme's beside it.
    """
    light, dark = asdict(PALETTES["light"]), asdict(PALETTES["dark"])
    rules = []
    for name in (field for field in light if field != "band"):
        for colour in (light[name], dark[name]):
            red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
            rules += [
                f'.js-plotly-plot [style*="{what}: rgb({red}, {green}, {blue})"]'
                f" {{ {what}: light-dark({light[name]}, {dark[name]}) !important }}"
                for what in ("fill", "stroke")
            ]
    return "\n".join(rules)


Lines = Mapping[str, Sequence[Record]]
"""Sparse records by the label of their line, in the order they are drawn."""


def accuracy_chart(
    dense: Record, lines: Lines, theme: Theme = "light", asked: Sequence[int] = ()
) -> go.Figure:
    """Last-word accuracy against measured MLP sparsity, each with its 95 % interval, the dense line drawn across.

    asked: sparsities in per mille that the axis leaves room for, so that nothing moves while a run fills the chart.
    """
    colours = PALETTES[theme]
    sparse = [record for records in lines.values() for record in records]
    end = _end_of_axis(sparse, asked)
    low, high = _range([dense, *sparse])
    figure = go.Figure()
    figure.add_traces(_dense_band(dense, end, colours))
    labels = [(_percent(dense), "dense", colours.dense)]
    for i, (label, records) in enumerate(lines.items()):
        ordered = sorted(records, key=_sparsity)
        aside = (i - (len(lines) - 1) / 2) * _ASIDE * end
        figure.add_trace(_sparse_trace(dense, ordered, i, aside, colours))
        labels.append((_percent(ordered[-1]), label, colours.sparse_text))
    figure.add_trace(_dense_point(dense, colours))
    heights = _spread([y for y, _, _ in labels], (high - low) * _LABEL_GAP)
    for y, (_, text, colour) in zip(heights, labels, strict=True):
        figure.add_annotation(
            x=1, xref="paper", xanchor="left", xshift=8, y=y, text=text, showarrow=False,
            font={"color": colour, "size": _LABEL_SIZE, "weight": 600},
        )  # fmt: skip
    layout = _layout(dense.last_word.total, end, (low, high), colours)
    layout["margin"]["r"] = 16 + 0.56 * _LABEL_SIZE * max(len(text) for _, text, _ in labels)
    figure.update_layout(layout)
    return figure


def clicked(points: Sequence[Mapping[str, Any]]) -> str:
    """The key of the record whose point was clicked; empty where it was another point, or none."""
    data = points[0].get("customdata") if points else None
    return str(data[1]) if isinstance(data, list | tuple) and len(data) == 2 else ""


def accuracy_words(dense: Record, lines: Lines) -> str:
    """What `accuracy_chart` shows, for those who do not see it."""
    parts = [f"dense {_accuracy_words(dense)}"]
    for label, records in lines.items():
        for record in sorted(records, key=_sparsity):
            parts.append(f"{label} at {100 * _sparsity(record):.1f} % {_accuracy_words(record)}")
    return (
        f"Share of {dense.last_word.total:,} last words right against the share of MLP channels removed, "
        f"with 95 % intervals: {'; '.join(parts)}."
    )


def published_beside(dense: Record) -> tuple[PublishedRow, ...]:
    """The published rows that a record can be compared with: the same model, passages and number format."""
    if dense.corpus != "lambada_openai":
        return ()
    return tuple(
        row
        for row in LAST_WORD
        if row.dtype == dense.dtype
        and dense.model in (row.model, published_model(row.model).reference)
    )


def add_published_(figure: go.Figure, rows: Sequence[PublishedRow], theme: Theme = "light") -> None:
    """Put published points on an accuracy chart, as grey diamonds, open for dense; in place. Without rows, nothing changes."""
    if not rows:
        return
    colours = PALETTES[theme]
    points = [(0.0, row.dense, "dense") for row in rows]
    points += [(row.sparsity_permille / 10, row.sparse, "sparse") for row in rows]
    heights = [100 * share for _, share, _ in points]
    figure.add_scatter(
        x=[x for x, _, _ in points], y=heights, mode="markers", name="published", cliponaxis=False,
        marker={
            "color": colours.muted, "size": 11, "line": {"color": colours.muted, "width": 1.5},
            "symbol": ["diamond-open" if kind == "dense" else "diamond" for _, _, kind in points],
        },
        customdata=[f"published, {kind}<br>{100 * share:.2f} %" for _, share, kind in points],
        hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip
    figure.add_annotation(
        x=points[-1][0], y=heights[-1], text="published", showarrow=False, yshift=-16,
        font={"color": colours.muted, "size": 13},
    )  # fmt: skip
    low, high = figure.layout.yaxis.range
    figure.update_yaxes(
        range=[min(low, *(y - 2 for y in heights)), max(high, *(y + 2 for y in heights))]
    )
    left, right = figure.layout.xaxis.range
    figure.update_xaxes(range=[left, max(right, 1.06 * max(x for x, _, _ in points))])


def published_words(rows: Sequence[PublishedRow]) -> str:
    """What `add_published_` shows, for those who do not see it; empty without rows."""
    return "".join(
        f" Published: dense {100 * row.dense:.2f} %, at {row.sparsity_permille / 10:g} % {100 * row.sparse:.2f} %."
        for row in rows
    )


def _dense_band(dense: Record, end: float, colours: Palette) -> list[Any]:
    low, high = _interval(dense)
    y = _percent(dense)
    band = go.Scatter(
        x=[-_MARGIN * end, end, end, -_MARGIN * end], y=[low, low, high, high], fill="toself", mode="lines",
        fillcolor=colours.band, line={"width": 0}, hoverinfo="skip", name="95 % interval of dense",
    )  # fmt: skip
    line = go.Scatter(
        x=[-_MARGIN * end, end], y=[y, y], mode="lines", line={"color": colours.dense, "width": 2},
        hoverinfo="skip", name="dense",
    )  # fmt: skip
    return [band, line]


def _dense_point(dense: Record, colours: Palette) -> Any:
    return go.Scatter(
        x=[0], y=[_percent(dense)], mode="markers", marker={"color": colours.dense, "size": 10}, cliponaxis=False,
        name="dense", hovertemplate=f"dense<br>{_hover(dense)}<extra></extra>",
    )  # fmt: skip


def _sparse_trace(
    dense: Record, records: list[Record], i: int, aside: float, colours: Palette
) -> Any:
    shown = [dense, *records]
    y = [_percent(record) for record in shown]
    above = [0.0] + [_interval(r)[1] - _percent(r) for r in records]
    below = [0.0] + [_percent(r) - _interval(r)[0] for r in records]
    return go.Scatter(
        x=[0.0, *(100 * _sparsity(record) + aside for record in records)], y=y, mode="lines+markers", name="sparse",
        line={"color": colours.sparse, "width": 2, "dash": _DASHES[i % len(_DASHES)]},
        marker={
            "color": colours.sparse, "symbol": _SYMBOLS[i % len(_SYMBOLS)],
            "size": [0] + [9] * len(records), "line": {"width": 0}, "opacity": 1,
        },
        error_y={
            "type": "data", "symmetric": False, "array": above, "arrayminus": below,
            "color": colours.sparse, "thickness": 1.25, "width": 5,
        },
        cliponaxis=False, customdata=[["", ""], *([_hover(record), record.key] for record in records)],
        hovertemplate="%{customdata[0]}<extra></extra>",
    )  # fmt: skip


def _layout(
    total: int, end: float, y_range: tuple[float, float], colours: Palette
) -> dict[str, Any]:
    axis = {
        "ticksuffix": " %", "zeroline": False, "fixedrange": True, "tickfont": {"color": colours.muted},
    }  # fmt: skip
    return {
        "height": CHART_HEIGHT,
        "margin": {"l": 48, "r": 92, "t": 44, "b": 52},
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "font": {"family": _FONT, "size": 14, "color": colours.text},
        "showlegend": False,
        "dragmode": False,
        "hoverlabel": {"bgcolor": colours.ground, "bordercolor": colours.grid, "font": {"color": colours.text}},
        "title": {
            "text": f"Last word right, % of {total:,} passages",
            "font": {"size": 14, "color": colours.muted, "weight": 400},
            "x": 0, "xref": "container", "y": 1, "yanchor": "top", "pad": {"t": 8},
        },
        "xaxis": axis
        | {
            "range": [-_MARGIN * end, end], "showgrid": False, "showline": True, "linecolor": colours.grid,
            "title": {"text": "MLP channels removed", "font": {"color": colours.muted, "size": 14}},
        },
        "yaxis": axis | {"range": list(y_range), "gridcolor": colours.grid, "nticks": 6, "ticklabelstandoff": 6},
    }  # fmt: skip


def _sparsity(record: Record) -> float:
    return record.pruned.mlp_sparsity if record.pruned else 0.0


def _percent(record: Record) -> float:
    return 100 * record.last_word.accuracy


def _interval(record: Record) -> tuple[float, float]:
    low, high = wilson(record.last_word.right, record.last_word.total)
    return 100 * low, 100 * high


def _accuracy_words(record: Record) -> str:
    low, high = _interval(record)
    return f"{_percent(record):.1f} % ({low:.1f} to {high:.1f})"


def _hover(record: Record) -> str:
    score = record.last_word
    removed = f"{100 * _sparsity(record):.1f} % removed<br>" if record.pruned else ""
    return f"{removed}{score.right:,} of {score.total:,} right<br>{_accuracy_words(record)}"


def _end_of_axis(sparse: Sequence[Record], asked: Sequence[int]) -> float:
    """The right end of the sparsity axis in percent: a little beyond the largest sparsity."""
    largest = max([*(100 * _sparsity(r) for r in sparse), *(value / 10 for value in asked), 1.0])
    return min(100.0, largest * 1.06)


def _range(records: Sequence[Record]) -> tuple[float, float]:
    """Percent range that holds every interval with some air, within 0 to 100."""
    lows, highs = zip(*(_interval(record) for record in records), strict=True)
    air = max(2.0, 0.08 * (max(highs) - min(lows)))
    return max(0.0, min(lows) - air), min(100.0, max(highs) + air)


def _spread(heights: list[float], gap: float) -> list[float]:
    """The heights, moved apart just enough to be at least `gap` from each other; in the order given."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    spread = [heights[i] for i in order]
    for _ in spread:
        for i in range(1, len(spread)):
            overlap = gap - (spread[i] - spread[i - 1])
            if overlap > 0:
                spread[i - 1] -= overlap / 2
                spread[i] += overlap / 2
    return [spread[order.index(i)] for i in range(len(heights))]
