"""The chart of a verdict over tasks: a line a task with its loss as a multiple of what is
acceptable.
"""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from sparsedash.reporting.charts import chart_style as style
from sparsedash.reporting.charts.chart_style import PALETTES, Palette, Theme
from sparsedash.reporting.charts.tradeoff_chart import VERDICT_GLYPHS
from sparsedash.stats.task_verdicts import TaskResult
from sparsedash.stats.tolerance import Verdict

TASKS_TITLE = "Loss as a multiple of the acceptable loss"
_FARTHEST = 5.0
"""A loss beyond so many times the limit stands at the edge, with an arrow."""
_ROW = 34
_TOP = 44
_BOTTOM = 48
_LONGEST_NAME = 22


def task_chart(results: Sequence[TaskResult], theme: Theme = "light") -> go.Figure:
    """Every judged task's loss with the interval behind its verdict; the acceptable range is
    shaded, 1 is the limit.
    """
    colours = PALETTES[theme]
    losses = {result.task: result.loss for result in results if result.loss is not None}
    places = list(range(len(losses), 0, -1))
    rows = [0.4, len(losses) + 0.6]
    spans = []
    symbols = []
    hover_texts = []
    names = []
    signs = []
    for place, (task, loss) in zip(places, losses.items(), strict=True):
        multiple = loss.value / loss.most
        ends = (multiple, loss.low / loss.most, loss.high / loss.most)
        value, low, high = (max(-_FARTHEST, min(_FARTHEST, end)) for end in ends)
        spans.append((value, low, high))
        # A gain is never so far that it matters: it stands at the left edge without a sign.
        is_far = multiple >= _FARTHEST
        symbols.append("triangle-right" if is_far else "circle")
        hover_texts.append(f"{style.plain(task)}: {loss.verdict}")
        name = task if len(task) <= _LONGEST_NAME else f"{task[: _LONGEST_NAME - 1]}…"
        names.append(style.plain(name))
        signs.append(_verdict_sign(loss.verdict, place, colours))
        if is_far:
            beside: dict[str, Any] = {"xanchor": "right", "xshift": -10}
            text = f"{multiple:.1f}"
            signs.append(style.annotation(text, value, place, colours.text, **beside))
    x_low = min([-1.0, *(low for _, low, _ in spans)]) - 0.15
    x_high = max([1.5, *(high for *_, high in spans)]) + 0.15
    acceptable = {
        "x": [x_low, 1.0, 1.0, x_low],
        "y": [rows[0], rows[0], rows[1], rows[1]],
        "fill": "toself",
        "fillcolor": colours.allowed,
        "mode": "lines",
        "line": {"width": 0},
        "hoverinfo": "skip",
    }
    marks = {
        "x": [value for value, *_ in spans],
        "y": places,
        "mode": "markers",
        "marker": {"color": colours.sparse, "size": 9, "symbol": symbols},
        "error_x": style.error_bars(spans, colours.sparse, 1.5, 4),
        "cliponaxis": False,
        "customdata": hover_texts,
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    limit = {"color": colours.muted, "width": 1, "dash": "dot"}
    layout = style.chart_frame(
        TASKS_TITLE,
        _TOP + _BOTTOM + _ROW * len(losses),
        colours,
        margin={"l": 8, "r": 30, "t": _TOP, "b": _BOTTOM},
        xaxis=style.x_axis("Acceptable: up to 1", colours, range=[x_low, x_high], nticks=8),
        yaxis=style.fixed_axis(
            colours,
            range=rows,
            tickvals=places,
            ticktext=names,
            showgrid=False,
            automargin=True,
            ticklabelstandoff=8,
        ),
        annotations=signs,
        shapes=[
            _upright(0, {"color": colours.dense, "width": 2}),
            _upright(1, limit),
        ],
    )
    return go.Figure([acceptable, marks], layout)


def _verdict_sign(verdict: Verdict, place: int, colours: Palette) -> dict[str, Any]:
    """The verdict's sign at the right edge of a row."""
    inks = {"within": colours.fixed, "beyond": colours.broke}
    ink = inks.get(verdict, colours.muted)
    edge: dict[str, Any] = {"xref": "paper", "xanchor": "left", "xshift": 8}
    return style.annotation(VERDICT_GLYPHS[verdict], 1, place, ink, 15, **edge)


def _upright(x: float, line: dict[str, Any]) -> dict[str, Any]:
    """A line over the whole height at x."""
    return {
        "type": "line",
        "xref": "x",
        "yref": "paper",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "line": line,
    }


def task_words(results: Sequence[TaskResult]) -> str:
    """What the chart shows, for screen readers."""
    parts = [
        f"{result.task} {result.loss.value / result.loss.most:.1f}, {result.verdict}"
        for result in results
        if result.loss
    ]
    return f"{TASKS_TITLE}: {'; '.join(parts)}."
