"""The gain chart: what is lost against what is won in speed or bytes, with the Pareto front joined."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import plotly.graph_objects as go

from sparsedash.reporting.charts.chart_style import PALETTES, Palette, Theme, chart_frame, fixed_axis
from sparsedash.reporting.charts.tradeoff_chart import (
    SYMBOLS,
    FarGroup,
    clip_far_points,
    far_notes,
    role_colours,
    short_times,
)
from sparsedash.reporting.charts.tradeoff_data import (
    Measure,
    Point,
    Reading,
    TradeoffData,
    measure_range,
    measure_ticks,
)
from sparsedash.stats.sparsity_search import pareto_front
from sparsedash.stats.tolerance import Verdict

HEIGHT = 400
_TOP, _BOTTOM, _LEFT, _RIGHT = 44, 56, 52, 24
_AIR = 0.06
_ROW = 22
"""Pixels of one row of the legend."""
_SIGNS: dict[Verdict | str, str] = {"within": "✓", "beyond": "✕", "undecided": "?"}
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_MOST_TICKS = 6
TITLES: dict[Measure, str] = {
    "word perplexity": "Word perplexity, times that of dense; further down is worse",
    "accuracy": "Last words right, points more or fewer than dense",
    "flips": "Answers that broke, % of {total:,}; further down is worse",
    "share right": "Last word right, % of {total:,} passages",
}


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What a model wins, as a factor over dense, and its interval; above 1 is better. words: the same in words."""

    value: float
    low: float
    high: float
    words: str


@dataclass(frozen=True, kw_only=True)
class Gained:
    """One axis of gains. name: what the axis says. gains: by the keys of records; none of what is not known."""

    name: str
    gains: Mapping[str, Gain]


def gain_chart(tradeoff: TradeoffData, gained: Gained, measure: Measure, theme: Theme = "light") -> go.Figure:
    """What is lost, by one measure, against what is won. Only models whose gain is known are drawn."""
    front = _front(tradeoff, gained, measure, PALETTES[theme])
    tradeoff = clip_far_points(tradeoff, measure)
    colours, y_range, x_range = PALETTES[theme], measure_range(tradeoff, measure), _x_range(tradeoff, gained)
    traces = [*_ground(tradeoff, measure, x_range, colours), front]
    for (label, points), symbol in zip(tradeoff.lines.items(), _symbols(len(tradeoff.lines)), strict=True):
        known = [point for point in points if point.key in gained.gains]
        if known:
            traces.append(_marks((label, known, symbol), tradeoff, gained, measure, colours))
    traces.append(_dense(tradeoff, measure, colours))
    layout = chart_frame(
        TITLES[measure].format(total=tradeoff.n_passages), HEIGHT + _legend_height(tradeoff, gained), colours
    )
    layout |= _axes(gained, measure, x_range, y_range, colours)
    layout |= _legend(_legend_height(tradeoff, gained), colours)
    layout["annotations"] = far_notes(_far_groups(tradeoff, gained, measure), colours)
    return go.Figure(traces, layout)


def gain_words(tradeoff: TradeoffData, gained: Gained, measure: Measure) -> str:
    """What `gain_chart` shows, for those who do not see it."""
    names = {point.key: label for label, points in tradeoff.lines.items() for point in points}
    front = {point.key for point in _unbeaten(tradeoff, gained, measure)}
    parts = [
        f"{names[point.key]} at {point.sparsity:.1f} % {gained.gains[point.key].words}, "
        f"{point.readings[measure][0].words}{' (nobody beats it)' if point.key in front else ''}"
        for point in _known(tradeoff, gained)
    ]
    return f"{measure.capitalize()} against {gained.name}: {'; '.join(parts) or 'no model yet'}."


def _far_groups(tradeoff: TradeoffData, gained: Gained, measure: Measure) -> list[FarGroup]:
    """The models at the edge of the chart, each by itself."""
    found = [(gained.gains[point.key].value, point.readings[measure][0]) for point in _known(tradeoff, gained)]
    return [
        FarGroup(places=[x], edge=reading.value, said=[short_times(-reading.farther)])
        for x, reading in found
        if reading.farther is not None
    ]


def _known(tradeoff: TradeoffData, gained: Gained) -> list[Point]:
    return [point for point in tradeoff.sparse if point.key in gained.gains]


def _unbeaten(tradeoff: TradeoffData, gained: Gained, measure: Measure) -> list[Point]:
    """Dense and the sparse models that nobody beats, by rising gain."""
    points = [tradeoff.dense, *_known(tradeoff, gained)]
    places = [(1.0, tradeoff.dense_value(measure))]
    places += [(gained.gains[p.key].value, p.readings[measure][0].value) for p in points[1:]]
    return [points[i] for i in pareto_front(places)]


def _front(tradeoff: TradeoffData, gained: Gained, measure: Measure, colours: Palette) -> Any:
    front = _unbeaten(tradeoff, gained, measure)
    sparse = [point for point in front if point.key != tradeoff.dense.key]
    dense = [(1.0, tradeoff.dense_value(measure))] if len(sparse) < len(front) else []
    places = dense + [(gained.gains[p.key].value, p.readings[measure][0].value) for p in sparse]
    return go.Scatter(
        x=[x for x, _ in places],
        y=[y for _, y in places],
        mode="lines",
        name="unbeaten",
        line={"color": colours.sparse, "width": 2.5},
        hoverinfo="skip",
        showlegend=False,
    )


def _marks(
    line: tuple[str, Sequence[Point], str], tradeoff: TradeoffData, gained: Gained, measure: Measure, colours: Palette
) -> Any:
    """One method's models. line: its label, the points whose gain is known, and its symbol."""
    label, points, symbol = line
    gains, readings = [gained.gains[p.key] for p in points], [p.readings[measure][0] for p in points]
    colour, _ = role_colours(readings[0].role, colours)
    signs = [_SIGNS.get(point.verdict, "") if measure != "flips" else "" for point in points]
    middle = sum(_x_range(tradeoff, gained)) / 2
    inks = {"✓": colours.mended, "✕": colours.broke}
    return go.Scatter(
        x=[gain.value for gain in gains],
        y=[reading.value for reading in readings],
        mode="markers+text",
        name=label,
        showlegend=True,
        text=[f"{sign} {point.permille / 10:g} %".strip() for sign, point in zip(signs, points, strict=True)],
        # At the right edge a phone would cut it off.
        textposition=["top left" if gain.value > middle else "top right" for gain in gains],
        textfont={"size": 13, "color": [inks.get(sign, colours.muted) for sign in signs]},
        marker={
            "color": colour,
            "symbol": [f"{symbol}-open" if point.hollow else symbol for point in points],
            "size": 9,
            "line": {"color": colour, "width": [2 if point.hollow else 0 for point in points]},
        },
        error_x=_bars([(g.value, g.low, g.high) for g in gains], colour),
        error_y=_bars([(r.value, r.low, r.high) for r in readings], colour),
        cliponaxis=False,
        customdata=[[_said(label, *each), each[0].key] for each in zip(points, gains, readings, strict=True)],
        hovertemplate="%{customdata[0]}<extra></extra>",
    )


def _bars(values: Sequence[tuple[float, float, float]], colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, _, high in values],
        "arrayminus": [value - low for value, low, _ in values],
        "color": colour,
        "thickness": 1,
        "width": 3,
    }


def _said(label: str, point: Point, gain: Gain, reading: Reading) -> str:
    return "<br>".join([f"{label}, {reading.words}", gain.words, *point.facts])


def _ground(tradeoff: TradeoffData, measure: Measure, x_range: tuple[float, float], colours: Palette) -> list[Any]:
    """What may be lost, as a band, and dense drawn across."""
    left, right = x_range
    top = tradeoff.dense_value(measure)
    across = go.Scatter(
        x=[left, right],
        y=[top, top],
        mode="lines",
        line={"color": colours.dense, "width": 2},
        hoverinfo="skip",
        name="across",
        showlegend=False,
    )
    if measure not in tradeoff.allowed:
        return [across]
    low = top - tradeoff.allowed[measure]
    band = go.Scatter(
        x=[left, right, right, left],
        y=[low, low, top, top],
        fill="toself",
        mode="lines",
        fillcolor=colours.allowed,
        line={"width": 0},
        hoverinfo="skip",
        name="allowed",
        showlegend=False,
    )
    return [band, across]


def _dense(tradeoff: TradeoffData, measure: Measure, colours: Palette) -> Any:
    return go.Scatter(
        x=[1.0],
        y=[tradeoff.dense_value(measure)],
        mode="markers",
        name="dense",
        showlegend=True,
        marker={"color": colours.dense, "size": 10},
        cliponaxis=False,
        hovertemplate="<br>".join(["dense", *tradeoff.dense.facts]) + "<extra></extra>",
    )


def _x_range(tradeoff: TradeoffData, gained: Gained) -> tuple[float, float]:
    """Every interval and dense, with some air."""
    bounds = [1.0, 1.05]
    for point in _known(tradeoff, gained):
        bounds += [gained.gains[point.key].low, gained.gains[point.key].high]
    air = _AIR * (max(bounds) - min(bounds))
    return min(bounds) - air, max(bounds) + air


def _axes(
    gained: Gained, measure: Measure, x_range: tuple[float, float], y_range: tuple[float, float], colours: Palette
) -> dict[str, Any]:
    low, high = x_range
    step = next((s for s in _STEPS if (high - low) / s <= _MOST_TICKS), _STEPS[-1])
    places = [n * step for n in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]
    return {
        "xaxis": fixed_axis(
            colours,
            range=list(x_range),
            tickvals=places,
            ticktext=[f"{place:.2f} ×" if step < 0.1 else f"{place:.1f} ×" for place in places],
            showgrid=False,
            showline=True,
            linecolor=colours.grid,
            title={"text": gained.name, "font": {"color": colours.muted, "size": 14}},
        ),
        "yaxis": fixed_axis(
            colours, range=list(y_range), gridcolor=colours.grid, ticklabelstandoff=6, **measure_ticks(measure, y_range)
        ),
    }


def _legend(height: int, colours: Palette) -> dict[str, Any]:
    """Methods by their marks, under the chart: a joined front leaves no line's end to put a label at."""
    return {
        "margin": {"l": _LEFT, "r": _RIGHT, "t": _TOP, "b": _BOTTOM + height},
        "showlegend": True,
        "legend": {
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
    }


def _legend_height(tradeoff: TradeoffData, gained: Gained) -> int:
    """Room for two names on each row, which is what a phone has."""
    n = 1 + sum(any(point.key in gained.gains for point in points) for points in tradeoff.lines.values())
    return _ROW * -(-n // 2)


def _symbols(n: int) -> list[str]:
    known = list(SYMBOLS)
    return [known[i % len(known)] for i in range(n)]
