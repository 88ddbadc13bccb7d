"""The chart of a verdict over tasks: a line a task with its loss as a multiple of what is
acceptable.
"""

from collections.abc import Sequence

import plotly.graph_objects as go

from sparsedash.reporting.charts import chart_style as style
from sparsedash.reporting.charts.chart_style import PALETTES, Theme
from sparsedash.reporting.charts.tradeoff_chart import VERDICT_GLYPHS
from sparsedash.stats.task_verdicts import TaskResult

TASKS_TITLE = "Loss as a multiple of the acceptable loss"
_FARTHEST = 5.0
"""A loss beyond so many times the limit stands at the edge, with an arrow."""
_ROW = 34
_TOP = 44
_BOTTOM = 48
_LONGEST_NAME = 22
_SYMBOLS = ("circle", "triangle-right")


def task_chart(results: Sequence[TaskResult], theme: Theme = "light") -> go.Figure:
    """Every judged task's loss with the interval behind its verdict; the acceptable range is
    shaded, 1 is the limit.
    """
    colours = PALETTES[theme]
    rows = [(result, result.loss) for result in results if result.loss is not None]
    places = list(range(len(rows), 0, -1))
    spans = [
        (
            _placed(loss.value / loss.most),
            _placed(loss.low / loss.most),
            _placed(loss.high / loss.most),
        )
        for _, loss in rows
    ]
    # A gain is never so far that it matters: it stands at the left edge without a sign.
    far = [loss.value / loss.most >= _FARTHEST for _, loss in rows]
    low = min([-1.0, *(span[1] for span in spans)]) - 0.15
    high = max([1.5, *(span[2] for span in spans)]) + 0.15
    hover_texts = [f"{style.plain(result.task)}: {result.verdict}" for result, _ in rows]
    band = [
        low,
        1.0,
        1.0,
        low,
    ]
    traces = [
        {
            "x": band,
            "y": [
                0.4,
                0.4,
                len(rows) + 0.6,
                len(rows) + 0.6,
            ],
            "fill": "toself",
            "fillcolor": colours.allowed,
        }
        | {
            "mode": "lines",
            "line": {"width": 0},
            "hoverinfo": "skip",
        },
        {
            "x": [span[0] for span in spans],
            "y": places,
            "mode": "markers",
            "marker": {
                "color": colours.sparse,
                "size": 9,
                "symbol": [_SYMBOLS[is_far] for is_far in far],
            },
            "error_x": style.error_bars(
                spans,
                colours.sparse,
                1.5,
                4,
            ),
            "cliponaxis": False,
            "customdata": hover_texts,
            "hovertemplate": "%{customdata}<extra></extra>",
        },
    ]
    names = [result.task for result, _ in rows]
    names = [
        name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in names
    ]
    inks = {"within": colours.fixed, "beyond": colours.broke}
    edge = {"xref": "paper", "xanchor": "left", "xshift": 8}
    signs = [
        style.annotation(
            VERDICT_GLYPHS[loss.verdict],
            1,
            y,
            inks.get(loss.verdict, colours.muted),
            15,
            **edge,
        )
        for y, (_, loss) in zip(places, rows, strict=True)
    ]
    signs += [
        style.annotation(
            f"{loss.value / loss.most:.1f}",
            span[0],
            y,
            colours.text,
            xanchor="right",
            xshift=-10,
        )
        for y, (_, loss), span, is_far in zip(
            places,
            rows,
            spans,
            far,
            strict=True,
        )
        if is_far
    ]
    upright = {
        "type": "line",
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "xref": "x",
    }
    layout = style.chart_frame(
        TASKS_TITLE,
        _TOP + _BOTTOM + _ROW * len(rows),
        colours,
        margin={
            "l": 8,
            "r": 30,
            "t": _TOP,
            "b": _BOTTOM,
        },
        xaxis=style.x_axis(
            "Acceptable: up to 1",
            colours,
            range=[low, high],
            nticks=8,
        ),
        yaxis=style.fixed_axis(
            colours,
            range=[0.4, len(rows) + 0.6],
            tickvals=places,
            ticktext=[style.plain(name) for name in names],
            showgrid=False,
            automargin=True,
            ticklabelstandoff=8,
        ),
        annotations=signs,
        shapes=[
            upright
            | {
                "x0": 0,
                "x1": 0,
                "line": {"color": colours.dense, "width": 2},
            },
            upright
            | {
                "x0": 1,
                "x1": 1,
                "line": {
                    "color": colours.muted,
                    "width": 1,
                    "dash": "dot",
                },
            },
        ],
    )
    return go.Figure(traces, layout)


def _placed(multiple: float) -> float:
    return max(-_FARTHEST, min(_FARTHEST, multiple))


def task_words(results: Sequence[TaskResult]) -> str:
    """What the chart shows, for screen readers."""
    parts = [
        f"{result.task} {result.loss.value / result.loss.most:.1f}, {result.verdict}"
        for result in results
        if result.loss
    ]
    return f"{TASKS_TITLE}: {'; '.join(parts)}."
