"""The chart of what was forgotten: a bar a kind of text."""

from collections.abc import Sequence

import plotly.graph_objects as go

from sparsedash.catalog.mixed_text import source_title
from sparsedash.reporting.charts import chart_style as style
from sparsedash.reporting.charts.chart_style import PALETTES, Theme
from sparsedash.stats.kind_estimates import KindEstimate

KINDS_TITLE = "What was forgotten: KL from dense, nats a token"
_ROW = 26
_TOP = 40
_BOTTOM = 44


def kind_chart(estimates: Sequence[KindEstimate], theme: Theme = "light") -> go.Figure:
    """KL from dense of each kind of text with its interval, in the given order, from the top
    down.
    """
    colours = PALETTES[theme]
    places = list(range(len(estimates), 0, -1))
    intervals = [
        (estimate.value, estimate.low, estimate.high) for estimate in estimates
    ]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [estimate.value for estimate in estimates],
        "y": places,
        "width": 0.6,
        "marker": {
            "color": colours.sparse,
            "opacity": 0.75,
            "line": {"width": 0},
        },
        "error_x": style.error_bars(intervals, colours.text),
        "customdata": [_words(estimate) for estimate in estimates],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    layout = style.chart_frame(
        KINDS_TITLE,
        _TOP + _BOTTOM + _ROW * len(estimates),
        colours,
        margin={
            "l": 8,
            "r": 16,
            "t": _TOP,
            "b": _BOTTOM,
        },
        xaxis=style.x_axis(
            "nats a token; less is better",
            colours,
            rangemode="tozero",
            nticks=6,
        ),
        yaxis=style.fixed_axis(
            colours,
            range=[0.4, len(estimates) + 0.6],
            tickvals=places,
            ticktext=[
                style.plain(source_title(estimate.kind)) for estimate in estimates
            ],
            showgrid=False,
            automargin=True,
            ticklabelstandoff=8,
        ),
    )
    return go.Figure([bars], layout)


def kinds_words(estimates: Sequence[KindEstimate]) -> str:
    """The chart in words, for screen readers."""
    return f"{KINDS_TITLE}: {'; '.join(map(_words, estimates))}."


def _words(estimate: KindEstimate) -> str:
    title = style.plain(source_title(estimate.kind))
    return f"{title} {estimate.value:.3f}, {estimate.low:.3f} to {estimate.high:.3f}"
