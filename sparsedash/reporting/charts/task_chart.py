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
from sparsedash.stats.tolerance import Loss, Verdict

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
    spans = [_shown_span(loss) for loss in losses.values()]
    signs = []
    for place, loss in zip(places, losses.values(), strict=True):
        signs.append(_verdict_sign(loss.verdict, place, colours))
        if _is_far(loss):
            text = f"{_multiple(loss):.1f}"
            beside: dict[str, Any] = {"xanchor": "right", "xshift": -10}
            signs.append(
                style.annotation(text, _FARTHEST, place, colours.text, **beside)
            )
    x_range = [
        min([-1.0, *(low for _, low, _ in spans)]) - 0.15,
        max([1.5, *(high for *_, high in spans)]) + 0.15,
    ]
    y_range = [0.4, len(losses) + 0.6]
    marks = {
        "x": [value for value, *_ in spans],
        "y": places,
        "mode": "markers",
        "marker": {
            "color": colours.sparse,
            "size": 9,
            "symbol": [
                "triangle-right" if _is_far(loss) else "circle"
                for loss in losses.values()
            ],
        },
        "error_x": style.error_bars(spans, colours.sparse, 1.5, 4),
        "cliponaxis": False,
        "customdata": [
            f"{style.plain(task)}: {loss.verdict}" for task, loss in losses.items()
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    layout = style.chart_frame(
        TASKS_TITLE,
        _TOP + _BOTTOM + _ROW * len(losses),
        colours,
        margin={"l": 8, "r": 30, "t": _TOP, "b": _BOTTOM},
        xaxis=style.x_axis("Acceptable: up to 1", colours, range=x_range, nticks=8),
        yaxis=style.fixed_axis(
            colours,
            range=y_range,
            tickvals=places,
            ticktext=list(map(_short_name, losses)),
            showgrid=False,
            automargin=True,
            ticklabelstandoff=8,
        ),
        annotations=signs,
        shapes=[
            _upright(0, {"color": colours.dense, "width": 2}),
            _upright(1, {"color": colours.muted, "width": 1, "dash": "dot"}),
        ],
    )
    return go.Figure([_acceptable(x_range[0], y_range, colours), marks], layout)


def _multiple(loss: Loss) -> float:
    """A loss as a multiple of the acceptable one."""
    return loss.value / loss.most


def _is_far(loss: Loss) -> bool:
    """Whether it stands at the right edge. A gain is never so far that it matters: it stands at the
    left edge without a sign.
    """
    return _multiple(loss) >= _FARTHEST


def _shown_span(loss: Loss) -> tuple[float, float, float]:
    """The loss and the ends of its interval, as multiples of the acceptable one, within the
    chart.
    """
    value, low, high = (
        max(-_FARTHEST, min(_FARTHEST, end))
        for end in (_multiple(loss), loss.low / loss.most, loss.high / loss.most)
    )
    return value, low, high


def _short_name(task: str) -> str:
    name = task if len(task) <= _LONGEST_NAME else f"{task[: _LONGEST_NAME - 1]}…"
    return style.plain(name)


def _acceptable(
    x_low: float, y_range: Sequence[float], colours: Palette
) -> dict[str, Any]:
    """The shaded range of acceptable losses."""
    low, high = y_range
    return {
        "x": [x_low, 1.0, 1.0, x_low],
        "y": [low, low, high, high],
        "fill": "toself",
        "fillcolor": colours.allowed,
        "mode": "lines",
        "line": {"width": 0},
        "hoverinfo": "skip",
    }


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
    """The chart in words, for screen readers."""
    parts = [
        f"{result.task} {result.loss.value / result.loss.most:.1f}, {result.verdict}"
        for result in results
        if result.loss
    ]
    return f"{TASKS_TITLE}: {'; '.join(parts)}."
