"""The trade-off chart: every method's line against measured sparsity, with intervals, dense drawn across."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from sparsedash.reporting.charts.axes import MARGIN, end_of_axis, range_of, ticks
from sparsedash.reporting.charts.far_points import far_groups, far_notes, with_far_points_at_the_edge
from sparsedash.reporting.charts.labels import Label, Panel, label_layout, room_for, wrapped
from sparsedash.reporting.charts.marks import (
    SYMBOLS,
    Line,
    allowed_band,
    dense_marks,
    dense_point,
    ink,
    lines_of,
    live_trace,
    strand_traces,
    strands,
)
from sparsedash.reporting.charts.palette import PALETTES, Palette, Theme, axis, frame_of
from sparsedash.reporting.charts.points import Measure, TradeoffData, by_sparsity
from sparsedash.reporting.charts.published_points import published_notes, published_traces, published_words
from sparsedash.reporting.charts.verdict_rows import rows_height, verdict_rows

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
    tradeoff = with_far_points_at_the_edge(tradeoff, measure)
    colours, end, y_range = PALETTES[theme], end_of_axis(tradeoff), range_of(tradeoff, measure)
    lines = lines_of(tradeoff, end)
    labels = [Label(y=tradeoff.dense_value(measure), lines=["dense"], colour=colours.dense)]
    traces = allowed_band(tradeoff, measure, end, colours) + dense_marks(tradeoff, measure, end, colours)
    for line in lines:
        drawn, ends = _line(tradeoff, line, measure, colours)
        traces, labels = traces + drawn, labels + ends
    traces.append(dense_point(tradeoff, measure, colours))
    height = max(HEIGHT - _TOP - _BOTTOM, room_for(labels))
    title = TITLES[measure].format(total=tradeoff.n_passages)
    below = rows_height(len(lines)) if measure in tradeoff.allowed else 0
    layout = frame_of(title, round(height) + _TOP + _BOTTOM + below, colours)
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


def clicked(points: Sequence[Mapping[str, Any]]) -> str:
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
        _label(line, role if line.alone and role != "sparse" else line.label, ends[-1].value, ink(role, colours)[1])
        for role, ends in found.items()
        if line.alone or role != "mended"
    ]
    return traces, labels


def _label(line: Line, text: str, y: float | None, colour: str) -> Label:
    sign = "" if line.alone else f"{SYMBOLS[line.symbol]} "
    return Label(y=y, lines=wrapped(text, sign), colour=colour)


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
        "xaxis": axis(
            colours,
            range=[-MARGIN * end, end],
            ticksuffix=" %",
            showgrid=False,
            showline=True,
            linecolor=colours.grid,
            ticklabelstandoff=below,
            title={"text": tradeoff.taken, "font": {"color": colours.muted, "size": 14}, "standoff": below + 12},
        ),
        "yaxis": axis(
            colours, range=list(y_range), gridcolor=colours.grid, ticklabelstandoff=6, **ticks(measure, marked)
        ),
    }
