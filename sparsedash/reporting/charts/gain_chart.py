"""The gain chart: what is lost against what is won in speed or bytes, with the Pareto front joined."""

from collections.abc import Sequence
from math import ceil, floor
from typing import Any

import plotly.graph_objects as go

from sparsedash.reporting.charts.chart_style import PALETTES, Palette, Theme, chart_frame, error_bars, x_axis, y_axis
from sparsedash.reporting.charts.tradeoff_chart import (
    SYMBOLS,
    TITLES,
    VERDICT_GLYPHS,
    clip_far_points,
    dense_point,
    far_notes,
    role_colours,
    tolerance_and_dense,
    verdict_colour,
)
from sparsedash.reporting.charts.tradeoff_data import Gained, Measure, Point, TradeoffData, measure_range, measure_ticks
from sparsedash.stats.sparsity_search import pareto_front

HEIGHT = 400
_MARGIN = {"l": 52, "r": 24, "t": 44}
_BOTTOM, _LEGEND_ROW = 56, 22
"""Pixels under the plot without the legend, and of one row of the legend."""
_AIR = 0.06
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_MOST_TICKS = 6
_TITLES = TITLES | {"flips": "Answers broken, % of {total:,}; lower is worse"}


def gain_chart(tradeoff: TradeoffData, gained: Gained, measure: Measure, theme: Theme = "light") -> go.Figure:
    """What is lost, by one measure, against what is won. Only models whose gain is known are drawn."""
    front, colours = _front(tradeoff, gained, measure), PALETTES[theme]
    tradeoff = clip_far_points(tradeoff, measure)
    y_range, x_range = measure_range(tradeoff, measure), _x_range(tradeoff, gained)
    lines = {label: [p for p in points if p.key in gained.gains] for label, points in tradeoff.lines.items()}
    joined = {"mode": "lines", "line": {"color": colours.sparse, "width": 2.5}, "hoverinfo": "skip"}
    ground = [
        trace
        for trace in tolerance_and_dense(tradeoff, measure, x_range, colours)
        if not trace["name"].startswith("95 %")
    ]
    ground[-1]["name"] = "across"
    traces = [
        *ground,
        {"x": [x for _, x, _ in front], "y": [y for *_, y in front], "name": "unbeaten"} | joined,
        *(
            _marks((label, points, list(SYMBOLS)[i % len(SYMBOLS)]), gained, measure, sum(x_range) / 2, colours)
            for i, (label, points) in enumerate(lines.items())
            if points
        ),
        dense_point(tradeoff, 1, measure, colours),
    ]
    for trace in traces:
        trace["showlegend"] = trace.get("mode") != "lines"
    far = [
        [(gained.gains[p.key].value, reading, "")]
        for points in lines.values()
        for p in points
        if (reading := p.readings[measure][0]).farther is not None
    ]
    # Two names on each row is what a phone has room for.
    legend_height = _LEGEND_ROW * -(-(1 + sum(map(bool, lines.values()))) // 2)
    layout = chart_frame(
        _TITLES[measure].format(total=tradeoff.n_passages),
        HEIGHT + legend_height,
        colours,
        margin=_MARGIN | {"b": _BOTTOM + legend_height},
        xaxis=x_axis(gained.name, colours, range=list(x_range), **_x_ticks(x_range)),
        yaxis=y_axis(colours, range=list(y_range), **measure_ticks(measure, y_range)),
        annotations=far_notes(far, colours),
        # A joined front leaves no line's end to put a label at.
        showlegend=True,
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "font": {"color": colours.text, "size": 14},
            "itemclick": False,
            "itemdoubleclick": False,
        },
    )
    return go.Figure(traces, layout)


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


def _front(tradeoff: TradeoffData, gained: Gained, measure: Measure) -> list[tuple[str, float, float]]:
    """The Pareto front of dense and the sparse models, by rising gain: each key with its gain and its loss."""
    models = [(tradeoff.dense.key, 1.0, tradeoff.dense_value(measure))]
    models += [
        (point.key, gained.gains[point.key].value, point.readings[measure][0].value)
        for point in tradeoff.sparse
        if point.key in gained.gains
    ]
    return [models[i] for i in pareto_front([(gain, value) for _, gain, value in models])]


def _marks(
    line: tuple[str, Sequence[Point], str], gained: Gained, measure: Measure, middle: float, colours: Palette
) -> dict[str, Any]:
    """One method's models. line: its label, its points and its symbol. middle: of the x axis."""
    label, points, symbol = line
    gains, readings = [gained.gains[p.key] for p in points], [p.readings[measure][0] for p in points]
    colour, _ = role_colours(readings[0].role, colours)
    verdicts = ["" if measure == "flips" else point.verdict for point in points]
    said = [
        "<br>".join([f"{label}, {reading.words}", gain.words, *point.facts])
        for point, gain, reading in zip(points, gains, readings, strict=True)
    ]
    return {
        "x": [gain.value for gain in gains],
        "y": [reading.value for reading in readings],
        "mode": "markers+text",
        "name": label,
        "text": [
            f"{VERDICT_GLYPHS[verdict]} {point.permille / 10:g} %".strip()
            for verdict, point in zip(verdicts, points, strict=True)
        ],
        # At the right edge a phone would cut it off.
        "textposition": ["top left" if gain.value > middle else "top right" for gain in gains],
        "textfont": {"size": 13, "color": [verdict_colour(verdict, colours) for verdict in verdicts]},
        "marker": {
            "color": colour,
            "symbol": [f"{symbol}-open" if point.hollow else symbol for point in points],
            "size": 9,
            "line": {"color": colour, "width": [2 if point.hollow else 0 for point in points]},
        },
        "error_x": error_bars([(gain.value, gain.low, gain.high) for gain in gains], colour),
        "error_y": error_bars([(reading.value, reading.low, reading.high) for reading in readings], colour),
        "cliponaxis": False,
        "customdata": [[words, point.key] for words, point in zip(said, points, strict=True)],
        "hovertemplate": "%{customdata[0]}<extra></extra>",
    }


def _x_range(tradeoff: TradeoffData, gained: Gained) -> tuple[float, float]:
    """Every interval and dense, with some air."""
    gains = [gained.gains[point.key] for point in tradeoff.sparse if point.key in gained.gains]
    bounds = [1.0, 1.05, *(bound for gain in gains for bound in (gain.low, gain.high))]
    air = _AIR * (max(bounds) - min(bounds))
    return min(bounds) - air, max(bounds) + air


def _x_ticks(x_range: tuple[float, float]) -> dict[str, Any]:
    low, high = x_range
    step = next((s for s in _STEPS if (high - low) / s <= _MOST_TICKS), _STEPS[-1])
    values = [n * step for n in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]
    return {"tickvals": values, "ticktext": [f"{value:.{2 if step < 0.1 else 1}f} ×" for value in values]}
