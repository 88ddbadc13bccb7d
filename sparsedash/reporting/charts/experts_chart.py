"""The grid of a mixture: layers x experts, by how often the router chooses each, and which went."""

from collections.abc import Sequence
from math import log2
from typing import Any

import plotly.graph_objects as go

from sparsedash.reporting.charts import chart_style as style
from sparsedash.reporting.charts.chart_style import PALETTES, Theme
from sparsedash.schema.records import Pruned
from sparsedash.stats.expert_use import ExpertUse

TITLE = "Layers × experts, by their share of the router’s choices"
_TOP = 40
_BOTTOM = 50
_LEFT = 44
_MAX_ROW = 24
_MIN_ROW = 8
_USUAL_HEIGHT = 400
"""Pixels: margins, the height of a row, and that of the grid where rows are between these."""
_RANGE = 3
"""Ends of the colours: 1/8 and 8 times an even share, as powers of 2."""
_FREE = 0.55
"""Part of its row's height that a removed expert leaves free."""


def experts_chart(
    pruned: Pruned, experts: Sequence[Sequence[ExpertUse]], theme: Theme = "light"
) -> go.Figure:
    """A row for each layer, its experts from the most to the least chosen; removed ones are thin.

    experts: of each layer, in this order; see `expert_uses`.
    """
    colours = PALETTES[theme]
    n_layers = len(pruned.widths)
    row = max(_MIN_ROW, min(_MAX_ROW, _USUAL_HEIGHT // n_layers))
    most = max(map(len, experts))
    traces = [
        _cells(experts, is_kept=True, colour=colours.dense, gap=1),
        _cells(experts, is_kept=False, colour=colours.sparse, gap=round(_FREE * row)),
    ]
    layout = style.chart_frame(
        TITLE,
        n_layers * row + _TOP + _BOTTOM,
        colours,
        margin={"l": _LEFT, "r": 8, "t": _TOP, "b": _BOTTOM},
        xaxis=style.x_axis(
            "Experts of each layer, most chosen first",
            colours,
            range=[0.5, most + 0.5],
            **style.whole_ticks(most),
        ),
        yaxis=style.fixed_axis(
            colours,
            range=[n_layers + 0.5, 0.5],
            showgrid=False,
            **style.whole_ticks(n_layers),
        ),
    )
    return go.Figure(traces, layout)


def _cells(
    experts: Sequence[Sequence[ExpertUse]], *, is_kept: bool, colour: str, gap: int
) -> dict[str, Any]:
    """The kept or the removed cells, in the shades of one colour. gap: pixels between rows."""
    most = max(map(len, experts))
    values = []
    facts = []
    for layer in experts:
        row_values: list[float | None] = [None] * most
        row_facts: list[list[float] | None] = [None] * most
        for place, expert in enumerate(layer):
            if expert.is_kept == is_kept:
                power = log2(max(expert.times_even, 2**-_RANGE))
                row_values[place] = round(min(power, _RANGE), 2)
                percent = round(100 * expert.share, 3)
                row_facts[place] = [expert.number, percent, round(expert.times_even, 2)]
        values.append(row_values)
        facts.append(row_facts)
    red, green, blue = bytes.fromhex(colour[1:])
    state = "kept" if is_kept else "removed"
    palest = 0.12 if is_kept else 0.5
    return {
        "type": "heatmap",
        "x": list(range(1, most + 1)),
        "y": list(range(1, len(experts) + 1)),
        "z": values,
        "customdata": facts,
        "zmin": -_RANGE,
        "zmax": _RANGE,
        "colorscale": [
            [0, f"rgba({red}, {green}, {blue}, {palest})"],
            [1, f"rgba({red}, {green}, {blue}, 1)"],
        ],
        "showscale": False,
        "xgap": 1 if most <= 64 else 0,
        "ygap": gap,
        "hoverongaps": False,
        "hovertemplate": (
            f"layer %{{y}}, expert %{{customdata[0]}}: {state}<br>"
            "%{customdata[1]:.2f} % of choices, %{customdata[2]:.2f} × even"
            "<extra></extra>"
        ),
    }
