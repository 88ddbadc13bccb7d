"""Charts with bars: what each layer lost and kept, and the histogram of the right word's log-probability."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import Any

import plotly.graph_objects as go

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
    wrap_label,
)
from sparsedash.reporting.charts.tradeoff_data import signed_tick
from sparsedash.schema.records import Pruned

_TOP, _BOTTOM, _LEFT = 44, 52, 52
_ERRORS, _SMALL, _GAP = 230, 84, 44
"""Pixels: the panel of errors, the panels below it, and what is between two panels."""
_APART = 0.05
"""How far the curves spread where their labels point to, at least, as a share of the axis."""


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """A share of every layer's output, in percent; how it is told from others. sign: its symbol, before its label."""

    name: str
    values: Sequence[float]
    symbol: str
    sign: str
    dash: str
    colour: str
    text_colour: str


def layers_chart(made: Pruned, theme: Theme = "light") -> go.Figure:
    """The figure: the share of its MLP output that each layer lost; below it kept widths and, if any, sensitivities."""
    colours = PALETTES[theme]
    curves = _curves(made, colours)
    highest = max(0.1, 1.08 * max(max(curve.values) for curve in curves))
    labels = _labels(curves, _APART * highest)
    top = max(_ERRORS, room_for(labels))
    panels = [top, _SMALL, *([_SMALL] if made.sensitivities else [])]
    domains = _domains(panels)
    traces = [_curve_trace(curve) for curve in curves]
    traces.append(_bars(_kept(made), "y2", colours, _kept_words(made)))
    if made.sensitivities:
        traces.append(_bars(relative_to_median(made.sensitivities), "y3", colours))
    height = round(sum(panels) + _GAP * (len(panels) - 1)) + _TOP + _BOTTOM
    layout = chart_frame(f"Share of each layer's {_output(made)} that is lost, %", height, colours)
    layout |= _axes(made, domains, highest, colours)
    layout |= label_layout(labels, Panel(y_range=(0, highest), height=top, domain=domains[0]), colours)
    layout["annotations"] += _titles(domains[1:], colours)
    return go.Figure(traces, layout)


def layers_words(made: Pruned) -> str:
    """What `layers_chart` shows, for those who do not see it."""
    said = [
        f"{curve.name} from {min(curve.values):.1f} to {max(curve.values):.1f} %"
        for curve in _curves(made, PALETTES["light"])
    ]
    kept = _kept(made)
    return (
        f"Share of the {_output(made)} that each of {len(made.widths)} layers lost: {'; '.join(said)}. "
        f"Kept width from {min(kept):.0f} to {max(kept):.0f} % of the dense one."
    )


def _output(made: Pruned) -> str:
    return "MLP output" if made.method.takes_channels else "projections' output"


def relative_to_median(values: Sequence[float]) -> list[float]:
    """The values as multiples of their median; as they are where that is zero."""
    middle = median(values) if values else 0.0
    return [value / middle for value in values] if middle > 0 else list(values)


def _curves(made: Pruned, colours: Palette) -> list[_Curve]:
    found = [
        ("calibration", made.layer_errors, "circle", "●", "solid", True),
        ("held-out text", made.held_out_errors, "circle-open", "○", "dash", True),
        ("the passages", made.passage_errors, "diamond", "◆", "dot", True),
        ("uncompensated", made.lost_without, "x-thin", "×", "dashdot", False),
    ]
    return [
        _Curve(
            name=name,
            values=[100 * value for value in values],
            symbol=symbol,
            sign=sign,
            dash=dash,
            colour=colours.sparse if own else colours.muted,
            text_colour=colours.sparse_text if own else colours.muted,
        )
        for name, values, symbol, sign, dash, own in found
        if values
    ]


def _labels(curves: Sequence[_Curve], apart: float) -> list[Label]:
    """The names with their marks, at the last layer where the curves spread this far, else where they spread
    furthest.
    """
    spreads = [max(v) - min(v) for v in zip(*(curve.values for curve in curves), strict=True)]
    layers = range(len(spreads))
    at = max(layers, key=lambda i: (min(spreads[i], apart), i))
    left, right = _range(len(spreads))
    x = 1.0 if at == layers[-1] else (at + 1 - left) / (right - left)
    return [Label(y=c.values[at], lines=wrap_label(c.name, f"{c.sign} "), colour=c.text_colour, x=x) for c in curves]


def _curve_trace(curve: _Curve) -> Any:
    said = [f"layer {i}, {curve.name}<br>{value:.1f} % lost" for i, value in enumerate(curve.values, 1)]
    return go.Scatter(
        x=list(range(1, len(curve.values) + 1)),
        y=list(curve.values),
        mode="lines+markers",
        name=curve.name,
        line={"color": curve.colour, "width": 2 if curve.dash == "solid" else 1.25, "dash": curve.dash},
        marker={
            "color": curve.colour,
            "symbol": curve.symbol,
            "size": 6,
            "line": {"color": curve.colour, "width": 1.5},
        },
        cliponaxis=False,
        customdata=said,
        hovertemplate="%{customdata}<extra></extra>",
    )


def _bars(values: Sequence[float], y_axis: str, colours: Palette, said: Sequence[str] | None = None) -> Any:
    words = said or [f"layer {i}<br>{value:.2f} ×" for i, value in enumerate(values, 1)]
    return go.Bar(
        x=list(range(1, len(values) + 1)),
        y=list(values),
        yaxis=y_axis,
        name=y_axis,
        marker={"color": colours.muted, "opacity": 0.6, "line": {"width": 0}},
        customdata=list(words),
        hovertemplate="%{customdata}<extra></extra>",
    )


def _kept(made: Pruned) -> list[float]:
    return [100 * w / dense for w, dense in zip(made.widths, made.dense_widths, strict=True)]


def _kept_words(made: Pruned) -> list[str]:
    pairs = enumerate(zip(made.widths, made.dense_widths, strict=True), 1)
    return [f"layer {i}<br>{width:,} of {dense:,} channels kept" for i, (width, dense) in pairs]


def _domains(panels: Sequence[float]) -> list[tuple[float, float]]:
    """Where each panel is, from the top down, as shares of the plot's height."""
    whole = sum(panels) + _GAP * (len(panels) - 1)
    found, top = [], whole
    for height in panels:
        found.append((max(0.0, (top - height) / whole), top / whole))
        top -= height + _GAP
    return found


def _range(n_layers: int) -> tuple[float, float]:
    """Of the axis of layers, which are counted from one."""
    return 0.4, n_layers + 0.6


def _axes(made: Pruned, domains: Sequence[tuple[float, float]], highest: float, colours: Palette) -> dict[str, Any]:
    y = fixed_axis(colours, gridcolor=colours.grid, ticklabelstandoff=6)
    axes = {
        "margin": {"l": _LEFT, "t": _TOP, "b": _BOTTOM},
        "bargap": 0.35,
        "xaxis": fixed_axis(
            colours,
            range=list(_range(len(made.widths))),
            showgrid=False,
            showline=True,
            linecolor=colours.grid,
            anchor=f"y{len(domains)}",
            nticks=12,
            title={"text": "Layer", "font": {"color": colours.muted, "size": 14}},
        ),
        "yaxis": y | {"range": [0, highest], "domain": domains[0], "ticksuffix": " %", "nticks": 6},
        "yaxis2": y | {"range": [0, 100], "domain": domains[1], "ticksuffix": " %", "tickvals": [0, 50, 100]},
    }
    if len(domains) > 2:
        axes["yaxis3"] = y | {"rangemode": "tozero", "domain": domains[2], "ticksuffix": " ×", "nticks": 3}
    return axes


def _titles(domains: Sequence[tuple[float, float]], colours: Palette) -> list[dict[str, Any]]:
    titles = ("Channels kept, % of dense", "Sensitivity, times the median layer's")
    return [
        {
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "xshift": -_LEFT,
            "y": top,
            "yref": "paper",
            "yanchor": "bottom",
            "yshift": 8,
            "text": text,
            "showarrow": False,
            "font": {"size": 14, "color": colours.muted},
        }
        for (_, top), text in zip(domains, titles, strict=False)
    ]


HEIGHT = 170
TITLE = "Change of the right word’s log-probability"
_MOST_LABELS = 7


@lru_cache(maxsize=64)
def changes_chart(
    ends: tuple[float, ...], counts: tuple[int, ...], words: tuple[str, ...], chosen: int | None, theme: Theme
) -> go.Figure:
    """Bars of equal width over the ranges between `ends`, the outermost of which are open.

    counts, words: of each range, one more than ends. chosen: the range that is filtered by.
    """
    colours = PALETTES[theme]
    others = colours.muted if chosen is None else colours.grid
    shades = [colours.text if i == chosen else others for i in range(len(counts))]
    whole = {"marker": {"opacity": 1}}
    bars = go.Bar(
        x=[i + 0.5 for i in range(len(counts))],
        y=list(counts),
        width=0.9,
        marker={"color": shades},
        customdata=[f"{n:,} {said}" for n, said in zip(counts, words, strict=True)],
        hovertemplate="%{customdata}<extra></extra>",
        selected=whole,
        unselected=whole,
    )
    every = -(-len(ends) // _MOST_LABELS)
    zero = ends.index(0.0) if 0.0 in ends else 0
    shown = [i for i in range(len(ends)) if (i - zero) % every == 0]
    layout: dict[str, Any] = chart_frame(TITLE, HEIGHT, colours) | {
        "margin": {"l": 4, "r": 4, "t": 34, "b": 26},
        "clickmode": "event+select",
        "xaxis": fixed_axis(
            colours,
            range=[0, len(counts)],
            tickvals=[i + 1 for i in shown],
            ticktext=[signed_tick(ends[i]) for i in shown],
            showgrid=False,
        ),
        "yaxis": fixed_axis(colours, showticklabels=False, showgrid=False, rangemode="tozero"),
    }
    return go.Figure([bars], layout)


def changes_words(counts: Sequence[int], words: Sequence[str]) -> str:
    """What the histogram shows, for those who do not see it."""
    parts = [f"{n:,} {said}" for n, said in zip(counts, words, strict=True) if n]
    return f"{TITLE}, passages: {'; '.join(parts) or 'none'}."


def clicked_bar(points: Sequence[Mapping[str, Any]], n_bars: int) -> int | None:
    """The number of the bar that was clicked, from 0; None where none was."""
    at = points[0].get("point_index") if points else None
    return at if isinstance(at, int) and 0 <= at < n_bars else None
