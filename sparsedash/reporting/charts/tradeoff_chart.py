"""The trade-off chart: every method's line against measured sparsity, with intervals, dense drawn across."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import exp
from statistics import fmean, median_high
from typing import Any, Literal

import plotly.graph_objects as go

from sparsedash.catalog.published_results import PublishedRow
from sparsedash.reporting.charts.chart_style import (
    PALETTES,
    Label,
    Palette,
    Panel,
    Theme,
    chart_frame,
    fixed_axis,
    label_layout,
    room_for,
    spread_apart,
    wrap_label,
)
from sparsedash.reporting.charts.tradeoff_data import (
    FARTHEST_BELOW,
    MARGIN,
    Measure,
    Point,
    Reading,
    Role,
    TradeoffData,
    by_sparsity,
    measure_range,
    measure_ticks,
    sparsity_axis_end,
)
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
_LEAST_APART = 0.02
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


def chart_lines(tradeoff: TradeoffData, end: float) -> list[Line]:
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
    step = min(_LEAST_APART * end, _FAR_APART * end / n, closest / n) if n else 0.0
    found: dict[tuple[str, int], float] = {}
    for permille in asked:
        group = [place for place in wanted if place[1] == permille]
        middles = spread_apart([wanted[place] for place in group], [step] * len(group))
        found |= zip(group, middles, strict=True)
    return found


def role_colours(role: Role, colours: Palette) -> tuple[str, str]:
    """The colours of a role's marks and of its label."""
    return {
        "sparse": (colours.sparse, colours.sparse_text),
        "broke": (colours.broke, colours.broke),
        "mended": (colours.mended, colours.mended),
    }[role]


def verdict_sign(verdict: Verdict | Literal[""]) -> str:
    """The sign of a verdict; nothing for dense."""
    return _GLYPHS[verdict]


def verdict_colour(verdict: Verdict | Literal[""], colours: Palette) -> str:
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
        hovertemplate=f"{_hover_words('dense', tradeoff.dense)}<extra></extra>",
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
    colour, _ = role_colours(found[0].role, colours)
    judged = line.alone and measure in tradeoff.allowed
    hollow = [point.hollow for point in line.points]
    said = [_hover_words(f"{line.label}, {r.words}", point) for point, r in zip(line.points, found, strict=True)]
    return go.Scatter(
        x=[0.0, *line.places],
        y=[tradeoff.dense_value(measure), *(r.value for r in found)],
        mode="lines+markers+text",
        text=["", *(_GLYPHS[point.verdict] if judged else "" for point in line.points)],
        textposition="top right",
        textfont={
            "size": 14,
            "color": [colours.muted, *(verdict_colour(point.verdict, colours) for point in line.points)],
        },
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


def _hover_words(first: str, point: Point) -> str:
    return "<br>".join([first, *point.facts])


_EXPLAINED = "An arrow at the lower edge: the point lies farther down, at the value that stands there."
_BANDS, _DEEPEST, _MIDDLE = 12, 2, 4
"""A point may stand at its own place so many times as far below dense as what may be lost, and so many times as far as
the deepest point of the leading line, unless its middle one says less: a sweep up to 90 % draws its axis out by itself.
"""
_ROOM = 0.14
"""Of what the others take, kept free below them for the points at the edge."""
_SIZE = 11
"""Pixels of the letters of a value."""
ARROW, _UP = 18, 7
"""Pixels from a mark down to the tip of its arrow, and up to its value."""


@dataclass(frozen=True, kw_only=True)
class FarGroup:
    """The points at the edge of one sparsity. places: on the x axis. edge: on the y axis. said: their values."""

    places: Sequence[float]
    edge: float
    said: Sequence[str]


def clip_far_points(tradeoff: TradeoffData, measure: Measure) -> TradeoffData:
    """The same data with every point that is too far down at the edge: its reading is `farther` than it stands.

    None that is undecided, whose whole interval has to be seen, and none that the others leave room for.
    """
    if measure != "word perplexity":
        return tradeoff
    far = _far(tradeoff)
    if not far:
        return tradeoff
    near = [_reading(point) for point in tradeoff.sparse if point.key not in far]
    bottom, top = _bottom(tradeoff, near), max([0.0, *(reading.high for reading in near)])
    edge = bottom - _ROOM * (top - bottom)
    lines = {
        label: [_at(edge, point) if point.key in far else point for point in points]
        for label, points in tradeoff.lines.items()
    }
    return replace(tradeoff, lines=lines)


def far_words(tradeoff: TradeoffData, measure: Measure) -> str:
    """What the arrows mean; nothing where there are none."""
    drawn = clip_far_points(tradeoff, measure)
    return _EXPLAINED if any(_is_far(point, measure) for point in drawn.sparse) else ""


def far_groups(lines: Sequence[Line], measure: Measure) -> list[FarGroup]:
    """The points at the edge, sparsity by sparsity. lines: of data whose far points stand there."""
    found: dict[int, list[tuple[float, float, str, str]]] = {}
    for line in lines:
        for point, place in zip(line.points, line.places, strict=True):
            reading = point.readings[measure][0]
            if reading.farther is not None:
                stands = (place, reading.value, SYMBOLS[line.symbol], short_times(-reading.farther))
                found.setdefault(point.permille, []).append(stands)
    return [
        FarGroup(
            places=[place for place, *_ in group],
            edge=group[0][1],
            said=[f"{sign} {said}" if len(group) > 1 else said for *_, sign, said in group],
        )
        for group in found.values()
    ]


def far_notes(groups: Sequence[FarGroup], colours: Palette) -> list[dict[str, Any]]:
    """Their arrows and values as annotations."""
    notes = []
    for group in groups:
        notes += [_arrow(place, group.edge, colours) for place in group.places]
        notes.append(_values(group, colours))
    return notes


def short_times(nats: float) -> str:
    """A factor in few letters, for where points stand close: "934×", "13k×", ">1M×"."""
    if nats >= FARTHEST_BELOW:
        return ">1M×"
    thousands = exp(nats) / 1000
    if thousands < 0.9995:
        return f"{1000 * thousands:.0f}×"
    return f"{thousands:.1f}k×" if thousands < 9.95 else f"{thousands:.0f}k×"


def _far(tradeoff: TradeoffData) -> Collection[str]:
    """The keys of the points that are too far down."""
    leading = tradeoff.lines.get(tradeoff.leader) or tradeoff.sparse
    if not leading:
        return []
    allowed = tradeoff.allowed.get("word perplexity", 0.0)
    depths = [-_reading(point).low for point in leading]
    limit = -max(_BANDS * allowed, min(_DEEPEST * max(depths), _MIDDLE * median_high(depths)))
    near = [point for point in tradeoff.sparse if _reading(point).value >= limit or point.verdict == "undecided"]
    if not near:
        return []
    bottom = _bottom(tradeoff, [_reading(point) for point in near])
    return {point.key for point in tradeoff.sparse if _reading(point).value < bottom} - {point.key for point in near}


def _bottom(tradeoff: TradeoffData, near: Sequence[Reading]) -> float:
    return min([-tradeoff.allowed.get("word perplexity", 0.0), *(min(r.low, r.value) for r in near)])


def _is_far(point: Point, measure: Measure) -> bool:
    return point.readings[measure][0].farther is not None


def _reading(point: Point) -> Reading:
    return point.readings["word perplexity"][0]


def _at(edge: float, point: Point) -> Point:
    reading = _reading(point)
    moved = replace(reading, value=edge, low=edge, high=edge, farther=reading.value)
    return replace(point, readings={**point.readings, "word perplexity": (moved,)})


def _arrow(place: float, edge: float, colours: Palette) -> dict[str, Any]:
    return {
        "x": place,
        "y": edge,
        "xref": "x",
        "yref": "y",
        "ax": 0,
        "ay": -ARROW,
        "yshift": -ARROW,
        "showarrow": True,
        "arrowhead": 2,
        "arrowwidth": 1.25,
        "arrowcolor": colours.sparse,
        "text": "",
    }


def _values(group: FarGroup, colours: Palette) -> dict[str, Any]:
    return {
        "x": fmean(group.places),
        "y": group.edge,
        "xref": "x",
        "yref": "y",
        "yanchor": "bottom",
        "yshift": _UP,
        "text": "<br>".join(group.said),
        "showarrow": False,
        "font": {"color": colours.sparse_text, "size": _SIZE},
    }


_VERDICT_ROW = 18
"""Pixels from row to row."""


def rows_height(n_lines: int) -> int:
    """The pixels that the rows of so many lines need under the axis; none for one line."""
    return _VERDICT_ROW * n_lines + 6 if n_lines > 1 else 0


def verdict_rows(lines: list[Line], colours: Palette) -> list[dict[str, Any]]:
    """The rows as annotations: the mark of each line left of the axis, its verdicts under the sparsities."""
    if len(lines) < 2:
        return []
    middles: dict[int, list[float]] = {}
    for line in lines:
        for point, place in zip(line.points, line.places, strict=True):
            middles.setdefault(point.permille, []).append(place)
    notes = []
    for row, line in enumerate(lines):
        notes.append(_note(SYMBOLS[line.symbol], colours.sparse_text, row) | {"xref": "paper", "x": 0, "xshift": -16})
        notes += [
            _note(verdict_sign(point.verdict), verdict_colour(point.verdict, colours), row)
            | {"x": fmean(middles[point.permille])}
            for point in line.points
        ]
    return notes


def _note(text: str, colour: str, row: int) -> dict[str, Any]:
    return {
        "text": text,
        "font": {"color": colour, "size": 14},
        "showarrow": False,
        "xref": "x",
        "xanchor": "center",
        "yref": "paper",
        "y": 0,
        "yanchor": "middle",
        "yshift": -_VERDICT_ROW * (row + 0.7),
    }


NAME = "published"


def published_traces(rows: Sequence[PublishedRow], colours: Palette) -> list[Any]:
    """Published points on an accuracy chart, as grey diamonds, open for dense; none without rows."""
    points = _points(rows)
    if not points:
        return []
    points_trace = go.Scatter(
        x=[x for x, _, _ in points],
        y=[100 * share for _, share, _ in points],
        mode="markers",
        name=NAME,
        cliponaxis=False,
        marker={
            "color": colours.muted,
            "size": 11,
            "line": {"color": colours.muted, "width": 1.5},
            "symbol": ["diamond-open" if kind == "dense" else "diamond" for _, _, kind in points],
        },
        customdata=[f"published, {kind}<br>{100 * share:.2f} %" for _, share, kind in points],
        hovertemplate="%{customdata}<extra></extra>",
    )
    return [points_trace]


def published_notes(rows: Sequence[PublishedRow], colours: Palette) -> list[dict[str, Any]]:
    """The name of these points, under the last of them; none without rows."""
    return [
        {
            "x": x,
            "y": 100 * share,
            "text": NAME,
            "showarrow": False,
            "yshift": -16,
            "font": {"color": colours.muted, "size": 13},
        }
        for x, share, _ in _points(rows)[-1:]
    ]


def _points(rows: Sequence[PublishedRow]) -> list[tuple[float, float, str]]:
    """Sparsity in percent, accuracy, and which model it is of."""
    dense = [(0.0, row.dense, "dense") for row in rows]
    return dense + [(row.sparsity_permille / 10, row.sparse, "sparse") for row in rows]


def published_words(rows: Sequence[PublishedRow]) -> str:
    """What `published_traces` shows, for those who do not see it; empty without rows."""
    return "".join(
        f" Published: dense {100 * row.dense:.2f} %, at {row.sparsity_permille / 10:g} % {100 * row.sparse:.2f} %."
        for row in rows
    )


HEIGHT = 380
TITLES: dict[Measure, str] = {
    "word perplexity": "Word perplexity, times that of dense; further down is worse",
    "accuracy": "Last words right, points more or fewer than dense",
    "flips": "Answers mended above, broke below, % of {total:,}",
    "share right": "Last word right, % of {total:,} passages",
}
_TOP, _BOTTOM, _LEFT = 44, 52, 52


def tradeoff_chart(tradeoff: TradeoffData, measure: Measure = "word perplexity", theme: Theme = "light") -> go.Figure:
    """The chart of one measure against measured MLP sparsity, every value with its 95 % interval."""
    tradeoff = clip_far_points(tradeoff, measure)
    colours, end, y_range = PALETTES[theme], sparsity_axis_end(tradeoff), measure_range(tradeoff, measure)
    lines = chart_lines(tradeoff, end)
    labels = [Label(y=tradeoff.dense_value(measure), lines=["dense"], colour=colours.dense)]
    traces = allowed_band(tradeoff, measure, end, colours) + dense_marks(tradeoff, measure, end, colours)
    for line in lines:
        drawn, ends = _line(tradeoff, line, measure, colours)
        traces, labels = traces + drawn, labels + ends
    traces.append(dense_point(tradeoff, measure, colours))
    height = max(HEIGHT - _TOP - _BOTTOM, room_for(labels))
    title = TITLES[measure].format(total=tradeoff.n_passages)
    below = rows_height(len(lines)) if measure in tradeoff.allowed else 0
    layout = chart_frame(title, round(height) + _TOP + _BOTTOM + below, colours)
    layout |= _axes(tradeoff, measure, (end, y_range), below, colours)
    layout |= label_layout(labels, Panel(y_range=y_range, height=height), colours)
    layout["annotations"] += far_notes(far_groups(lines, measure), colours)
    if below:
        layout["annotations"] += verdict_rows(lines, colours)
    if measure == "share right":
        traces += published_traces(tradeoff.published, colours)
        layout["annotations"] += published_notes(tradeoff.published, colours)
        traces += [
            live_trace(tradeoff, line, end, colours)
            for line in lines
            if tradeoff.live and line.label == tradeoff.live.label
        ]
    return go.Figure(traces, layout)


def clicked_record(points: Sequence[Mapping[str, Any]]) -> str:
    """The key of the record whose point was clicked; empty where it was another point, or none."""
    data = points[0].get("customdata") if points else None
    return str(data[1]) if isinstance(data, list | tuple) and len(data) == 2 else ""


def tradeoff_words(tradeoff: TradeoffData, measure: Measure = "word perplexity") -> str:
    """What `tradeoff_chart` shows, for those who do not see it."""
    total = tradeoff.n_passages
    parts = [f"dense {tradeoff.dense.readings[measure][0].words}"] if measure == "share right" else []
    judged = measure in tradeoff.allowed
    for label, points in tradeoff.lines.items():
        parts += [
            f"{label} at {p.sparsity:.1f} % {p.readings[measure][0].words}{f', {p.verdict}' if judged else ''}"
            for p in by_sparsity(points)
        ]
    what = {
        "word perplexity": f"Word perplexity over {total:,} passages",
        "accuracy": f"Change of accuracy over {total:,} last words",
        "flips": f"Answers of {total:,} that broke or were mended",
        "share right": f"Share of {total:,} last words right",
    }[measure]
    beside = published_words(tradeoff.published) if measure == "share right" else ""
    return f"{what} against the share of {tradeoff.taken}, with 95 % intervals: {'; '.join(parts)}.{beside}"


def _line(tradeoff: TradeoffData, line: Line, measure: Measure, colours: Palette) -> tuple[list[Any], list[Label]]:
    """The traces of one method and its labels: one that only keeps the room where it has no point yet."""
    found = strands(line, measure)
    traces = [each for ends in found.values() for each in strand_traces(tradeoff, line, measure, ends, colours)]
    if not found:
        live = tradeoff.live if measure == "share right" else None
        y = live.reading.value if live is not None and live.label == line.label else None
        return traces, [_label(line, line.label, y, colours.sparse_text)]
    labels = [
        _label(
            line,
            role if line.alone and role != "sparse" else line.label,
            ends[-1].value,
            role_colours(role, colours)[1],
        )
        for role, ends in found.items()
        if line.alone or role != "mended"
    ]
    return traces, labels


def _label(line: Line, text: str, y: float | None, colour: str) -> Label:
    sign = "" if line.alone else f"{SYMBOLS[line.symbol]} "
    return Label(y=y, lines=wrap_label(text, sign), colour=colour)


def _axes(
    tradeoff: TradeoffData, measure: Measure, reach: tuple[float, tuple[float, float]], below: int, colours: Palette
) -> dict[str, Any]:
    """Both axes. reach: the end of the x axis and the range of the y axis. below: pixels kept free under the x axis."""
    end, y_range = reach
    # Beside points that do not stand where they belong no number of the axis holds.
    edges = [reading.value for point in tradeoff.sparse for reading in point.readings[measure] if reading.farther]
    marked = (max(y_range[0], *edges), y_range[1]) if edges else y_range
    return {
        "margin": {"l": _LEFT, "t": _TOP, "b": _BOTTOM + below},
        "xaxis": fixed_axis(
            colours,
            range=[-MARGIN * end, end],
            ticksuffix=" %",
            showgrid=False,
            showline=True,
            linecolor=colours.grid,
            ticklabelstandoff=below,
            title={"text": tradeoff.taken, "font": {"color": colours.muted, "size": 14}, "standoff": below + 12},
        ),
        "yaxis": fixed_axis(
            colours, range=list(y_range), gridcolor=colours.grid, ticklabelstandoff=6, **measure_ticks(measure, marked)
        ),
    }
