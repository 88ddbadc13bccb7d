"""The trade-off chart: every method's line against measured sparsity, with intervals, dense drawn across.

A point so far below the others that these would lie in one band stands at the lower edge, with an arrow and its value:
word perplexity has no bound, so one hopeless model would draw its axis out.
"""

from collections.abc import Mapping, Sequence
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
    Theme,
    annotation,
    band_across,
    chart_frame,
    error_bars,
    label_layout,
    line_across,
    room_for,
    spread_apart,
    wrap_label,
    x_axis,
    y_axis,
)
from sparsedash.reporting.charts.tradeoff_data import (
    FARTHEST_BELOW,
    MARGIN,
    Measure,
    Point,
    Reading,
    Role,
    TradeoffData,
    measure_range,
    measure_ticks,
    sparsity_axis_end,
)
from sparsedash.stats.tolerance import Verdict

HEIGHT = 380
TITLES: dict[Measure, str] = {
    "word perplexity": "Word perplexity relative to dense, ×; lower is worse",
    "accuracy": "Last-word accuracy, points above or below dense",
    "flips": "Answers fixed (above) and broken (below), % of {total:,}",
    "share right": "Last word right, % of {total:,} passages",
}
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
VERDICT_GLYPHS: dict[Verdict | Literal[""], str] = {"within": "✓", "beyond": "✕", "undecided": "?", "": ""}
PUBLISHED = "published"
_TOP, _BOTTOM, _LEFT = 44, 52, 52
_FEW = 3
_LEAST_APART, _MOST_APART = 0.02, 0.08
"""How far apart the points of two methods are drawn at least, so that each can be clicked, and those of all methods
together at most, as shares of the axis.
"""
_BANDS, _DEEPEST, _MIDDLE = 12, 2, 4
"""A point may stand at its own place so many times as far below dense as the tolerance, and so many times as far as
the deepest point of the leading line, unless its middle one says less: a sweep up to 90 % draws its axis out by itself.
"""
_FAR_ROOM = 0.14
"""Of the height of the others, kept free below them for the points at the edge."""
_ARROW = 18
"""Pixels from a mark down to the tip of its arrow."""
_VERDICT_ROW = 18
"""Pixels from row to row of verdicts under the axis."""


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


def tradeoff_chart(tradeoff: TradeoffData, measure: Measure = "word perplexity", theme: Theme = "light") -> go.Figure:
    """The chart of one measure against measured MLP sparsity, every value with its 95 % interval."""
    tradeoff = clip_far_points(tradeoff, measure)
    colours, end, y_range = PALETTES[theme], sparsity_axis_end(tradeoff), measure_range(tradeoff, measure)
    lines, dense = chart_lines(tradeoff, end), tradeoff.dense_value(measure)
    traces = tolerance_and_dense(tradeoff, measure, (-MARGIN * end, end), colours)
    labels = [Label(y=dense, lines=["dense"], colour=colours.dense)]
    for line in lines:
        drawn, ends = _line_traces(tradeoff, line, measure, colours)
        traces, labels = traces + drawn, labels + ends
    traces.append(dense_point(tradeoff, 0, measure, colours))
    notes = far_notes(_far_groups(lines, measure), colours)
    # Verdicts of several lines stand in rows under the axis: beside their marks they would cover each other.
    judged = measure in tradeoff.allowed and len(lines) > 1
    below = _VERDICT_ROW * len(lines) + 6 if judged else 0
    if judged:
        notes += _verdict_rows(lines, colours)
    if measure == "share right" and tradeoff.published:
        traces.append(_published_trace(tradeoff.published, colours))
        last = tradeoff.published[-1]
        notes.append(
            annotation(PUBLISHED, last.sparsity_permille / 10, 100 * last.sparse, colours.muted, 13, yshift=-16)
        )
    if measure == "share right" and tradeoff.live:
        traces += [_live_trace(tradeoff, line, end, colours) for line in lines if line.label == tradeoff.live.label]
    height = max(HEIGHT - _TOP - _BOTTOM, room_for(labels))
    layout = chart_frame(
        TITLES[measure].format(total=tradeoff.n_passages), round(height) + _TOP + _BOTTOM + below, colours
    )
    layout |= _axes(tradeoff, measure, (end, y_range), below, colours)
    layout |= label_layout(labels, y_range, height, colours)
    layout["annotations"] += notes
    return go.Figure(traces, layout)


def clicked_record(points: Sequence[Mapping[str, Any]]) -> str:
    """The key of the record whose point was clicked; empty where it was another point, or none."""
    data = points[0].get("customdata") if points else None
    return str(data[1]) if isinstance(data, list | tuple) and len(data) == 2 else ""


def tradeoff_words(tradeoff: TradeoffData, measure: Measure = "word perplexity") -> str:
    """What `tradeoff_chart` shows, for screen readers."""
    total, shares, judged = tradeoff.n_passages, measure == "share right", measure in tradeoff.allowed
    parts = [f"dense {tradeoff.dense.readings[measure][0].words}"] if shares else []
    for label, points in tradeoff.lines.items():
        parts += [
            f"{label} at {p.sparsity:.1f} % {p.readings[measure][0].words}{f', {p.verdict}' if judged else ''}"
            for p in _by_sparsity(points)
        ]
    what = {
        "word perplexity": f"Word perplexity over {total:,} passages",
        "accuracy": f"Change of accuracy over {total:,} last words",
        "flips": f"Answers of {total:,} that broke or were fixed",
        "share right": f"Share of {total:,} last words right",
    }[measure]
    published = "".join(
        f" Published: dense {100 * row.dense:.2f} %, at {row.sparsity_permille / 10:g} % {100 * row.sparse:.2f} %."
        for row in (tradeoff.published if shares else ())
    )
    return f"{what} against the share of {tradeoff.taken}, with 95 % intervals: {'; '.join(parts)}.{published}"


def chart_lines(tradeoff: TradeoffData, end: float) -> list[Line]:
    """The lines of the chart; also those that have no point yet. end: of the x axis."""
    n, symbols, at = len(tradeoff.lines), list(SYMBOLS), places(tradeoff, end)
    return [
        Line(
            label=label,
            points=(ordered := _by_sparsity(points)),
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
    step = min(_LEAST_APART * end, _MOST_APART * end / n, closest / n) if n else 0.0
    found: dict[tuple[str, int], float] = {}
    for permille in asked:
        group = [place for place in wanted if place[1] == permille]
        found |= zip(group, spread_apart([wanted[place] for place in group], [step] * len(group)), strict=True)
    return found


def role_colours(role: Role, colours: Palette) -> tuple[str, str]:
    """The colours of a role's marks and of its label."""
    return {
        "sparse": (colours.sparse, colours.sparse_text),
        "broke": (colours.broke, colours.broke),
        "mended": (colours.mended, colours.mended),
    }[role]


def verdict_colour(verdict: Verdict | Literal[""], colours: Palette) -> str:
    """The colour of a verdict's sign."""
    return {"within": colours.mended, "beyond": colours.broke}.get(verdict, colours.muted)


def tolerance_and_dense(
    tradeoff: TradeoffData, measure: Measure, ends: tuple[float, float], colours: Palette
) -> list[dict[str, Any]]:
    """The ground of a chart: the tolerance as a band under dense, dense across, with its interval if it has one."""
    top, traces = tradeoff.dense_value(measure), []
    if measure in tradeoff.allowed:
        traces.append(band_across(ends, top - tradeoff.allowed[measure], top, colours.allowed, "allowed"))
    if measure == "share right":
        (reading,) = tradeoff.dense.readings[measure]
        traces.append(band_across(ends, reading.low, reading.high, colours.band, "95 % interval of dense"))
    return [*traces, line_across(ends, top, colours.dense, "dense")]


def dense_point(tradeoff: TradeoffData, x: float, measure: Measure, colours: Palette) -> dict[str, Any]:
    """The dense model's own point."""
    return {
        "x": [x],
        "y": [tradeoff.dense_value(measure)],
        "mode": "markers",
        "marker": {"color": colours.dense, "size": 10},
        "cliponaxis": False,
        "name": "dense",
        "hovertemplate": "<br>".join(["dense", *tradeoff.dense.facts]) + "<extra></extra>",
    }


def _by_sparsity(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda point: point.sparsity)


def _line_traces(
    tradeoff: TradeoffData, line: Line, measure: Measure, colours: Palette
) -> tuple[list[Any], list[Label]]:
    """The traces of one method and its labels: one that only keeps the room where it has no point yet.

    Broken and fixed answers are two strands of marks. Where marks stand at the edge of the chart, the line by itself
    leads to where they belong, and is cut off there.
    """
    sign = "" if line.alone else f"{SYMBOLS[line.symbol]} "
    if not line.points:
        live = tradeoff.live if measure == "share right" else None
        y = live.reading.value if live is not None and live.label == line.label else None
        return [], [Label(y=y, lines=wrap_label(line.label, sign), colour=colours.sparse_text)]
    traces, labels = [], []
    for readings in zip(*(point.readings[measure] for point in line.points), strict=True):
        role, marks = readings[0].role, _marks(tradeoff, line, measure, readings, colours)
        if any(reading.farther is not None for reading in readings):
            heights = [tradeoff.dense_value(measure), *(reading.place for reading in readings)]
            whole = {"x": marks["x"], "y": heights, "mode": "lines", "line": marks["line"]}
            traces.append(whole | {"name": "line", "hoverinfo": "skip"})
            marks["mode"] = "markers+text"
        traces.append(marks)
        if line.alone or role != "mended":
            text = role if line.alone and role != "sparse" else line.label
            text = "fixed" if text == "mended" else text
            y, colour = readings[-1].value, role_colours(role, colours)[1]
            labels.append(Label(y=y, lines=wrap_label(text, sign), colour=colour))
    return traces, labels


def _marks(
    tradeoff: TradeoffData, line: Line, measure: Measure, readings: Sequence[Reading], colours: Palette
) -> dict[str, Any]:
    """One line of marks with intervals, from dense on; hollow marks stand for fewer passages than dense has."""
    dense, (colour, _) = tradeoff.dense_value(measure), role_colours(readings[0].role, colours)
    judged = line.alone and measure in tradeoff.allowed
    verdicts = [point.verdict for point in line.points]
    symbols = [f"{line.symbol}-open" if point.hollow else line.symbol for point in line.points]
    said = [
        "<br>".join([f"{line.label}, {reading.words}", *point.facts])
        for point, reading in zip(line.points, readings, strict=True)
    ]
    bars = [(dense, dense, dense), *((reading.value, reading.low, reading.high) for reading in readings)]
    return {
        "x": [0.0, *line.places],
        "y": [value for value, _, _ in bars],
        "mode": "lines+markers+text",
        "text": ["", *(VERDICT_GLYPHS[verdict] if judged else "" for verdict in verdicts)],
        "textposition": "top right",
        "textfont": {"size": 14, "color": [colours.muted, *(verdict_colour(v, colours) for v in verdicts)]},
        "name": readings[0].role,
        "line": {"color": colour, "width": 2.5 if line.strong else 1.25, "dash": line.dash},
        "marker": {
            "color": colour,
            "symbol": [line.symbol, *symbols],
            "size": [0] + [7 if line.crowded else 9] * len(readings),
            "opacity": 1,
            "line": {"color": colour, "width": [0, *(2 if point.hollow else 0 for point in line.points)]},
        },
        "error_y": error_bars(bars, colour, 1.25 if line.strong else 0.75, 5 if line.strong else 3),
        "cliponaxis": False,
        "customdata": [["", ""], *([words, point.key] for words, point in zip(said, line.points, strict=True))],
        "hovertemplate": "%{customdata[0]}<extra></extra>",
    }


def _live_trace(tradeoff: TradeoffData, line: Line, end: float, colours: Palette) -> dict[str, Any]:
    """The model that is answering now: its share right so far, with its interval, at the sparsity asked for."""
    assert tradeoff.live is not None
    reading, outline = tradeoff.live.reading, {"color": colours.sparse, "width": 2}
    return {
        "x": [places(tradeoff, end)[line.label, tradeoff.live.permille]],
        "y": [reading.value],
        "mode": "markers",
        "name": "live",
        "marker": {"color": colours.sparse, "symbol": f"{line.symbol}-open-dot", "size": 12, "line": outline},
        "error_y": error_bars([(reading.value, reading.low, reading.high)], colours.sparse, 1.25, 5),
        "cliponaxis": False,
        "customdata": [f"{line.label}, answering<br>{tradeoff.live.words}"],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _published_trace(rows: Sequence[PublishedRow], colours: Palette) -> dict[str, Any]:
    """Published results as grey diamonds, open for dense."""
    points = [(0.0, 100 * row.dense, "dense") for row in rows]
    points += [(row.sparsity_permille / 10, 100 * row.sparse, "sparse") for row in rows]
    return {
        "x": [x for x, _, _ in points],
        "y": [share for _, share, _ in points],
        "mode": "markers",
        "name": PUBLISHED,
        "cliponaxis": False,
        "marker": {
            "color": colours.muted,
            "size": 11,
            "line": {"color": colours.muted, "width": 1.5},
            "symbol": ["diamond-open" if kind == "dense" else "diamond" for _, _, kind in points],
        },
        "customdata": [f"published, {kind}<br>{share:.2f} %" for _, share, kind in points],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _verdict_rows(lines: Sequence[Line], colours: Palette) -> list[dict[str, Any]]:
    """Notes under the axis: the mark of each line left of it, its verdicts under the sparsities."""
    middles: dict[int, list[float]] = {}
    for line in lines:
        for point, place in zip(line.points, line.places, strict=True):
            middles.setdefault(point.permille, []).append(place)
    notes = []
    for row, line in enumerate(lines):
        below: dict[str, Any] = {"yref": "paper", "yshift": -_VERDICT_ROW * (row + 0.7)}
        mark: dict[str, Any] = {"xref": "paper", "xshift": -16}
        notes.append(annotation(SYMBOLS[line.symbol], 0, 0, colours.sparse_text, **below, **mark))
        for point in line.points:
            x, colour = fmean(middles[point.permille]), verdict_colour(point.verdict, colours)
            notes.append(annotation(VERDICT_GLYPHS[point.verdict], x, 0, colour, **below))
    return notes


def _axes(
    tradeoff: TradeoffData, measure: Measure, reach: tuple[float, tuple[float, float]], below: int, colours: Palette
) -> dict[str, Any]:
    """Both axes. reach: the end of the x axis and the range of the y axis. below: pixels kept free under the x axis."""
    end, y_range = reach
    # Beside points that do not stand where they belong no number of the axis holds.
    edges = [reading.value for point in tradeoff.sparse for reading in point.readings[measure] if reading.farther]
    marked = (max(y_range[0], *edges), y_range[1]) if edges else y_range
    across = x_axis(tradeoff.taken, colours, range=[-MARGIN * end, end], ticksuffix=" %")
    across["title"]["standoff"] = below + 12
    return {
        "margin": {"l": _LEFT, "t": _TOP, "b": _BOTTOM + below},
        "xaxis": across | {"ticklabelstandoff": below},
        "yaxis": y_axis(colours, range=list(y_range), **measure_ticks(measure, marked)),
    }


def clip_far_points(tradeoff: TradeoffData, measure: Measure) -> TradeoffData:
    """The same data with every point that is too far down at the edge: its reading is `farther` than it stands.

    Never an undecided one, whose whole interval has to be seen, nor one that the others leave room for.
    """
    far = _far_keys(tradeoff) if measure == "word perplexity" else set()
    if not far:
        return tradeoff
    near = [_reading(point) for point in tradeoff.sparse if point.key not in far]
    bottom, top = _bottom(tradeoff, near), max([0.0, *(reading.high for reading in near)])
    edge = bottom - _FAR_ROOM * (top - bottom)

    def clip(point: Point) -> Point:
        reading = replace(_reading(point), value=edge, low=edge, high=edge, farther=_reading(point).value)
        return replace(point, readings={**point.readings, "word perplexity": (reading,)})

    lines = {
        label: [clip(point) if point.key in far else point for point in points]
        for label, points in tradeoff.lines.items()
    }
    return replace(tradeoff, lines=lines)


def far_words(tradeoff: TradeoffData, measure: Measure) -> str:
    """What the arrows mean; nothing where there are none."""
    if clip_far_points(tradeoff, measure) is tradeoff:
        return ""
    return "An arrow at the lower edge: the point lies farther down, at the value that stands there."


def far_notes(groups: Sequence[Sequence[tuple[float, Reading, str]]], colours: Palette) -> list[dict[str, Any]]:
    """Arrows and values of points at the edge as annotations.

    groups: of points with one common text: for each its x, its reading, and the sign before its value.
    """
    notes = []
    for group in groups:
        for x, reading, _ in group:
            arrow = {"ax": 0, "ay": -_ARROW, "yshift": -_ARROW, "showarrow": True, "arrowhead": 2, "arrowwidth": 1.25}
            notes.append(annotation("", x, reading.value, colours.sparse, arrowcolor=colours.sparse) | arrow)
        values = "<br>".join(f"{sign} {short_times(-reading.place)}".strip() for _, reading, sign in group)
        x, edge = fmean(x for x, *_ in group), group[0][1].value
        notes.append(annotation(values, x, edge, colours.sparse_text, 11, yanchor="bottom", yshift=7))
    return notes


def _far_groups(lines: Sequence[Line], measure: Measure) -> list[list[tuple[float, Reading, str]]]:
    """The points at the edge, sparsity by sparsity; each with its mark where there are several."""
    found: dict[int, list[tuple[float, Reading, str]]] = {}
    for line in lines:
        for point, place in zip(line.points, line.places, strict=True):
            reading = point.readings[measure][0]
            if reading.farther is not None:
                found.setdefault(point.permille, []).append((place, reading, SYMBOLS[line.symbol]))
    return [group if len(group) > 1 else [(x, reading, "") for x, reading, _ in group] for group in found.values()]


def short_times(nats: float) -> str:
    """A factor in few letters, for where points stand close: "934×", "13k×", ">1M×"."""
    if nats >= FARTHEST_BELOW:
        return ">1M×"
    thousands = exp(nats) / 1000
    if thousands < 0.9995:
        return f"{1000 * thousands:.0f}×"
    return f"{thousands:.1f}k×" if thousands < 9.95 else f"{thousands:.0f}k×"


def _far_keys(tradeoff: TradeoffData) -> set[str]:
    """The keys of the points that are too far down."""
    leading = tradeoff.lines.get(tradeoff.leader) or tradeoff.sparse
    if not leading:
        return set()
    depths = [-_reading(point).low for point in leading]
    allowed = tradeoff.allowed.get("word perplexity", 0.0)
    limit = -max(_BANDS * allowed, min(_DEEPEST * max(depths), _MIDDLE * median_high(depths)))
    near = [point for point in tradeoff.sparse if _reading(point).value >= limit or point.verdict == "undecided"]
    if not near:
        return set()
    bottom = _bottom(tradeoff, [_reading(point) for point in near])
    return {point.key for point in tradeoff.sparse if _reading(point).value < bottom} - {point.key for point in near}


def _bottom(tradeoff: TradeoffData, near: Sequence[Reading]) -> float:
    return min([-tradeoff.allowed.get("word perplexity", 0.0), *(min(r.low, r.value) for r in near)])


def _reading(point: Point) -> Reading:
    return point.readings["word perplexity"][0]
