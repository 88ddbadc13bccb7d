"""The chart of ranked models: a line a model with its change from the baseline and the interval."""

from typing import Any

import plotly.graph_objects as go

from sparsedash.reporting.charts import chart_style as style
from sparsedash.reporting.charts.chart_style import PALETTES, Theme
from sparsedash.reporting.wording import signed_points
from sparsedash.stats.judged_models import Ranking

_ROW = 34
_TOP = 44
_BOTTOM = 48
_LONGEST_NAME = 22


def ranking_chart(ranking: Ranking, theme: Theme = "light") -> go.Figure:
    """Every model's change in points, the best on top; the upright line is the baseline."""
    colours = PALETTES[theme]
    title = f"Change from {style.plain(ranking.baseline)}, in points of right answers"
    places = list(range(len(ranking.models), 0, -1))
    spans = []
    names = []
    hover_texts = []
    inks = []
    for model in ranking.models:
        spans.append((100 * model.change, 100 * model.low, 100 * model.high))
        name = model.name
        if len(name) > _LONGEST_NAME:
            name = f"{name[: _LONGEST_NAME - 1]}…"
        tie = "=" if model.ties else ""
        names.append(f"{model.rank}{tie}  {style.plain(name)}")
        hover_texts.append(
            f"{style.plain(model.name)}: {signed_points(model.change)} points"
        )
        is_baseline = model.name == ranking.baseline
        inks.append(colours.dense if is_baseline else colours.sparse)
    width = max(high for *_, high in spans) - min(low for _, low, _ in spans)
    margin = 0.05 * max(width, 1.0)
    x_low = min(low for _, low, _ in spans) - margin
    x_high = max(high for *_, high in spans) + margin
    marks = {
        "x": [value for value, *_ in spans],
        "y": places,
        "mode": "markers",
        "marker": {"color": inks, "size": 9},
        "error_x": style.error_bars(spans, colours.sparse, 1.5, 4),
        "cliponaxis": False,
        "customdata": hover_texts,
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    baseline: dict[str, Any] = {
        "type": "line",
        "xref": "x",
        "yref": "paper",
        "x0": 0,
        "x1": 0,
        "y0": 0,
        "y1": 1,
        "line": {"color": colours.dense, "width": 2},
        "layer": "below",
    }
    layout = style.chart_frame(
        title,
        _TOP + _BOTTOM + _ROW * len(ranking.models),
        colours,
        margin={"l": 8, "r": 16, "t": _TOP, "b": _BOTTOM},
        xaxis=style.x_axis("Points", colours, range=[x_low, x_high], nticks=8),
        yaxis=style.fixed_axis(
            colours,
            range=[0.4, len(ranking.models) + 0.6],
            tickvals=places,
            ticktext=names,
            showgrid=False,
            automargin=True,
            ticklabelstandoff=8,
        ),
        shapes=[baseline],
    )
    return go.Figure([marks], layout)


def ranking_chart_words(ranking: Ranking) -> str:
    """The chart in words, for screen readers."""
    parts = []
    for model in ranking.models:
        parts.append(
            f"{model.name} rank {model.rank}, {signed_points(model.change)} points"
        )
    return f"Change from {ranking.baseline}: {'; '.join(parts)}."
