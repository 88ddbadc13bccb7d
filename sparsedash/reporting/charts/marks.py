"""The marks of a trade-off chart: dense across, a line for each method, the model that is answering now."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Literal

import plotly.graph_objects as go

from sparsedash.reporting.charts.axes import MARGIN
from sparsedash.reporting.charts.labels import apart
from sparsedash.reporting.charts.palette import Palette
from sparsedash.reporting.charts.points import Measure, Point, Reading, Role, TradeoffData, by_sparsity
from sparsedash.stats.tolerance import Verdict

SYMBOLS = {
    "circle": "●",
    "square": "■",
    "diamond": "◆",
    "triangle-up": "▲",
    "triangle-down": "▼",
    "star": "★",
    "hexagon": "⬢",
    "bowtie": "⧓",
}
"""The marks that tell methods apart, by plotly's names, with the sign that stands before the method's label."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_GLYPHS: dict[Verdict | Literal[""], str] = {"within": "✓", "beyond": "✕", "undecided": "?", "": ""}
_FEW = 3
_APART = 0.02
"""How far apart the points of two methods are drawn at least, as a share of the axis, so that each can be read and
clicked.
"""
_FAR_APART = 0.08
"""How far those of all methods may be drawn apart altogether."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method's points by rising sparsity, where their marks stand, and what tells it from others.

    strong: drawn thicker than others. alone: whether it is the only one. crowded: whether there are many.
    """

    label: str
    points: Sequence[Point]
    places: Sequence[float]
    symbol: str
    dash: str
    strong: bool
    alone: bool
    crowded: bool


def lines_of(tradeoff: TradeoffData, end: float) -> list[Line]:
    """The lines of the chart; also those that have no point yet. end: of the x axis."""
    n, symbols, at = len(tradeoff.lines), list(SYMBOLS), places(tradeoff, end)
    return [
        Line(
            label=label,
            points=(ordered := by_sparsity(points)),
            places=[at[label, point.permille] for point in ordered],
            symbol=symbols[i % len(symbols)],
            dash=DASHES[i % len(DASHES)],
            strong=n == 1 or label == tradeoff.leader,
            alone=n == 1,
            crowded=n > _FEW,
        )
        for i, (label, points) in enumerate(tradeoff.lines.items())
    ]


def places(tradeoff: TradeoffData, end: float) -> dict[tuple[str, int], float]:
    """Where on the x axis each point stands, by its line and the per mille asked for.

    That is at its sparsity, in percent, and where methods would cover each other as near to it as can be, but never
    among the points of another sparsity. Points that are asked for and not there yet keep their place.
    """
    wanted = {place: place[1] / 10 for place in product(tradeoff.lines, tradeoff.asked)}
    wanted |= {(label, p.permille): p.sparsity for label, points in tradeoff.lines.items() for p in points}
    if tradeoff.live is not None:
        wanted.setdefault((tradeoff.live.label, tradeoff.live.permille), tradeoff.live.permille / 10)
    asked = sorted({permille for _, permille in wanted})
    closest = min((high - low for low, high in pairwise(asked)), default=1000) / 10
    n = len(tradeoff.lines)
    step = min(_APART * end, _FAR_APART * end / n, closest / n) if n else 0.0
    found: dict[tuple[str, int], float] = {}
    for permille in asked:
        group = [place for place in wanted if place[1] == permille]
        middles = apart([wanted[place] for place in group], [step] * len(group))
        found |= zip(group, middles, strict=True)
    return found


def ink(role: Role, colours: Palette) -> tuple[str, str]:
    """The colours of a role's marks and of its label."""
    return {
        "sparse": (colours.sparse, colours.sparse_text),
        "broke": (colours.broke, colours.broke),
        "mended": (colours.mended, colours.mended),
    }[role]


def glyph(verdict: Verdict | Literal[""]) -> str:
    """The sign of a verdict; nothing for dense."""
    return _GLYPHS[verdict]


def glyph_ink(verdict: Verdict | Literal[""], colours: Palette) -> str:
    """The colour of that sign."""
    return {"within": colours.mended, "beyond": colours.broke}.get(verdict, colours.muted)


def dense_marks(tradeoff: TradeoffData, measure: Measure, end: float, colours: Palette) -> list[Any]:
    """Dense drawn across, under everything; its share of right words with the band of its interval."""
    y = tradeoff.dense_value(measure)
    left = -MARGIN * end
    across = go.Scatter(
        x=[left, end], y=[y, y], mode="lines", line={"color": colours.dense, "width": 2}, hoverinfo="skip", name="dense"
    )
    if measure != "share right":
        return [across]
    (reading,) = tradeoff.dense.readings[measure]
    return [_band(reading.low, reading.high, end, colours.band, "95 % interval of dense"), across]


def allowed_band(tradeoff: TradeoffData, measure: Measure, end: float, colours: Palette) -> list[Any]:
    """What may be lost, from dense down, as a shaded band; nothing where a measure is not judged."""
    if measure not in tradeoff.allowed:
        return []
    top = tradeoff.dense_value(measure)
    return [_band(top - tradeoff.allowed[measure], top, end, colours.allowed, "allowed")]


def _band(low: float, high: float, end: float, colour: str, name: str) -> Any:
    left = -MARGIN * end
    return go.Scatter(
        x=[left, end, end, left],
        y=[low, low, high, high],
        fill="toself",
        mode="lines",
        fillcolor=colour,
        line={"width": 0},
        hoverinfo="skip",
        name=name,
    )


def dense_point(tradeoff: TradeoffData, measure: Measure, colours: Palette) -> Any:
    """The dense model's own point."""
    return go.Scatter(
        x=[0],
        y=[tradeoff.dense_value(measure)],
        mode="markers",
        marker={"color": colours.dense, "size": 10},
        cliponaxis=False,
        name="dense",
        hovertemplate=f"{_said('dense', tradeoff.dense)}<extra></extra>",
    )


def strands(line: Line, measure: Measure) -> dict[Role, list[Reading]]:
    """The readings of a line's points, grouped by what they count: broken and mended answers are two strands."""
    found: dict[Role, list[Reading]] = {}
    for point in line.points:
        for reading in point.readings[measure]:
            found.setdefault(reading.role, []).append(reading)
    return found


def strand_traces(
    tradeoff: TradeoffData, line: Line, measure: Measure, found: list[Reading], colours: Palette
) -> list[Any]:
    """One line of marks with intervals, from dense on; hollow marks stand for fewer passages than dense has.

    Where marks stand at the edge of the chart, the line by itself leads to where they belong, and is cut off there.
    """
    marks = _strand_marks(tradeoff, line, measure, found, colours)
    if all(reading.farther is None for reading in found):
        return [marks]
    across = go.Scatter(
        x=marks.x,
        y=[tradeoff.dense_value(measure), *(reading.place for reading in found)],
        mode="lines",
        name="line",
        line=marks.line,
        hoverinfo="skip",
    )
    return [across, marks.update(mode="markers+text")]


def _strand_marks(
    tradeoff: TradeoffData, line: Line, measure: Measure, found: list[Reading], colours: Palette
) -> go.Scatter:
    colour, _ = ink(found[0].role, colours)
    judged = line.alone and measure in tradeoff.allowed
    hollow = [point.hollow for point in line.points]
    said = [_said(f"{line.label}, {r.words}", point) for point, r in zip(line.points, found, strict=True)]
    return go.Scatter(
        x=[0.0, *line.places],
        y=[tradeoff.dense_value(measure), *(r.value for r in found)],
        mode="lines+markers+text",
        text=["", *(_GLYPHS[point.verdict] if judged else "" for point in line.points)],
        textposition="top right",
        textfont={"size": 14, "color": [colours.muted, *(glyph_ink(point.verdict, colours) for point in line.points)]},
        name=found[0].role,
        line={"color": colour, "width": 2.5 if line.strong else 1.25, "dash": line.dash},
        marker={
            "color": colour,
            "symbol": [line.symbol, *(f"{line.symbol}-open" if h else line.symbol for h in hollow)],
            "size": [0] + [7 if line.crowded else 9] * len(found),
            "opacity": 1,
            "line": {"color": colour, "width": [0, *(2 if h else 0 for h in hollow)]},
        },
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [0.0, *(r.high - r.value for r in found)],
            "arrayminus": [0.0, *(r.value - r.low for r in found)],
            "color": colour,
            "thickness": 1.25 if line.strong else 0.75,
            "width": 5 if line.strong else 3,
        },
        cliponaxis=False,
        customdata=[["", ""], *([s, point.key] for s, point in zip(said, line.points, strict=True))],
        hovertemplate="%{customdata[0]}<extra></extra>",
    )


def live_trace(tradeoff: TradeoffData, line: Line, end: float, colours: Palette) -> Any:
    """The model that is answering now: its share right so far, with its interval, at the sparsity asked for."""
    assert tradeoff.live is not None
    reading = tradeoff.live.reading
    return go.Scatter(
        x=[places(tradeoff, end)[line.label, tradeoff.live.permille]],
        y=[reading.value],
        mode="markers",
        name="live",
        marker={
            "color": colours.sparse,
            "symbol": f"{line.symbol}-open-dot",
            "size": 12,
            "line": {"color": colours.sparse, "width": 2},
        },
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [reading.high - reading.value],
            "arrayminus": [reading.value - reading.low],
            "color": colours.sparse,
            "thickness": 1.25,
            "width": 5,
        },
        cliponaxis=False,
        customdata=[f"{line.label}, answering<br>{tradeoff.live.words}"],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _said(first: str, point: Point) -> str:
    return "<br>".join([first, *point.facts])
