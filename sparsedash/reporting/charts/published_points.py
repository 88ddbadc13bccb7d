"""Published results on the accuracy chart of the same model."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from sparsedash.catalog.published import PublishedRow
from sparsedash.reporting.charts.palette import Palette

NAME = "published"


def published_traces(rows: Sequence[PublishedRow], colours: Palette) -> list[Any]:
    """Published points on an accuracy chart, as grey diamonds, open for dense; none without rows."""
    points = _points(rows)
    if not points:
        return []
    points_trace = go.Scatter(
        x=[x for x, _, _ in points],
        y=[100 * share for _, share, _ in points],
        mode="markers",
        name=NAME,
        cliponaxis=False,
        marker={
            "color": colours.muted,
            "size": 11,
            "line": {"color": colours.muted, "width": 1.5},
            "symbol": ["diamond-open" if kind == "dense" else "diamond" for _, _, kind in points],
        },
        customdata=[f"published, {kind}<br>{100 * share:.2f} %" for _, share, kind in points],
        hovertemplate="%{customdata}<extra></extra>",
    )
    return [points_trace]


def published_notes(rows: Sequence[PublishedRow], colours: Palette) -> list[dict[str, Any]]:
    """The name of these points, under the last of them; none without rows."""
    return [
        {
            "x": x,
            "y": 100 * share,
            "text": NAME,
            "showarrow": False,
            "yshift": -16,
            "font": {"color": colours.muted, "size": 13},
        }
        for x, share, _ in _points(rows)[-1:]
    ]


def _points(rows: Sequence[PublishedRow]) -> list[tuple[float, float, str]]:
    """Sparsity in percent, accuracy, and which model it is of."""
    dense = [(0.0, row.dense, "dense") for row in rows]
    return dense + [(row.sparsity_permille / 10, row.sparse, "sparse") for row in rows]


def published_words(rows: Sequence[PublishedRow]) -> str:
    """What `published_traces` shows, for those who do not see it; empty without rows."""
    return "".join(
        f" Published: dense {100 * row.dense:.2f} %, at {row.sparsity_permille / 10:g} % {100 * row.sparse:.2f} %."
        for row in rows
    )
