"""Charts with bars: what each layer lost and kept, and the histogram of the right word's log-probability."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import median
from typing import Any

import plotly.graph_objects as go

from sparsedash.reporting.charts.chart_style import (
    PALETTES,
    Label,
    Palette,
    Theme,
    annotation,
    chart_frame,
    fixed_axis,
    label_layout,
    room_for,
    wrap_label,
    x_axis,
    y_axis,
)
from sparsedash.reporting.charts.tradeoff_data import signed_tick
from sparsedash.schema.records import Pruned

CHANGES_TITLE = "Change of the right word’s log-probability"
_CHANGES_HEIGHT, _MOST_LABELS = 170, 7
_TOP, _BOTTOM, _LEFT = 44, 52, 52
_ERRORS, _SMALL, _GAP = 230, 84, 44
"""Pixels: the panel of errors, the panels below it, and what is between two panels."""
_SPREAD = 0.05
"""How far the curves spread where their labels point to, at least, as a share of the axis."""
_CURVES = (
    ("calibration", "layer_errors", "circle", "●", "solid"),
    ("held-out text", "held_out_errors", "circle-open", "○", "dash"),
    ("the passages", "passage_errors", "diamond", "◆", "dot"),
    ("uncompensated", "lost_without", "x-thin", "×", "dashdot"),
)
"""The curves of the layers: name, field of the record, plotly's symbol, the sign of it, dash."""


def layers_chart(made: Pruned, theme: Theme = "light") -> go.Figure:
    """The share of its MLP output that each layer lost; below it kept widths and, if any, sensitivities."""
    colours, curves = PALETTES[theme], _curves(made)
    highest = max(0.1, 1.08 * max(map(max, curves.values())))
    left, right = 0.4, len(made.widths) + 0.6
    # Labels point to the last layer where the curves are apart, else to where they are furthest apart.
    spreads = [max(values) - min(values) for values in zip(*curves.values(), strict=True)]
    at = max(range(len(spreads)), key=lambda i: (min(spreads[i], _SPREAD * highest), i))
    x = 1.0 if at == len(spreads) - 1 else (at + 1 - left) / (right - left)
    traces, labels = [], []
    for name, _, symbol, sign, dash in _CURVES:
        if name not in curves:
            continue
        values, own = curves[name], name != "uncompensated"
        colour = colours.sparse if own else colours.muted
        text_colour = colours.sparse_text if own else colours.muted
        labels.append(Label(y=values[at], lines=wrap_label(name, f"{sign} "), colour=text_colour, x=x))
        traces.append(
            {
                "x": list(range(1, len(values) + 1)),
                "y": values,
                "mode": "lines+markers",
                "name": name,
                "line": {"color": colour, "width": 2 if dash == "solid" else 1.25, "dash": dash},
                "marker": {"color": colour, "symbol": symbol, "size": 6, "line": {"color": colour, "width": 1.5}},
                "cliponaxis": False,
                "customdata": [f"layer {i}, {name}<br>{value:.1f} % lost" for i, value in enumerate(values, 1)],
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )
    kept = [f"{w:,} of {dense:,} channels kept" for w, dense in zip(made.widths, made.dense_widths, strict=True)]
    traces.append(_bars(_kept(made), "y2", colours, kept))
    if made.sensitivities:
        relative = relative_to_median(made.sensitivities)
        traces.append(_bars(relative, "y3", colours, [f"{value:.2f} ×" for value in relative]))
    panels = [max(_ERRORS, room_for(labels)), *([_SMALL] * (2 if made.sensitivities else 1))]
    domains, y = _domains(panels), y_axis(colours)
    layout = chart_frame(
        f"Share of each layer's {_output(made)} that is lost, %",
        round(sum(panels) + _GAP * (len(panels) - 1)) + _TOP + _BOTTOM,
        colours,
        margin={"l": _LEFT, "t": _TOP, "b": _BOTTOM},
        bargap=0.35,
        xaxis=x_axis("Layer", colours, range=[left, right], anchor=f"y{len(domains)}", nticks=12),
        yaxis=y | {"range": [0, highest], "domain": domains[0], "ticksuffix": " %", "nticks": 6},
        yaxis2=y | {"range": [0, 100], "domain": domains[1], "ticksuffix": " %", "tickvals": [0, 50, 100]},
    )
    if made.sensitivities:
        layout["yaxis3"] = y | {"rangemode": "tozero", "domain": domains[2], "ticksuffix": " ×", "nticks": 3}
    layout |= label_layout(labels, (0, highest), panels[0], colours, domains[0])
    titles = ("Channels kept, % of dense", "Sensitivity, times the median layer's")
    place: dict[str, Any] = {
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "xshift": -_LEFT,
        "yshift": 8,
    }
    layout["annotations"] += [
        annotation(text, 0, top, colours.muted, **place) for (_, top), text in zip(domains[1:], titles, strict=False)
    ]
    return go.Figure(traces, layout)


def layers_words(made: Pruned) -> str:
    """What `layers_chart` shows, for screen readers."""
    said = [f"{name} from {min(values):.1f} to {max(values):.1f} %" for name, values in _curves(made).items()]
    kept = _kept(made)
    return (
        f"Share of the {_output(made)} that each of {len(made.widths)} layers lost: {'; '.join(said)}. "
        f"Kept width from {min(kept):.0f} to {max(kept):.0f} % of the dense one."
    )


def relative_to_median(values: Sequence[float]) -> list[float]:
    """The values as multiples of their median; as they are where that is zero."""
    middle = median(values) if values else 0.0
    return [value / middle for value in values] if middle > 0 else list(values)


def _output(made: Pruned) -> str:
    return "MLP output" if made.method.takes_channels else "projections' output"


def _curves(made: Pruned) -> dict[str, list[float]]:
    """The share of every layer's output that is lost, in percent, by the text it was measured on."""
    found = {name: [100 * value for value in getattr(made, field)] for name, field, *_ in _CURVES}
    return {name: values for name, values in found.items() if values}


def _kept(made: Pruned) -> list[float]:
    return [100 * w / dense for w, dense in zip(made.widths, made.dense_widths, strict=True)]


def _bars(values: Sequence[float], y_axis_name: str, colours: Palette, said: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "bar",
        "x": list(range(1, len(values) + 1)),
        "y": list(values),
        "yaxis": y_axis_name,
        "name": y_axis_name,
        "marker": {"color": colours.muted, "opacity": 0.6, "line": {"width": 0}},
        "customdata": [f"layer {i}<br>{words}" for i, words in enumerate(said, 1)],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _domains(panels: Sequence[float]) -> list[tuple[float, float]]:
    """Where each panel is, from the top down, as shares of the plot's height."""
    whole = sum(panels) + _GAP * (len(panels) - 1)
    found, top = [], whole
    for height in panels:
        found.append((max(0.0, (top - height) / whole), top / whole))
        top -= height + _GAP
    return found


@lru_cache(maxsize=64)
def changes_chart(
    ends: tuple[float, ...], counts: tuple[int, ...], words: tuple[str, ...], chosen: int | None, theme: Theme
) -> go.Figure:
    """Bars of equal width over the ranges between `ends`, the outermost of which are open; a click selects a range.

    counts, words: of each range, one more than ends. chosen: the range that is filtered by.
    """
    colours = PALETTES[theme]
    others = colours.muted if chosen is None else colours.grid
    whole = {"marker": {"opacity": 1}}
    bars = {
        "type": "bar",
        "x": [i + 0.5 for i in range(len(counts))],
        "y": list(counts),
        "width": 0.9,
        "marker": {"color": [colours.text if i == chosen else others for i in range(len(counts))]},
        "customdata": [f"{n:,} {said}" for n, said in zip(counts, words, strict=True)],
        "hovertemplate": "%{customdata}<extra></extra>",
        "selected": whole,
        "unselected": whole,
    }
    every = -(-len(ends) // _MOST_LABELS)
    zero = ends.index(0.0) if 0.0 in ends else 0
    ticks = {i + 1: signed_tick(ends[i]) for i in range(len(ends)) if (i - zero) % every == 0}
    layout = chart_frame(
        CHANGES_TITLE,
        _CHANGES_HEIGHT,
        colours,
        margin={"l": 4, "r": 4, "t": 34, "b": 26},
        clickmode="event+select",
        xaxis=fixed_axis(
            colours, range=[0, len(counts)], tickvals=list(ticks), ticktext=list(ticks.values()), showgrid=False
        ),
        yaxis=fixed_axis(colours, showticklabels=False, showgrid=False, rangemode="tozero"),
    )
    return go.Figure([bars], layout)


def changes_words(counts: Sequence[int], words: Sequence[str]) -> str:
    """What the histogram shows, for screen readers."""
    parts = [f"{n:,} {said}" for n, said in zip(counts, words, strict=True) if n]
    return f"{CHANGES_TITLE}, passages: {'; '.join(parts) or 'none'}."


def clicked_bar(points: Sequence[Mapping[str, Any]], n_bars: int) -> int | None:
    """The number of the bar that was clicked, from 0; None where none was."""
    at = points[0].get("point_index") if points else None
    return at if isinstance(at, int) and 0 <= at < n_bars else None
