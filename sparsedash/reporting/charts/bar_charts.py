"""Charts with bars: what each layer lost and kept, and the histogram of the right word's
log-probability.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import plotly.graph_objects as go

from sparsedash.reporting.charts import chart_style as style
from sparsedash.reporting.charts.chart_style import PALETTES, Label, Theme
from sparsedash.reporting.charts.tradeoff_data import signed_tick
from sparsedash.schema.records import Pruned

CHANGES_TITLE = "Change of the right word’s log-probability"
_CHANGES_HEIGHT = 170
_MOST_LABELS = 7
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
    """The share of its MLP output that each layer lost, if measured; below it kept widths, and what
    each cut costs.
    """
    colours = PALETTES[theme]
    layers = list(range(1, len(pruned.widths) + 1))
    highest = 0.1
    traces = []
    labels = []
    for i, (name, field, symbol, sign, dash) in enumerate(_CURVES):
        values = [100 * value for value in getattr(pruned, field)]
        if not values:
            continue
        is_compensated = field != "lost_without"
        highest = max(highest, 1.08 * max(values))
        colour = colours.lines[i] if is_compensated else colours.muted
        labels.append(
            Label(
                y=values[-1],
                lines=style.wrap_label(name, f"{sign} "),
                colour=colour,
            )
        )
        hover_texts = [
            f"layer {i}, {name}<br>{value:.1f} % lost" for i, value in enumerate(values, 1)
        ]
        traces.append(
            {
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
                **_hovered(
                    name,
                    layers,
                    values,
                    hover_texts,
                ),
            }
        )
    widths = list(
        zip(
            pruned.widths,
            pruned.dense_widths,
            strict=True,
        )
    )
    kept = [100 * w / dense for w, dense in widths]
    hover_texts = [
        f"{w:,} of {dense:,} channels kept" if w else "the whole layer is gone"
        for w, dense in widths
    ]
    shares: dict[str, Any] = {
        "range": [0, 100],
        "ticksuffix": " %",
        "tickvals": [0, 50, 100],
    }
    panels = [
        (
            "Layers kept" if pruned.method.removes_layers else "Channels kept, % of dense",
            kept,
            hover_texts,
            shares,
        )
    ]
    if pruned.alone:
        hover_texts = [f"{value:.4f} nats of divergence" for value in pruned.alone]
        nats = {"rangemode": "tozero", "nticks": 3}
        panels.append(
            (
                "Divergence from dense by this layer's cut alone, nats",
                list(pruned.alone),
                hover_texts,
                nats,
            )
        )
    heights = [max(_ERRORS, style.room_for(labels))] * bool(traces) + [_SMALL] * len(panels)
    whole = sum(heights) + _GAP * (len(heights) - 1)
    y = style.y_axis(colours)
    # Where each panel is, from the top down, as shares of the plot's height.
    tops = [whole - sum(heights[:i]) - _GAP * i for i in range(len(heights))]
    domains = [
        (max(0.0, (top - height) / whole), top / whole)
        for top, height in zip(tops, heights, strict=True)
    ]
    output = "MLP output" if pruned.method.is_structured else "projections' output"
    layout = style.chart_frame(
        f"Loss of each layer's {output}, %" if traces else "",
        round(whole) + _TOP + _BOTTOM,
        colours,
        margin={"l": _LEFT, "t": _TOP, "b": _BOTTOM},
        bargap=0.35,
        xaxis=style.x_axis(
            "Layer",
            colours,
            range=[0.4, len(layers) + 0.6],
            anchor="y" if len(domains) == 1 else f"y{len(domains)}",
            nticks=12,
        ),
    )
    if traces:
        layout["yaxis"] = y | {
            "range": [0, highest],
            "domain": domains[0],
            "ticksuffix": " %",
            "nticks": 6,
        }
        layout |= style.label_layout(
            labels,
            (0, highest),
            heights[0],
            colours,
            domain=domains[0],
        )
    below = domains[-len(panels) :]
    for n, ((title, values, hover_texts, axis), domain) in enumerate(
        zip(panels, below, strict=True), 1 + bool(traces)
    ):
        number = str(n) if n > 1 else ""
        layout[f"yaxis{number}"] = y | axis | {"domain": domain}
        note = style.annotation(
            title, 0, domain[1], colours.muted, xref="paper", yref="paper", xanchor="left"
        )
        layout.setdefault("annotations", []).append(
            note
            | {
                "yanchor": "bottom",
                "xshift": -_LEFT,
                "yshift": 8,
            }
        )
        marker = {
            "color": colours.muted,
            "opacity": 0.6,
            "line": {"width": 0},
        }
        words = [f"layer {i}<br>{text}" for i, text in enumerate(hover_texts, 1)]
        traces.append(
            {
                "type": "bar",
                "yaxis": f"y{number}",
                "marker": marker,
            }
            | _hovered(
                f"y{n}",
                layers,
                values,
                words,
            )
        )
    return go.Figure(traces, layout)


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
    others = colours.muted if chosen is None else colours.grid
    whole = {"marker": {"opacity": 1}}
    hover_texts = [f"{n:,} {text}" for n, text in zip(counts, words, strict=True)]
    bars = {
        "type": "bar",
        "width": 0.9,
        "marker": {"color": [colours.text if i == chosen else others for i in range(len(counts))]},
        "selected": whole,
        "unselected": whole,
        **_hovered(
            "changes",
            [i + 0.5 for i in range(len(counts))],
            list(counts),
            hover_texts,
        ),
    }
    every = -(-len(ends) // _MOST_LABELS)
    zero = ends.index(0.0) if 0.0 in ends else 0
    ticks = {i + 1: signed_tick(ends[i]) for i in range(len(ends)) if (i - zero) % every == 0}
    layout = style.chart_frame(
        CHANGES_TITLE,
        _CHANGES_HEIGHT,
        colours,
        margin={
            "l": 4,
            "r": 4,
            "t": 34,
            "b": 26,
        },
        clickmode="event+select",
        xaxis=style.fixed_axis(
            colours,
            range=[0, len(counts)],
            tickvals=list(ticks),
            ticktext=list(ticks.values()),
            showgrid=False,
        ),
        yaxis=style.fixed_axis(
            colours,
            showticklabels=False,
            showgrid=False,
            rangemode="tozero",
        ),
    )
    return go.Figure([bars], layout)


def changes_words(counts: Sequence[int], words: Sequence[str]) -> str:
    """What the histogram shows, for screen readers."""
    parts = [f"{n:,} {text}" for n, text in zip(counts, words, strict=True) if n]
    return f"{CHANGES_TITLE}, passages: {'; '.join(parts) or 'none'}."


def clicked_bar(points: Sequence[Mapping[str, Any]], n_bars: int) -> int | None:
    """The number of the bar that was clicked, from 0; None where none was."""
    index = points[0].get("point_index") if points else None
    return index if isinstance(index, int) and 0 <= index < n_bars else None
