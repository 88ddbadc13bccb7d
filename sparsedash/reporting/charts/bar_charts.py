"""Charts with bars: what each layer lost and kept, and the histogram of the right word's
log-probability.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import plotly.graph_objects as go

from sparsedash.reporting.charts import chart_style as style
from sparsedash.reporting.charts.chart_style import PALETTES, Label, Palette, Theme
from sparsedash.reporting.charts.tradeoff_data import signed_tick
from sparsedash.reporting.wording import first_upper, kept_noun
from sparsedash.schema.records import Pruned

CHANGES_TITLE = "Change of the right word’s log-probability"
_CHANGES_HEIGHT = 170
_MAX_LABELS = 7
_TOP = 44
_BOTTOM = 52
_LEFT = 52
_ERRORS = 230
_SMALL = 84
_GAP = 44
"""Pixels: the panel of errors, the panels below it, and what is between two panels."""
_CURVES = (
    ("calibration", "layer_errors", "circle", "●", "solid"),
    ("held-out text", "held_out_errors", "circle-open", "○", "dash"),
    ("the passages", "passage_errors", "diamond", "◆", "dot"),
    ("uncompensated", "lost_without", "x-thin", "×", "dashdot"),
)
"""The curves of the layers: name, field of the record, plotly's symbol, the sign of it, dash."""


def layers_chart(pruned: Pruned, theme: Theme = "light") -> go.Figure:
    """The share of its MLP or experts' output that each layer lost, if measured; below it kept
    widths, and what each cut costs.
    """
    colours = PALETTES[theme]
    layers = list(range(1, len(pruned.widths) + 1))
    traces, labels = _loss_curves(pruned, layers, colours)
    panels = _panels(pruned)
    heights: list[float] = [_SMALL] * len(panels)
    if traces:
        heights.insert(0, max(_ERRORS, style.room_for(labels)))
    domains = _domains(heights)
    output = "projections' output"
    if pruned.method.prunes_experts:
        output = "experts' output"
    elif pruned.method.is_structured:
        output = "MLP output"
    layout = style.chart_frame(
        f"Loss of each layer's {output}, %" if traces else "",
        round(_whole(heights)) + _TOP + _BOTTOM,
        colours,
        margin={"l": _LEFT, "t": _TOP, "b": _BOTTOM},
        bargap=0.35,
        xaxis=style.x_axis(
            "Layer",
            colours,
            range=[0.4, len(layers) + 0.6],
            anchor=_axis_name("y", len(domains)),
            **style.whole_ticks(len(layers)),
        ),
        annotations=[],
    )
    if traces:
        highest = max(0.1, *(1.08 * max(trace["y"]) for trace in traces))
        layout["yaxis"] = style.y_axis(
            colours, range=[0, highest], domain=domains[0], ticksuffix=" %", nticks=6
        )
        layout |= style.label_layout(
            labels, (0, highest), heights[0], colours, domain=domains[0]
        )
    n_above = len(domains) - len(panels)
    for n, panel in enumerate(panels, n_above + 1):
        domain = domains[n - 1]
        layout[_axis_name("yaxis", n)] = style.y_axis(
            colours, domain=domain, **panel.axis
        )
        note = style.annotation(
            panel.title,
            0,
            domain[1],
            colours.muted,
            xref="paper",
            yref="paper",
            xanchor="left",
            xshift=-_LEFT,
            yshift=8,
        )
        layout["annotations"].append(note | {"yanchor": "bottom"})
        texts = [
            f"layer {i}<br>{text}"
            for i, text in zip(layers, panel.hover_texts, strict=True)
        ]
        bars = {
            "type": "bar",
            "yaxis": _axis_name("y", n),
            "marker": {"color": colours.muted, "opacity": 0.6, "line": {"width": 0}},
        }
        traces.append(bars | _hovered(f"y{n}", layers, panel.values, texts))
    return go.Figure(traces, layout)


def _loss_curves(
    pruned: Pruned, layers: Sequence[int], colours: Palette
) -> tuple[list[dict[str, Any]], list[Label]]:
    """A curve for every loss that was measured, with its label."""
    traces = []
    labels = []
    for i, (name, field, symbol, sign, dash) in enumerate(_CURVES):
        values = [100 * value for value in getattr(pruned, field)]
        if not values:
            continue
        colour = colours.muted if field == "lost_without" else colours.lines[i]
        lines = style.wrap_label(name, f"{sign} ")
        labels.append(Label(y=values[-1], lines=lines, colour=colour))
        texts = [
            f"layer {layer}, {name}<br>{value:.1f} % lost"
            for layer, value in zip(layers, values, strict=True)
        ]
        curve = {
            "mode": "lines+markers",
            "line": {
                "color": colour,
                "width": 2 if dash == "solid" else 1.25,
                "dash": dash,
            },
            "marker": {
                "color": colour,
                "symbol": symbol,
                "size": 6,
                "line": {"color": colour, "width": 1.5},
            },
            "cliponaxis": False,
        }
        traces.append(curve | _hovered(name, layers, values, texts))
    return traces, labels


class _Panel(NamedTuple):
    """Bars, one a layer. axis: of their values."""

    title: str
    values: Sequence[float]
    hover_texts: Sequence[str]
    axis: dict[str, Any]


def _panels(pruned: Pruned) -> list[_Panel]:
    """Panels of the share that each layer keeps, and of its cut's own loss, if measured; of experts the grid has
    it.
    """
    if pruned.method.removes_experts:
        return []
    kept = []
    texts = []
    noun = kept_noun(pruned.method)
    none = "no experts" if pruned.method.prunes_experts else "no MLP"
    for index, (width, dense) in enumerate(pruned.kept_of_dense):
        if index in pruned.removed_layers:
            kept.append(0.0)
            texts.append("the whole layer is gone")
        else:
            kept.append(100 * width / dense if dense else 100.0)
            texts.append(f"{width:,} of {dense:,} {noun} kept" if dense else none)
    title = f"{first_upper(noun)} kept, % of dense"
    if pruned.method.removes_layers:
        title = "Layers kept"
    percents = {"range": [0, 100], "ticksuffix": " %", "tickvals": [0, 50, 100]}
    panels = [_Panel(title, kept, texts, percents)]
    if pruned.alone:
        title = "Divergence from dense by this layer's cut alone, nats"
        texts = [f"{value:.4f} nats of divergence" for value in pruned.alone]
        nats = {"rangemode": "tozero", "nticks": 3}
        panels.append(_Panel(title, list(pruned.alone), texts, nats))
    return panels


def _whole(heights: Sequence[float]) -> float:
    """Pixels of all panels, with the gaps between them."""
    return sum(heights) + _GAP * (len(heights) - 1)


def _domains(heights: Sequence[float]) -> list[tuple[float, float]]:
    """Lower and upper end of each panel, from the top down, as shares of the plot's height."""
    whole = _whole(heights)
    domains = []
    top = whole
    for height in heights:
        domains.append((max(0.0, (top - height) / whole), top / whole))
        top -= height + _GAP
    return domains


def _axis_name(name: str, n: int) -> str:
    """Plotly's name of the n-th axis: the first has no number."""
    return name if n == 1 else f"{name}{n}"


def _hovered(
    name: str, x: Sequence[float], y: Sequence[float], texts: Sequence[str]
) -> dict[str, Any]:
    """The part of a trace that places its points and says what the pointer shows at each."""
    return {
        "name": name,
        "x": x,
        "y": y,
        "customdata": texts,
        "hovertemplate": "%{customdata}<extra></extra>",
    }


@lru_cache(maxsize=64)
def changes_chart(
    ends: tuple[float, ...],
    counts: tuple[int, ...],
    words: tuple[str, ...],
    chosen: int | None,
    theme: Theme,
) -> go.Figure:
    """Bars of equal width over the ranges between `ends`, the outermost of which are open; a click
    selects a range.

    counts, words: of each range, one more than ends. chosen: the range that is filtered by.
    """
    colours = PALETTES[theme]
    n_bars = len(counts)
    inks = [colours.muted if chosen is None else colours.grid] * n_bars
    if chosen is not None:
        inks[chosen] = colours.text
    whole = {"marker": {"opacity": 1}}
    hover_texts = [f"{n:,} {text}" for n, text in zip(counts, words, strict=True)]
    middles = [i + 0.5 for i in range(n_bars)]
    bars = {
        "type": "bar",
        "width": 0.9,
        "marker": {"color": inks},
        "selected": whole,
        "unselected": whole,
        **_hovered("changes", middles, list(counts), hover_texts),
    }
    every = -(-len(ends) // _MAX_LABELS)
    zero = ends.index(0.0) if 0.0 in ends else 0
    ticks = {}
    for i, end in enumerate(ends):
        if (i - zero) % every == 0:
            ticks[i + 1] = signed_tick(end)
    layout = style.chart_frame(
        CHANGES_TITLE,
        _CHANGES_HEIGHT,
        colours,
        margin={"l": 4, "r": 4, "t": 34, "b": 26},
        clickmode="event+select",
        xaxis=style.fixed_axis(
            colours,
            range=[0, n_bars],
            tickvals=list(ticks),
            ticktext=list(ticks.values()),
            showgrid=False,
        ),
        yaxis=style.fixed_axis(
            colours, showticklabels=False, showgrid=False, rangemode="tozero"
        ),
    )
    return go.Figure([bars], layout)


def changes_words(counts: Sequence[int], words: Sequence[str]) -> str:
    """The histogram in words, for screen readers."""
    parts = [f"{n:,} {text}" for n, text in zip(counts, words, strict=True) if n]
    return f"{CHANGES_TITLE}, passages: {'; '.join(parts) or 'none'}."


def clicked_bar(points: Sequence[Mapping[str, Any]], n_bars: int) -> int | None:
    """The number of the bar that was clicked, from 0; None where none was."""
    index = points[0].get("point_index") if points else None
    return index if isinstance(index, int) and 0 <= index < n_bars else None
