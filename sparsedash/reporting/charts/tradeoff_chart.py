"""The charts of loss: against measured sparsity, a line for each method, and against what is won in
speed or bytes.

Intervals at every point, dense drawn across. A point far below the others stands at the lower edge,
with an arrow.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import plotly.graph_objects as go

from sparsedash.catalog.published_results import PublishedRow
from sparsedash.reporting.charts import chart_style as style
from sparsedash.reporting.charts import tradeoff_data
from sparsedash.reporting.charts.chart_style import PALETTES, Label, Palette, Theme
from sparsedash.reporting.charts.tradeoff_data import (
    Gained,
    LossAxis,
    Measure,
    Point,
    Reading,
    Role,
    TradeoffData,
)
from sparsedash.reporting.wording import quantity
from sparsedash.stats.sparsity_search import pareto_front
from sparsedash.stats.tolerance import Verdict

TITLES: dict[Measure, str] = {
    "word perplexity": "Word perplexity, × dense; lower is worse",
    "accuracy": "Accuracy, points above or below dense",
    "flips": "Answers fixed and broken, %{of}",
    "share right": "Last words right, %{of}",
    "tasks": "Tasks, points above or below dense",
}
"""No longer than a phone is wide."""
SYMBOLS = {
    "circle": "●",
    "square": "■",
    "diamond": "◆",
    "triangle-up": "▲",
    "triangle-down": "▼",
    "star": "★",
    "hexagon": "⬢",
    "bowtie": "⧓",
}
"""The marks that tell methods apart, by plotly's names, with the sign that stands before the
method's label.
"""
DASHES = (
    "solid",
    "7px,4px",
    "2px,3px",
    "9px,3px,2px,3px",
    "14px,4px",
    "4px,8px",
    "9px,3px,2px,3px,2px,3px",
    "1px,6px",
)
VERDICT_GLYPHS: dict[Verdict, str] = {"within": "✓", "beyond": "✕", "undecided": "?"}
PUBLISHED = "published"
_HEIGHT = 380
_GAIN_HEIGHT = 400
_TOP = 44
_BOTTOM = 52
_LEFT = 52
_FEW = 3
_NOTE = 16
"""Pixels from a mark up to the middle of its note."""
_ARROW = 18
"""Pixels from a mark down to the tip of its arrow."""
_VERDICT_ROW = 18
"""Pixels from row to row of verdicts under the axis."""
_AXIS_TITLE = 30
_TITLE_LINE = 18
"""Characters of an axis title that a phone has room for, and pixels of another line of it."""
_AIR = 0.06

Mark = tuple[float, Point, Reading]
"""A point with one of its readings, and its place on the x axis."""


def tradeoff_chart(
    tradeoff: TradeoffData, measure: Measure = "word perplexity", theme: Theme = "light"
) -> go.Figure:
    """The chart of one measure against the measured share of a budget, every value with its
    interval.
    """
    colours = PALETTES[theme]
    axis = tradeoff_data.loss_axis(tradeoff, measure)
    x_range = (-tradeoff_data.MARGIN * tradeoff.sparsity_end, tradeoff.sparsity_end)
    labels = [
        Label(
            y=tradeoff.dense_value(measure),
            lines=["dense"],
            colour=colours.dense,
        )
    ]
    lines: list[tuple[bool, list[dict[str, Any]]]] = []
    for i, points in enumerate(tradeoff.lines.values()):
        shown = sorted(
            (point for point in points if measure in point.readings),
            key=lambda point: (point.live, point.sparsity),
        )
        line_traces, line_labels = _line(
            tradeoff,
            axis,
            i,
            shown,
            colours,
        )
        lines.append((_is_strong(tradeoff, i), line_traces))
        labels += line_labels
    # The strongest line lies above the others.
    lines.sort(key=lambda line: line[0])
    traces = [
        *_ground(
            tradeoff,
            measure,
            x_range,
            colours,
        ),
        *chain.from_iterable(line_traces for _, line_traces in lines),
        _dense_point(
            tradeoff,
            0,
            measure,
            colours,
        ),
    ]
    is_published = measure == "share right" and bool(tradeoff.published)
    if is_published:
        traces.append(_published_trace(tradeoff.published, colours))
    height = max(_HEIGHT - _TOP - _BOTTOM, style.room_for(labels))
    notes = _far_arrows(tradeoff, axis, colours)
    if is_published:
        published = traces[-1]
        place = (published["x"][-1], published["y"][-1])
        notes.append(
            style.annotation(
                PUBLISHED,
                *place,
                colours.muted,
                yshift=_NOTE,
            )
        )
    # Verdicts stand in rows under the axis: beside their marks they would cover lines and bars.
    below = 0
    if measure in tradeoff.allowed:
        notes += _verdict_rows(tradeoff, measure, colours)
        below = _VERDICT_ROW * len(tradeoff.lines) + 6
    title = style.wrap_label(tradeoff.taken, longest=_AXIS_TITLE)
    bottom = _BOTTOM + below + _TITLE_LINE * (len(title) - 1)
    across = style.x_axis(
        "<br>".join(title),
        colours,
        range=list(x_range),
        ticksuffix=" %",
        showticksuffix="last",
        ticklabelstandoff=below,
    )
    across["title"]["standoff"] = below + 12
    title_words = TITLES[measure].format(of=_of_all(tradeoff))
    layout = _loss_layout(title_words, height, bottom, colours, across, axis, labels)
    layout["annotations"] += notes
    return go.Figure(traces, layout)


def _loss_layout(
    title: str,
    height: float,
    bottom: int,
    colours: Palette,
    xaxis: dict[str, Any],
    axis: LossAxis,
    labels: Sequence[Label],
) -> dict[str, Any]:
    """The layout of a chart of losses, with the labels of its lines.

    height, bottom: of the plot and of the margin below it, in pixels.
    """
    layout = style.chart_frame(
        title,
        round(height) + _TOP + bottom,
        colours,
        margin={"l": _LEFT, "t": _TOP, "b": bottom},
        xaxis=xaxis,
        yaxis=style.y_axis(colours, range=list(axis.range), **axis.ticks),
    )
    low, high = xaxis["range"]
    return layout | style.label_layout(labels, axis.range, height, colours, x_range=(low, high))


def _line(
    tradeoff: TradeoffData,
    axis: LossAxis,
    line_index: int,
    points: Sequence[Point],
    colours: Palette,
) -> tuple[list[dict[str, Any]], list[Label]]:
    """The traces of a method's line and its labels: one that only keeps the room where it has no
    point yet.

    line_index: which line it is. points: a live one last.
    """
    n = len(tradeoff.lines)
    label = list(tradeoff.lines)[line_index]
    strong = _is_strong(tradeoff, line_index)
    symbol = list(SYMBOLS)[line_index % len(SYMBOLS)]
    sign = "" if n == 1 else f"{_sign(line_index)} "
    settled = [point for point in points if not point.live]
    ink, text_ink = _inks(
        tradeoff,
        line_index,
        "sparse",
        colours,
    )
    traces = []
    labels = []
    for live in points[len(settled) :]:
        mark = (live.sparsity, live, live.readings[axis.measure][0])
        marks = _marks(
            label,
            symbol,
            [mark],
            axis,
            ink,
            strong=True,
        )
        marks["marker"] |= {"symbol": f"{symbol}-open-dot", "size": 12}
        traces.append(marks | {"name": "live"})
    if not settled:
        end = {"x": traces[0]["x"][0], "y": traces[0]["y"][0]} if traces else {"x": None, "y": None}
        return traces, [
            Label(
                **end,
                lines=style.wrap_label(label, sign),
                colour=text_ink,
            )
        ]
    # Broken and fixed answers are two strands of marks.
    for readings in zip(
        *(point.readings[axis.measure] for point in settled),
        strict=True,
    ):
        role = readings[0].role
        drawn = [
            (point.sparsity, point, reading)
            for point, reading in zip(settled, readings, strict=True)
        ]
        ink, text_ink = _inks(
            tradeoff,
            line_index,
            role,
            colours,
        )
        marks = _marks(
            label,
            symbol,
            drawn,
            axis,
            ink,
            strong=strong,
            size=7 if n > _FEW else 9,
        )
        if _is_faded(tradeoff, line_index):
            del marks["error_y"]
        # Through points at the edge the line leads to where they belong, and is cut off by the
        # plot.
        heights = [
            tradeoff.dense_value(axis.measure),
            *(reading.value for reading in readings),
        ]
        stroke = {
            "color": ink,
            "width": 2.5 if strong else 1.5,
            "dash": DASHES[line_index % len(DASHES)],
        }
        line = {
            "x": [0.0, *marks["x"]],
            "y": heights,
            "mode": "lines",
            "line": stroke,
            "hoverinfo": "skip",
        }
        traces += [line | {"name": "line"}, marks | {"name": role}]
        if n == 1 or role != "fixed":
            text = (
                {
                    "sparse": label,
                    "broke": "broke",
                    "fixed": "fixed",
                }[role]
                if n == 1
                else label
            )
            end = {"x": marks["x"][-1], "y": marks["y"][-1]}
            labels.append(
                Label(
                    **end,
                    lines=style.wrap_label(text, sign),
                    colour=text_ink,
                )
            )
    return traces, labels


def gain_chart(
    tradeoff: TradeoffData, gained: Gained, measure: Measure, theme: Theme = "light"
) -> go.Figure:
    """What is lost, by one measure, against what is won, the Pareto front joined. Only known gains
    are drawn.
    """
    colours = PALETTES[theme]
    axis = tradeoff_data.loss_axis(tradeoff, measure)
    front = _front(tradeoff, gained, measure)
    gains = {
        point.key: gained.gains[point.key] for point in tradeoff.sparse if point.key in gained.gains
    }
    bounds = [1.0, 1.05]
    for gain in gains.values():
        bounds += [gain.low, gain.high]
    air = _AIR * (max(bounds) - min(bounds))
    x_range = (min(bounds) - air, max(bounds) + air)
    # The dense model's own interval would need a label.
    traces = [
        trace
        for trace in _ground(
            tradeoff,
            measure,
            x_range,
            colours,
        )
        if trace["name"] != "dense interval"
    ]
    traces[-1]["name"] = "across"
    if front:
        traces.append(
            {
                "x": [x for _, x, _ in front],
                "y": [y for *_, y in front],
                "name": "unbeaten",
                "mode": "lines",
                "line": {"color": colours.faded, "width": 2},
                "hoverinfo": "skip",
            }
        )
    won: list[tuple[float, Point]] = []
    labels = [
        Label(
            y=tradeoff.dense_value(measure),
            lines=["dense"],
            colour=colours.dense,
        )
    ]
    for i, (label, points) in enumerate(tradeoff.lines.items()):
        drawn = [(gains[p.key].value, p, p.readings[measure][0]) for p in points if p.key in gains]
        if not drawn:
            continue
        known = [gains[point.key] for _, point, _ in drawn]
        ink, text_ink = _inks(
            tradeoff,
            i,
            "sparse",
            colours,
        )
        marks = _marks(
            label,
            list(SYMBOLS)[i % len(SYMBOLS)],
            drawn,
            axis,
            ink,
            details=[gain.words for gain in known],
        )
        marks["error_x"] = style.error_bars(
            [(gain.value, gain.low, gain.high) for gain in known],
            ink,
        )
        traces.append(marks)
        won += [(x, point) for x, point, _ in drawn]
        x, y = max(zip(marks["x"], marks["y"], strict=True))
        lines = style.wrap_label(
            label,
            f"{_sign(i)} " if len(tradeoff.lines) > 1 else "",
        )
        labels.append(
            Label(
                x=x,
                y=y,
                lines=lines,
                colour=text_ink,
            )
        )
    traces.append(
        _dense_point(
            tradeoff,
            1,
            measure,
            colours,
        )
    )
    height = max(_GAIN_HEIGHT - _TOP - _BOTTOM, style.room_for(labels))
    notes = _far_arrows(
        tradeoff,
        axis,
        colours,
        {point.key: x for x, point in won},
    )
    # Labels of all points of several methods would leave no room for each other.
    labelled = gains if len(tradeoff.lines) == 1 or not front else {key for key, *_ in front}
    with_share = [(gain, point) for gain, point in won if point.key in labelled]
    notes += _share_labels(with_share, axis, measure, colours)
    title = "Answers broken, %{of}; lower is worse" if measure == "flips" else TITLES[measure]
    across = style.x_axis(
        "<br>".join(style.wrap_label(gained.name, longest=_AXIS_TITLE)),
        colours,
        range=list(x_range),
        nticks=6,
    )
    title_words = title.format(of=_of_all(tradeoff))
    layout = _loss_layout(title_words, height, _BOTTOM, colours, across, axis, labels)
    layout["annotations"] += notes
    return go.Figure(traces, layout)


def _share_labels(
    points: Sequence[tuple[float, Point]],
    axis: LossAxis,
    measure: Measure,
    colours: Palette,
) -> list[dict[str, Any]]:
    """The shares and verdicts of points, over their intervals. points: with their gains."""
    labels: dict[str, dict[str, Any]] = {}
    for gain, point in points:
        share = f"{point.permille / 10:g} %" if point.permille else "dense"
        glyphs = [VERDICT_GLYPHS[name] for name in _verdict(point, measure)]
        # In two lines, since a phone has no room for one.
        text = "<br>".join([share, *glyphs])
        (reading, *_) = point.readings[measure]
        # Over the interval: at the mark its bar would cross the letters.
        top = axis.edge if reading.value < axis.bottom else reading.high
        ink = _verdict_ink(point, measure, colours)
        # Two methods at one share lie so close that their equal labels would cover each other.
        labels[text] = style.annotation(text, gain, top, ink, 12, yanchor="bottom")
    return list(labels.values())


def clicked_record(points: Sequence[Mapping[str, Any]]) -> str:
    """The key of the record whose point was clicked; empty where it was another point, or none."""
    data = points[0].get("customdata") if points else None
    return str(data[1]) if isinstance(data, list | tuple) and len(data) == 2 else ""


def tradeoff_words(tradeoff: TradeoffData, measure: Measure = "word perplexity") -> str:
    """What `tradeoff_chart` shows, for screen readers."""
    shares = measure == "share right"
    n_of = _of_all(tradeoff)
    over = f" over {quantity(tradeoff.n_passages, 'passage')}" if n_of else ""
    parts = [f"dense {tradeoff.dense.readings[measure][0].words}"] if shares else []
    for label, points in tradeoff.lines.items():
        parts += [
            ", ".join(
                [
                    f"{label} at {p.sparsity:.1f} % {p.readings[measure][0].words}",
                    *_verdict(p, measure),
                ]
            )
            for p in sorted(points, key=lambda point: point.sparsity)
            if not p.live
        ]
    what = {
        "word perplexity": f"Word perplexity{over}",
        "accuracy": f"Change of accuracy{over}",
        "flips": f"Answers{n_of} that broke or were fixed",
        "share right": f"Share of last words right{over}",
        "tasks": "Change of accuracy on tasks",
    }[measure]
    published = "".join(
        f" Published: dense {100 * row.dense:.2f} %, at {row.sparsity_permille / 10:g} % {100 * row.sparse:.2f} %."
        for row in (tradeoff.published if shares else ())
    )
    return f"{what} against the share of {tradeoff.taken}, with intervals: {'; '.join(parts)}.{published}"


def _of_all(tradeoff: TradeoffData) -> str:
    """ " of 1,000"; nothing where models that stopped early answered fewer."""
    return "" if any(point.hollow for point in tradeoff.sparse) else f" of {tradeoff.n_passages:,}"


def gain_words(tradeoff: TradeoffData, gained: Gained, measure: Measure) -> str:
    """What `gain_chart` shows, for screen readers."""
    front = {key for key, _, _ in _front(tradeoff, gained, measure)}
    parts = []
    for label, points in tradeoff.lines.items():
        for point in points:
            if point.key not in gained.gains:
                continue
            gain, loss = gained.gains[point.key].words, point.readings[measure][0].words
            place = " (on the Pareto front)" if point.key in front else ""
            parts.append(f"{label} at {point.sparsity:.1f} % {gain}, {loss}{place}")
    return f"{measure.capitalize()} against {gained.name}: {'; '.join(parts) or 'no model yet'}."


def far_words(tradeoff: TradeoffData, measure: Measure) -> str:
    """What the arrows mean; nothing where there are none."""
    far = any(
        point.readings[measure][0].value < tradeoff_data.loss_axis(tradeoff, measure).bottom
        for point in tradeoff.sparse
    )
    return (
        "An arrow at the lower edge: the point lies farther down; the table has its value."
        if far
        else ""
    )


def _sign(line_index: int) -> str:
    return list(SYMBOLS.values())[line_index % len(SYMBOLS)]


def _front(
    tradeoff: TradeoffData, gained: Gained, measure: Measure
) -> list[tuple[str, float, float]]:
    """The Pareto front of dense and the sparse models, by rising gain: each key with its gain and
    its loss.

    None over tasks: an easy one of a model would stand for the model.
    """
    if measure == "tasks":
        return []
    models = [(tradeoff.dense.key, 1.0, tradeoff.dense_value(measure))]
    models += [
        (point.key, gained.gains[point.key].value, point.readings[measure][0].value)
        for point in tradeoff.sparse
        if point.key in gained.gains
    ]
    return [models[i] for i in pareto_front([(gain, value) for _, gain, value in models])]


_INKS: dict[Role, tuple[str, str]] = {
    "sparse": ("sparse", "sparse_text"),
    "broke": ("broke", "broke"),
    "fixed": ("fixed", "fixed"),
}
"""The names of the colours of a role's marks and of its label, where there is one line."""


def _inks(tradeoff: TradeoffData, line_index: int, role: Role, colours: Palette) -> tuple[str, str]:
    """The colours of a line's marks and of its label."""
    if _is_faded(tradeoff, line_index):
        return colours.faded, colours.muted
    if len(tradeoff.lines) > 1:
        return (colours.lines[line_index % len(colours.lines)],) * 2
    mark, text = _INKS[role]
    return getattr(colours, mark), getattr(colours, text)


def _is_faded(tradeoff: TradeoffData, line_index: int) -> bool:
    return tradeoff.highlighted in tradeoff.lines and not _is_strong(tradeoff, line_index)


def _is_strong(tradeoff: TradeoffData, line_index: int) -> bool:
    labels = list(tradeoff.lines)
    strongest = tradeoff.highlighted if tradeoff.highlighted in labels else tradeoff.leader
    return len(labels) == 1 or labels[line_index] == strongest


def _verdict(point: Point, measure: Measure) -> list[Verdict]:
    """The verdict by this measure, if there is one."""
    return [point.verdicts[measure]] if measure in point.verdicts else []


def _verdict_ink(point: Point, measure: Measure, colours: Palette) -> str:
    return {"within": colours.fixed, "beyond": colours.broke}.get(
        point.verdicts.get(measure, ""),
        colours.muted,
    )


def _ground(
    tradeoff: TradeoffData, measure: Measure, ends: tuple[float, float], colours: Palette
) -> list[dict[str, Any]]:
    """The ground of a chart: the tolerance as a band under dense, dense across, with its interval
    if it has one.
    """
    top = tradeoff.dense_value(measure)
    bands = list[tuple[float, float, str, str]]()
    if measure in tradeoff.allowed:
        bands.append((top - tradeoff.allowed[measure], top, colours.allowed, "allowed"))
    if measure == "share right":
        (reading,) = tradeoff.dense.readings[measure]
        bands.append((reading.low, reading.high, colours.band, "dense interval"))
    across: dict[str, Any] = {"mode": "lines", "hoverinfo": "skip"}
    shade = {"fill": "toself", "line": {"width": 0}}
    x = [*ends, *reversed(ends)]
    traces = [
        across
        | shade
        | {
            "x": x,
            "y": [
                low,
                low,
                high,
                high,
            ],
            "fillcolor": colour,
            "name": name,
        }
        for low, high, colour, name in bands
    ]
    line = {
        "x": list(ends),
        "y": [top, top],
        "line": {"color": colours.dense, "width": 2},
        "name": "dense",
    }
    return [*traces, across | line]


def _dense_point(
    tradeoff: TradeoffData, x: float, measure: Measure, colours: Palette
) -> dict[str, Any]:
    return {
        "x": [x],
        "y": [tradeoff.dense_value(measure)],
        "mode": "markers",
        "marker": {"color": colours.dense, "size": 10},
        "cliponaxis": False,
        "name": "dense",
        "hovertemplate": "<br>".join(["dense", *map(style.plain, tradeoff.dense.facts)])
        + "<extra></extra>",
    }


def _marks(
    label: str,
    symbol: str,
    marks: Sequence[Mark],
    axis: LossAxis,
    ink: str,
    *,
    details: Sequence[str] = (),
    strong: bool = False,
    size: int = 9,
) -> dict[str, Any]:
    """Marks with intervals; hollow ones answered fewer passages than dense. details: more about each,
    when pointed at.
    """
    points = [point for _, point, _ in marks]
    words = [
        "<br>".join(
            filter(
                None,
                [
                    f"{style.plain(label)}, {reading.words}",
                    more,
                    *point.facts,
                ],
            )
        )
        for (_, point, reading), more in zip(
            marks,
            details or [""] * len(marks),
            strict=True,
        )
    ]
    bars = [
        (r.value, r.low, r.high) if r.value >= axis.bottom else (axis.edge,) * 3 for *_, r in marks
    ]
    return {
        "x": [x for x, *_ in marks],
        "y": [value for value, *_ in bars],
        "mode": "markers",
        "name": label,
        "marker": {
            "color": ink,
            "symbol": [f"{symbol}-open" if point.hollow else symbol for point in points],
            "size": size,
            "opacity": 1,
            "line": {
                "color": ink,
                "width": [2 if point.hollow or point.live else 0 for point in points],
            },
        },
        "error_y": style.error_bars(
            bars,
            ink,
            1.25 if strong else 0.75,
            5 if strong else 3,
        ),
        "cliponaxis": False,
        "customdata": [[text, point.key] for text, point in zip(words, points, strict=True)],
        "hovertemplate": "%{customdata[0]}<extra></extra>",
    }


def _published_trace(rows: Sequence[PublishedRow], colours: Palette) -> dict[str, Any]:
    """Published results as grey diamonds, open for dense."""
    ends = [((0.0, row.dense), (row.sparsity_permille / 10, row.sparse)) for row in rows]
    points = [(x, 100 * share) for x, share in chain.from_iterable(ends)]
    names = ["dense", "sparse"] * len(rows)
    symbols = ["diamond-open", "diamond"] * len(rows)
    return {
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "mode": "markers",
        "name": PUBLISHED,
        "cliponaxis": False,
        "marker": {
            "color": colours.muted,
            "size": 11,
            "symbol": symbols,
            "line": {"color": colours.muted, "width": 1.5},
        },
        "customdata": [
            f"published, {name}<br>{y:.2f} %" for name, (_, y) in zip(names, points, strict=True)
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _verdict_rows(
    tradeoff: TradeoffData, measure: Measure, colours: Palette
) -> list[dict[str, Any]]:
    """Notes under the axis: a row for each line, with its verdicts under its points."""
    notes = []
    several = len(tradeoff.lines) > 1
    for i, points in enumerate(tradeoff.lines.values()):
        row: dict[str, Any] = {"yref": "paper", "yshift": -_VERDICT_ROW * (i + 0.7)}
        name = "verdict"
        size = 12
        ink = colours.muted
        if several:
            name = _sign(i)
            size = 14
            ink = _inks(
                tradeoff,
                i,
                "sparse",
                colours,
            )[1]
        beside: dict[str, Any] = {
            "xref": "paper",
            "xanchor": "right",
            "xshift": -8,
        }
        notes.append(
            style.annotation(
                name,
                0,
                0,
                ink,
                size,
                **beside,
                **row,
            )
        )
        for point in points:
            for verdict in _verdict(point, measure):
                tint = _verdict_ink(point, measure, colours)
                glyph = VERDICT_GLYPHS[verdict]
                notes.append(
                    style.annotation(
                        glyph,
                        point.sparsity,
                        0,
                        tint,
                        **row,
                    )
                )
    return notes


def _far_arrows(
    tradeoff: TradeoffData,
    axis: LossAxis,
    colours: Palette,
    places: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Arrows of the points at the edge. places: on the x axis, by the keys of the points drawn;
    None: their sparsities.
    """
    arrow = {
        "ax": 0,
        "ay": -_ARROW,
        "yshift": -_ARROW,
        "showarrow": True,
        "arrowhead": 2,
    }
    arrows = []
    for i, points in enumerate(tradeoff.lines.values()):
        ink, _ = _inks(
            tradeoff,
            i,
            "sparse",
            colours,
        )
        for point in points:
            x = point.sparsity if places is None else places.get(point.key)
            is_far = not point.live and point.readings[axis.measure][0].value < axis.bottom
            if x is not None and is_far:
                note = style.annotation(
                    "",
                    x,
                    axis.edge,
                    ink,
                    arrowcolor=ink,
                    arrowwidth=1.25,
                )
                arrows.append(note | arrow)
    return arrows
