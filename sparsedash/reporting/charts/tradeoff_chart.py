"""The charts of loss: against measured sparsity, a line for each method, and against what is won in speed or bytes.

Intervals at every point, dense drawn across. A point far below the others stands at the lower edge, with an arrow and
its value.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import cycle, pairwise, product
from math import exp
from statistics import fmean
from typing import Any, Literal

import plotly.graph_objects as go

from sparsedash.catalog.published_results import PublishedRow
from sparsedash.reporting.charts import chart_style as style
from sparsedash.reporting.charts import tradeoff_data
from sparsedash.reporting.charts.chart_style import PALETTES, Label, Palette, Theme
from sparsedash.reporting.charts.tradeoff_data import Gained, LossAxis, Measure, Point, Reading, Role, TradeoffData
from sparsedash.stats.sparsity_search import pareto_front
from sparsedash.stats.tolerance import Verdict

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
_HEIGHT, _GAIN_HEIGHT = 380, 400
_TOP, _BOTTOM, _LEFT, _RIGHT = 44, 52, 52, 24
_LEGEND_ROW = 22
_FEW = 3
_LEAST_APART, _MOST_APART = 0.02, 0.08
"""How far apart the points of two methods are drawn at least, so that each can be clicked, and those of all methods
together at most, as shares of the axis.
"""
_ARROW = 18
"""Pixels from a mark down to the tip of its arrow."""
_VERDICT_ROW = 18
"""Pixels from row to row of verdicts under the axis."""
_AIR = 0.06

Mark = tuple[float, Point, Reading]
"""A point with one of its readings, and its place on the x axis."""


def tradeoff_chart(tradeoff: TradeoffData, measure: Measure = "word perplexity", theme: Theme = "light") -> go.Figure:
    """The chart of one measure against measured MLP sparsity, every value with its 95 % interval."""
    colours, end, axis = PALETTES[theme], tradeoff.sparsity_end, tradeoff_data.loss_axis(tradeoff, measure)
    n, dense, at = len(tradeoff.lines), tradeoff.dense_value(measure), places(tradeoff, end)
    judged = measure in tradeoff.allowed
    traces = _ground(tradeoff, measure, (-tradeoff_data.MARGIN * end, end), colours)
    labels = [Label(y=dense, lines=["dense"], colour=colours.dense)]
    rows: list[list[tuple[float, Point]]] = []
    for i, (label, points) in enumerate(tradeoff.lines.items()):
        shown = sorted((p for p in points if measure in p.readings), key=lambda p: (p.live, p.sparsity))
        placed = [(at[label, point.permille], point) for point in shown]
        rows.append([(x, point) for x, point in placed if not point.live])
        drawn, ends = _line(tradeoff, axis, i, placed, colours)
        traces, labels = traces + drawn, labels + ends
    traces.append(_dense_point(tradeoff, 0, measure, colours))
    far = [(p.permille, x, p.readings[measure][0], f"{_sign(i)} ") for i, row in enumerate(rows) for x, p in row]
    notes = _far_notes(far, axis, colours)
    # Verdicts of several lines stand in rows under the axis: beside their marks they would cover each other.
    below = _VERDICT_ROW * n + 6 if judged and n > 1 else 0
    if below:
        notes += _verdict_rows(rows, colours)
    if measure == "share right" and tradeoff.published:
        traces.append(_published_trace(tradeoff.published, colours))
        x, y = traces[-1]["x"][-1], traces[-1]["y"][-1]
        notes.append(style.annotation(PUBLISHED, x, y, colours.muted, 13, yshift=-16))
    height = max(_HEIGHT - _TOP - _BOTTOM, style.room_for(labels))
    across = style.x_axis(
        tradeoff.taken, colours, range=[-tradeoff_data.MARGIN * end, end], ticksuffix=" %", ticklabelstandoff=below
    )
    across["title"]["standoff"] = below + 12
    layout = style.chart_frame(
        TITLES[measure].format(total=tradeoff.n_passages),
        round(height) + _TOP + _BOTTOM + below,
        colours,
        margin={"l": _LEFT, "t": _TOP, "b": _BOTTOM + below},
        xaxis=across,
        yaxis=style.y_axis(colours, range=list(axis.range), **axis.ticks),
    )
    layout |= style.label_layout(labels, axis.range, height, colours)
    layout["annotations"] += notes
    return go.Figure(traces, layout)


def _line(
    tradeoff: TradeoffData, axis: LossAxis, at: int, placed: Sequence[tuple[float, Point]], colours: Palette
) -> tuple[list[Any], list[Label]]:
    """The traces of a method's line and its labels: one that only keeps the room where it has no point yet.

    at: which line it is. placed: its points with their place on the x axis, a live one last.
    """
    n, label, measure = len(tradeoff.lines), list(tradeoff.lines)[at], axis.measure
    symbol, dash = list(SYMBOLS)[at % len(SYMBOLS)], DASHES[at % len(DASHES)]
    sign, strong = "" if n == 1 else f"{_sign(at)} ", n == 1 or label == tradeoff.leader
    settled = [each for each in placed if not each[1].live]
    traces, labels = [], []
    for x, live in placed[len(settled) :]:
        marks = _marks(label, symbol, [(x, live, live.readings[measure][0])], axis, colours, strong=True)
        marks["marker"] |= {"symbol": f"{symbol}-open-dot", "size": 12}
        traces.append(marks | {"name": "live"})
    if not settled:
        y = traces[0]["y"][0] if traces else None
        return traces, [Label(y=y, lines=style.wrap_label(label, sign), colour=colours.sparse_text)]
    # Broken and fixed answers are two strands of marks.
    for readings in zip(*(point.readings[measure] for _, point in settled), strict=True):
        role, drawn = readings[0].role, [(x, p, r) for (x, p), r in zip(settled, readings, strict=True)]
        marks = _marks(label, symbol, drawn, axis, colours, strong=strong, size=7 if n > _FEW else 9)
        if n == 1 and measure in tradeoff.allowed:
            marks["text"] = [VERDICT_GLYPHS[point.verdict] for _, point in settled]
        # Through points at the edge the line leads to where they belong, and is cut off by the plot.
        heights = [tradeoff.dense_value(measure), *(reading.value for reading in readings)]
        stroke = {"color": marks["marker"]["color"], "width": 2.5 if strong else 1.25, "dash": dash}
        line = {"x": [0.0, *marks["x"]], "y": heights, "mode": "lines", "line": stroke, "hoverinfo": "skip"}
        traces += [line | {"name": "line"}, marks | {"name": role}]
        if n == 1 or role != "mended":
            text = {"sparse": label, "broke": "broke", "mended": "fixed"}[role] if n == 1 else label
            ink = getattr(colours, _INKS[role][1])
            labels.append(Label(y=marks["y"][-1], lines=style.wrap_label(text, sign), colour=ink))
    return traces, labels


def gain_chart(tradeoff: TradeoffData, gained: Gained, measure: Measure, theme: Theme = "light") -> go.Figure:
    """What is lost, by one measure, against what is won, the Pareto front joined. Only known gains are drawn."""
    front, colours, axis = (
        _front(tradeoff, gained, measure),
        PALETTES[theme],
        tradeoff_data.loss_axis(tradeoff, measure),
    )
    gains = {point.key: gained.gains[point.key] for point in tradeoff.sparse if point.key in gained.gains}
    bounds = [1.0, 1.05, *(bound for gain in gains.values() for bound in (gain.low, gain.high))]
    air = _AIR * (max(bounds) - min(bounds))
    low, high = min(bounds) - air, max(bounds) + air
    # The dense model's own interval would need a label.
    traces = [each for each in _ground(tradeoff, measure, (low, high), colours) if not each["name"].startswith("95 %")]
    traces[-1]["name"] = "across"
    joined = {"mode": "lines", "line": {"color": colours.sparse, "width": 2.5}, "hoverinfo": "skip"}
    traces.append({"x": [x for _, x, _ in front], "y": [y for *_, y in front], "name": "unbeaten"} | joined)
    far = []
    for symbol, (label, points) in zip(cycle(SYMBOLS), tradeoff.lines.items(), strict=False):
        drawn = [(gains[p.key].value, p, p.readings[measure][0]) for p in points if p.key in gains]
        if not drawn:
            continue
        known = [gains[point.key] for _, point, _ in drawn]
        marks = _marks(label, symbol, drawn, axis, colours, said=[gain.words for gain in known])
        glyphs = ["" if measure == "flips" else VERDICT_GLYPHS[point.verdict] for _, point, _ in drawn]
        marks["error_x"] = style.error_bars([(gain.value, gain.low, gain.high) for gain in known], colours.sparse)
        marks["text"] = [f"{said} {p.permille / 10:g} %".strip() for said, (_, p, _) in zip(glyphs, drawn, strict=True)]
        # At the right edge a phone would cut it off.
        marks["textposition"] = ["top left" if x > (low + high) / 2 else "top right" for x, *_ in drawn]
        traces.append(marks)
        far += [(p.key, x, reading, "") for x, p, reading in drawn]
    traces.append(_dense_point(tradeoff, 1, measure, colours))
    for trace in traces:
        trace["showlegend"] = trace["mode"] != "lines"
    # Two names on each row is what a phone has room for.
    legend_height = _LEGEND_ROW * -(-sum(trace["showlegend"] for trace in traces) // 2)
    title = "Answers broken, % of {total:,}; lower is worse" if measure == "flips" else TITLES[measure]
    place = {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}
    clicks = {"itemclick": False, "itemdoubleclick": False}
    layout = style.chart_frame(
        title.format(total=tradeoff.n_passages),
        _GAIN_HEIGHT + legend_height,
        colours,
        margin={"l": _LEFT, "r": _RIGHT, "t": _TOP, "b": _BOTTOM + legend_height},
        xaxis=style.x_axis(gained.name, colours, range=[low, high], nticks=6, ticksuffix=" ×"),
        yaxis=style.y_axis(colours, range=list(axis.range), **axis.ticks),
        annotations=_far_notes(far, axis, colours),
        # A joined front leaves no line's end to put a label at.
        showlegend=True,
        legend={"font": {"color": colours.text, "size": 14}} | place | clicks,
    )
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
            for p in sorted(points, key=lambda point: point.sparsity)
            if not p.live
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


def gain_words(tradeoff: TradeoffData, gained: Gained, measure: Measure) -> str:
    """What `gain_chart` shows, for screen readers."""
    front = {key for key, _, _ in _front(tradeoff, gained, measure)}
    parts = [
        f"{label} at {point.sparsity:.1f} % {gained.gains[point.key].words}, "
        f"{point.readings[measure][0].words}{' (on the Pareto front)' if point.key in front else ''}"
        for label, points in tradeoff.lines.items()
        for point in points
        if point.key in gained.gains
    ]
    return f"{measure.capitalize()} against {gained.name}: {'; '.join(parts) or 'no model yet'}."


def far_words(tradeoff: TradeoffData, measure: Measure) -> str:
    """What the arrows mean; nothing where there are none."""
    far = any(
        point.readings[measure][0].value < tradeoff_data.loss_axis(tradeoff, measure).bottom
        for point in tradeoff.sparse
    )
    return "An arrow at the lower edge: the point lies farther down, at the value that stands there." if far else ""


def places(tradeoff: TradeoffData, end: float) -> dict[tuple[str, int], float]:
    """Where on the x axis each point stands, by its line and the per mille asked for. end: of the axis.

    That is at its sparsity, in percent, and where methods would cover each other as near to it as can be, but never
    among the points of another sparsity. Points that are asked for and not there yet keep their place.
    """
    wanted = {place: place[1] / 10 for place in product(tradeoff.lines, tradeoff.asked)}
    wanted |= {(label, p.permille): p.sparsity for label, points in tradeoff.lines.items() for p in points}
    asked = sorted({permille for _, permille in wanted})
    closest = min((high - low for low, high in pairwise(asked)), default=1000) / 10
    n = max(1, len(tradeoff.lines))
    step = min(_LEAST_APART * end, _MOST_APART * end / n, closest / n)
    found: dict[tuple[str, int], float] = {}
    for permille in asked:
        group = [place for place in wanted if place[1] == permille]
        found |= zip(group, style.spread_apart([wanted[place] for place in group], [step] * len(group)), strict=True)
    return found


def _sign(at: int) -> str:
    return list(SYMBOLS.values())[at % len(SYMBOLS)]


def _front(tradeoff: TradeoffData, gained: Gained, measure: Measure) -> list[tuple[str, float, float]]:
    """The Pareto front of dense and the sparse models, by rising gain: each key with its gain and its loss."""
    models = [(tradeoff.dense.key, 1.0, tradeoff.dense_value(measure))]
    models += [
        (point.key, gained.gains[point.key].value, point.readings[measure][0].value)
        for point in tradeoff.sparse
        if point.key in gained.gains
    ]
    return [models[i] for i in pareto_front([(gain, value) for _, gain, value in models])]


_INKS: dict[Role, tuple[str, str]] = {
    "sparse": ("sparse", "sparse_text"),
    "broke": ("broke", "broke"),
    "mended": ("mended", "mended"),
}
"""The names of the colours of a role's marks and of its label."""


def _verdict_ink(verdict: Verdict | Literal[""], colours: Palette) -> str:
    return {"within": colours.mended, "beyond": colours.broke}.get(verdict, colours.muted)


def _ground(
    tradeoff: TradeoffData, measure: Measure, ends: tuple[float, float], colours: Palette
) -> list[dict[str, Any]]:
    """The ground of a chart: the tolerance as a band under dense, dense across, with its interval if it has one."""
    top, bands = tradeoff.dense_value(measure), list[tuple[float, float, str, str]]()
    if measure in tradeoff.allowed:
        bands.append((top - tradeoff.allowed[measure], top, colours.allowed, "allowed"))
    if measure == "share right":
        (reading,) = tradeoff.dense.readings[measure]
        bands.append((reading.low, reading.high, colours.band, "95 % interval of dense"))
    across: dict[str, Any] = {"mode": "lines", "hoverinfo": "skip"}
    shade, x = {"fill": "toself", "line": {"width": 0}}, [*ends, *reversed(ends)]
    traces = [
        across | shade | {"x": x, "y": [low, low, high, high], "fillcolor": colour, "name": name}
        for low, high, colour, name in bands
    ]
    line = {"x": list(ends), "y": [top, top], "line": {"color": colours.dense, "width": 2}, "name": "dense"}
    return [*traces, across | line]


def _dense_point(tradeoff: TradeoffData, x: float, measure: Measure, colours: Palette) -> dict[str, Any]:
    return {
        "x": [x],
        "y": [tradeoff.dense_value(measure)],
        "mode": "markers",
        "marker": {"color": colours.dense, "size": 10},
        "cliponaxis": False,
        "name": "dense",
        "hovertemplate": "<br>".join(["dense", *map(style.plain, tradeoff.dense.facts)]) + "<extra></extra>",
    }


def _marks(
    label: str,
    symbol: str,
    marks: Sequence[Mark],
    axis: LossAxis,
    colours: Palette,
    *,
    said: Sequence[str] = (),
    strong: bool = False,
    size: int = 9,
) -> dict[str, Any]:
    """Marks with intervals; hollow ones answered fewer passages than dense. said: more about each, when pointed at."""
    ink, points = getattr(colours, _INKS[marks[0][2].role][0]), [point for _, point, _ in marks]
    words = [
        "<br>".join(filter(None, [f"{style.plain(label)}, {reading.words}", more, *point.facts]))
        for (_, point, reading), more in zip(marks, said or [""] * len(marks), strict=True)
    ]
    bars = [(r.value, r.low, r.high) if r.value >= axis.bottom else (axis.edge,) * 3 for *_, r in marks]
    return {
        "x": [x for x, *_ in marks],
        "y": [value for value, *_ in bars],
        "mode": "markers+text",
        "name": label,
        "text": [""] * len(marks),
        "textposition": "top right",
        "textfont": {"size": 14, "color": [_verdict_ink(point.verdict, colours) for point in points]},
        "marker": {
            "color": ink,
            "symbol": [f"{symbol}-open" if point.hollow else symbol for point in points],
            "size": size,
            "opacity": 1,
            "line": {"color": ink, "width": [2 if point.hollow or point.live else 0 for point in points]},
        },
        "error_y": style.error_bars(bars, ink, 1.25 if strong else 0.75, 5 if strong else 3),
        "cliponaxis": False,
        "customdata": [[text, point.key] for text, point in zip(words, points, strict=True)],
        "hovertemplate": "%{customdata[0]}<extra></extra>",
    }


def _published_trace(rows: Sequence[PublishedRow], colours: Palette) -> dict[str, Any]:
    """Published results as grey diamonds, open for dense."""
    ends = [((0.0, row.dense), (row.sparsity_permille / 10, row.sparse)) for row in rows]
    points = [(x, 100 * share) for pair in ends for x, share in pair]
    names, symbols = ["dense", "sparse"] * len(rows), ["diamond-open", "diamond"] * len(rows)
    return {
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "mode": "markers",
        "name": PUBLISHED,
        "cliponaxis": False,
        "marker": {
            "color": colours.muted,
            "size": 11,
            "symbol": symbols,
            "line": {"color": colours.muted, "width": 1.5},
        },
        "customdata": [f"published, {name}<br>{y:.2f} %" for name, (_, y) in zip(names, points, strict=True)],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _verdict_rows(rows: Sequence[Sequence[tuple[float, Point]]], colours: Palette) -> list[dict[str, Any]]:
    """Notes under the axis, a row for each line: its mark left of the axis, its verdicts under the sparsities."""
    middles: dict[int, list[float]] = {}
    for x, point in (each for row in rows for each in row):
        middles.setdefault(point.permille, []).append(x)
    notes = []
    for i, row in enumerate(rows):
        below: dict[str, Any] = {"yref": "paper", "yshift": -_VERDICT_ROW * (i + 0.7)}
        mark: dict[str, Any] = {"xref": "paper", "xshift": -16}
        notes.append(style.annotation(_sign(i), 0, 0, colours.sparse_text, **below, **mark))
        for _, point in row:
            x, ink = fmean(middles[point.permille]), _verdict_ink(point.verdict, colours)
            notes.append(style.annotation(VERDICT_GLYPHS[point.verdict], x, 0, ink, **below))
    return notes


def _far_notes(
    marks: Iterable[tuple[Hashable, float, Reading, str]], axis: LossAxis, colours: Palette
) -> list[dict[str, Any]]:
    """Arrows and values of points at the edge as annotations.

    marks: of each point the group that has one common text, its x, its reading, and the sign before its value.
    """
    groups, notes = dict[Hashable, list[tuple[float, Reading, str]]](), []
    for group, x, reading, sign in marks:
        if reading.value < axis.bottom:
            groups.setdefault(group, []).append((x, reading, sign))
    arrow = {"ax": 0, "ay": -_ARROW, "yshift": -_ARROW, "showarrow": True, "arrowhead": 2, "arrowwidth": 1.25}
    for found in groups.values():
        notes += [
            style.annotation("", x, axis.edge, colours.sparse, arrowcolor=colours.sparse) | arrow for x, *_ in found
        ]
        values = [f"{sign if len(found) > 1 else ''}{_short_times(-reading.value)}" for _, reading, sign in found]
        x, place = fmean(x for x, *_ in found), {"yanchor": "bottom", "yshift": 7}
        notes.append(style.annotation("<br>".join(values), x, axis.edge, colours.sparse_text, 11, **place))
    return notes


def _short_times(nats: float) -> str:
    """A factor in few letters, for where points stand close: "934×", "13k×", ">1M×"."""
    if nats >= tradeoff_data.FARTHEST_BELOW:
        return ">1M×"
    thousands = exp(nats) / 1000
    if thousands < 0.9995:
        return f"{1000 * thousands:.0f}×"
    return f"{thousands:.1f}k×" if thousands < 9.95 else f"{thousands:.0f}k×"
