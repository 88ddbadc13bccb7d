"""The histogram of how the right word's log-probability changed; a click on a bar chooses its passages."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import plotly.graph_objects as go

from sparsedash.reporting.charts.axes import signed
from sparsedash.reporting.charts.palette import PALETTES, Theme, axis, frame_of

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
    layout: dict[str, Any] = frame_of(TITLE, HEIGHT, colours) | {
        "margin": {"l": 4, "r": 4, "t": 34, "b": 26},
        "clickmode": "event+select",
        "xaxis": axis(
            colours,
            range=[0, len(counts)],
            tickvals=[i + 1 for i in shown],
            ticktext=[signed(ends[i]) for i in shown],
            showgrid=False,
        ),
        "yaxis": axis(colours, showticklabels=False, showgrid=False, rangemode="tozero"),
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
