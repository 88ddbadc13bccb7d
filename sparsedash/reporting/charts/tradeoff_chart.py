"""The charts of loss: against measured sparsity, a line for each method, and against what is won in
speed or bytes.

Intervals at every point, dense drawn across. A point far below the others stands at the lower edge,
with an arrow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from sparsedash.catalog.published_results import PublishedRow
from sparsedash.reporting.charts import chart_style as style
from sparsedash.reporting.charts import tradeoff_data
from sparsedash.reporting.charts.chart_style import PALETTES, Label, Palette, Theme
from sparsedash.reporting.charts.tradeoff_data import (
    GainAxis,
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
    "word perplexity": "Word perplexity, × dense; further down is worse",
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
_HEIGHT = 320
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
_SIGN_ROOM = 0.055
"""Room of a verdict's sign in its row, as a share of the axis."""
_AXIS_TITLE = 30
_TITLE_LINE = 18
"""Characters of an axis title that a phone has room for, and pixels of another line of it."""
_AIR = 0.06

Mark = tuple[float, Point, Reading]
"""A point with one of its readings, and its place on the x axis."""


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line with its points, and how it is drawn.

    sign: before its label, empty of the only line. ink, text_ink: colours of marks and label.
    is_faded: another line is highlighted.
    """

    label: str
    points: Sequence[Point]
    symbol: str
    sign: str
    dash: str
    size: int
    ink: str
    text_ink: str
    is_only: bool
    is_strong: bool
    is_faded: bool

    def inks(self, role: Role, colours: Palette) -> tuple[str, str]:
        """The colours of marks that count this, and of their label."""
        if self.is_only and role != "sparse":
            ink = colours.broke if role == "broke" else colours.fixed
            return ink, ink
        return self.ink, self.text_ink


def _lines(tradeoff: TradeoffData, colours: Palette) -> list[_Line]:
    """The lines of a chart, in drawing order."""
    is_only = len(tradeoff.lines) == 1
    has_highlight = tradeoff.highlighted in tradeoff.lines
    strongest = tradeoff.highlighted if has_highlight else tradeoff.leader
    lines = []
    for i, (label, points) in enumerate(tradeoff.lines.items()):
        symbol, sign = list(SYMBOLS.items())[i % len(SYMBOLS)]
        is_strong = is_only or label == strongest
        inks = (colours.sparse, colours.sparse_text)
        if has_highlight and not is_strong:
            inks = (colours.faded, colours.muted)
        elif not is_only:
            inks = (colours.lines[i % len(colours.lines)],) * 2
        line = _Line(
            label=label,
            points=points,
            symbol=symbol,
            sign="" if is_only else f"{sign} ",
            dash=DASHES[i % len(DASHES)],
            size=7 if len(tradeoff.lines) > _FEW else 9,
            ink=inks[0],
            text_ink=inks[1],
            is_only=is_only,
            is_strong=is_strong,
            is_faded=has_highlight and not is_strong,
        )
        lines.append(line)
    return lines


def tradeoff_chart(
    tradeoff: TradeoffData, measure: Measure = "word perplexity", theme: Theme = "light"
) -> go.Figure:
    """The chart of one measure against the measured share of a budget, every value with its
    interval.
    """
    colours = PALETTES[theme]
    axis = tradeoff_data.loss_axis(tradeoff, measure)
    x_range = (-tradeoff_data.MARGIN * tradeoff.sparsity_end, tradeoff.sparsity_end)
    lines = _lines(tradeoff, colours)
    traces = _ground(tradeoff, measure, x_range, colours)
    # The strongest line lies above the others.
    for line in sorted(lines, key=lambda line: line.is_strong):
        traces += _live_marks(line, axis)
        traces += _strands(line, axis, tradeoff.dense_value(measure), colours)
    traces.append(_dense_point(tradeoff, 0, measure, colours))
    labels = [_dense_label(tradeoff, measure, colours)]
    notes = []
    for line in lines:
        labels += _line_labels(line, axis, colours)
        places = {point.key: point.sparsity for point in line.points if not point.live}
        notes += _far_arrows(line, axis, places)
    if measure == "share right" and tradeoff.published:
        published = _published_trace(tradeoff.published, colours)
        traces.append(published)
        x = published["x"][-1]
        y = published["y"][-1]
        notes.append(style.annotation(PUBLISHED, x, y, colours.muted, yshift=_NOTE))
    # Verdicts stand in rows under the axis: beside their marks they would cover lines and bars.
    below = 0
    if measure in tradeoff.limits:
        notes += _verdict_rows(
            lines, measure, colours, _SIGN_ROOM * (x_range[1] - x_range[0])
        )
        below = _VERDICT_ROW * len(lines) + 6
    title = style.wrap_label(tradeoff.sparsity_title, longest=_AXIS_TITLE)
    across = style.x_axis(
        "<br>".join(title),
        colours,
        range=list(x_range),
        ticksuffix=" %",
        showticksuffix="last",
        ticklabelstandoff=below,
    )
    across["title"]["standoff"] = below + 12
    height = max(_HEIGHT - _TOP - _BOTTOM, style.room_for(labels))
    bottom = _BOTTOM + below + _TITLE_LINE * (len(title) - 1)
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
    return layout | style.label_layout(
        labels, axis.range, height, colours, x_range=(low, high)
    )


def _dense_label(tradeoff: TradeoffData, measure: Measure, colours: Palette) -> Label:
    return Label(y=tradeoff.dense_value(measure), lines=["dense"], colour=colours.dense)


def _settled(line: _Line, measure: Measure) -> list[Point]:
    """The points of a line that were measured, by rising sparsity."""
    points = [
        point for point in line.points if not point.live and measure in point.readings
    ]
    return sorted(points, key=lambda point: point.sparsity)


def _live_marks(line: _Line, axis: LossAxis) -> list[dict[str, Any]]:
    """The mark of the model that is being evaluated, if this line has it."""
    traces = []
    for point in line.points:
        if point.live and axis.measure in point.readings:
            mark = (point.sparsity, point, point.readings[axis.measure][0])
            marks = _marks(line, [mark], axis, line.ink, is_strong=True)
            marks["marker"] |= {"symbol": f"{line.symbol}-open-dot", "size": 12}
            traces.append(marks | {"name": "live"})
    return traces


def _strands(
    line: _Line, axis: LossAxis, dense_value: float, colours: Palette
) -> list[dict[str, Any]]:
    """The line with its marks; broken and fixed answers are two strands of marks."""
    settled = _settled(line, axis.measure)
    traces = []
    for readings in zip(
        *(point.readings[axis.measure] for point in settled), strict=True
    ):
        role = readings[0].role
        ink, _ = line.inks(role, colours)
        drawn = [
            (point.sparsity, point, reading)
            for point, reading in zip(settled, readings, strict=True)
        ]
        marks = _marks(line, drawn, axis, ink, is_strong=line.is_strong)
        marks["marker"]["size"] = line.size
        if line.is_faded:
            del marks["error_y"]
        strand = {
            "name": "line",
            "x": [0.0, *marks["x"]],
            # Through points at the edge the line leads to where they belong, and is cut off by the
            # plot.
            "y": [dense_value, *(reading.value for reading in readings)],
            "mode": "lines",
            "line": {
                "color": ink,
                "width": 2.5 if line.is_strong else 1.5,
                "dash": line.dash,
            },
            "hoverinfo": "skip",
        }
        traces += [strand, marks | {"name": role}]
    return traces


def _line_labels(line: _Line, axis: LossAxis, colours: Palette) -> list[Label]:
    """The labels of a line at its last point: one that only keeps the room where it has none yet."""
    live = [
        point for point in line.points if point.live and axis.measure in point.readings
    ]
    ends = _settled(line, axis.measure)[-1:] or live[:1]
    if not ends:
        lines = style.wrap_label(line.label, line.sign)
        return [Label(y=None, lines=lines, colour=line.text_ink)]
    (end,) = ends
    labels = []
    for reading in end.readings[axis.measure]:
        if reading.role == "fixed" and not line.is_only:
            continue
        text: str = line.label
        if line.is_only and reading.role != "sparse":
            text = reading.role
        _, colour = line.inks(reading.role, colours)
        label = Label(
            x=end.sparsity,
            y=axis.place(reading),
            lines=style.wrap_label(text, line.sign),
            colour=colour,
        )
        labels.append(label)
    return labels


def gain_chart(
    tradeoff: TradeoffData, gained: GainAxis, measure: Measure, theme: Theme = "light"
) -> go.Figure:
    """Chart of the loss, by one measure, against the gain, the Pareto front joined. Only known gains
    are drawn.
    """
    colours = PALETTES[theme]
    axis = tradeoff_data.loss_axis(tradeoff, measure)
    front = _front(tradeoff, gained, measure)
    x_range = _gain_range(tradeoff, gained)
    # The dense model's own interval would need a label.
    ground = _ground(tradeoff, measure, x_range, colours)
    traces = [trace for trace in ground if trace["name"] != "dense interval"]
    traces[-1]["name"] = "across"
    if front:
        traces.append(_front_line(front, colours))
    labels = [_dense_label(tradeoff, measure, colours)]
    notes = []
    won = []
    for line in _lines(tradeoff, colours):
        marks = []
        for point in line.points:
            if gain := gained.gains.get(point.key):
                marks.append((gain.value, point, point.readings[measure][0]))
        if not marks:
            continue
        traces.append(_gain_marks(line, marks, gained, axis))
        x, _, reading = max(marks, key=lambda mark: (mark[0], axis.place(mark[2])))
        lines = style.wrap_label(line.label, line.sign)
        labels.append(
            Label(x=x, y=axis.place(reading), lines=lines, colour=line.text_ink)
        )
        notes += _far_arrows(line, axis, {point.key: gain for gain, point, _ in marks})
        won += [(gain, point) for gain, point, _ in marks]
    traces.append(_dense_point(tradeoff, 1, measure, colours))
    if len(tradeoff.lines) > 1 and front:
        # Labels of all points of several methods would leave no room for each other.
        keys = {key for key, *_ in front}
        won = [(gain, point) for gain, point in won if point.key in keys]
    notes += _share_labels(won, axis, measure, colours)
    across = style.x_axis(
        "<br>".join(style.wrap_label(gained.name, longest=_AXIS_TITLE)),
        colours,
        range=list(x_range),
        nticks=6,
    )
    height = max(_GAIN_HEIGHT - _TOP - _BOTTOM, style.room_for(labels))
    title = (
        "Answers broken, %{of}; further down is worse"
        if measure == "flips"
        else TITLES[measure]
    )
    title_words = title.format(of=_of_all(tradeoff))
    layout = _loss_layout(title_words, height, _BOTTOM, colours, across, axis, labels)
    layout["annotations"] += notes
    return go.Figure(traces, layout)


def _gain_range(tradeoff: TradeoffData, gained: GainAxis) -> tuple[float, float]:
    """The gains from dense's to the largest, with their intervals and some air."""
    bounds = [1.0, 1.05]
    for point in tradeoff.sparse:
        if gain := gained.gains.get(point.key):
            bounds += [gain.low, gain.high]
    air = _AIR * (max(bounds) - min(bounds))
    return min(bounds) - air, max(bounds) + air


def _front_line(
    front: Sequence[tuple[str, float, float]], colours: Palette
) -> dict[str, Any]:
    """The Pareto front joined."""
    return {
        "name": "unbeaten",
        "x": [gain for _, gain, _ in front],
        "y": [value for _, _, value in front],
        "mode": "lines",
        "line": {"color": colours.faded, "width": 2},
        "hoverinfo": "skip",
    }


def _gain_marks(
    line: _Line, marks: Sequence[Mark], gained: GainAxis, axis: LossAxis
) -> dict[str, Any]:
    """The marks of a line at their gains, with the intervals of both."""
    gains = [gained.gains[point.key] for _, point, _ in marks]
    trace = _marks(line, marks, axis, line.ink, details=[gain.words for gain in gains])
    bars = [(gain.value, gain.low, gain.high) for gain in gains]
    return trace | {"error_x": style.error_bars(bars, line.ink)}


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
        # In two lines, since a phone has no room for one.
        text = share
        if measure in point.verdicts:
            text = f"{share}<br>{VERDICT_GLYPHS[point.verdicts[measure]]}"
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
    """`tradeoff_chart` in words, for screen readers."""
    shares = measure == "share right"
    n_of = _of_all(tradeoff)
    over = f" over {quantity(tradeoff.n_passages, 'passage')}" if n_of else ""
    parts = [f"dense {tradeoff.dense.readings[measure][0].words}"] if shares else []
    for label, points in tradeoff.lines.items():
        for point in sorted(points, key=lambda point: point.sparsity):
            if point.live:
                continue
            words = (
                f"{label} at {point.sparsity:.1f} % {point.readings[measure][0].words}"
            )
            if measure in point.verdicts:
                words = f"{words}, {point.verdicts[measure]}"
            parts.append(words)
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
    return f"{what} against the share of {tradeoff.sparsity_title}, with intervals: {'; '.join(parts)}.{published}"


def _of_all(tradeoff: TradeoffData) -> str:
    """ " of 1,000"; nothing where models that stopped early answered fewer."""
    return (
        ""
        if any(point.hollow for point in tradeoff.sparse)
        else f" of {tradeoff.n_passages:,}"
    )


def gain_words(tradeoff: TradeoffData, gained: GainAxis, measure: Measure) -> str:
    """`gain_chart` in words, for screen readers."""
    front = {key for key, _, _ in _front(tradeoff, gained, measure)}
    parts = []
    for label, points in tradeoff.lines.items():
        for point in points:
            if point.key not in gained.gains:
                continue
            gain = gained.gains[point.key].words
            loss = point.readings[measure][0].words
            place = " (on the Pareto front)" if point.key in front else ""
            parts.append(f"{label} at {point.sparsity:.1f} % {gain}, {loss}{place}")
    return f"{measure.capitalize()} against {gained.name}: {'; '.join(parts) or 'no model yet'}."


def far_words(tradeoff: TradeoffData, measure: Measure) -> str:
    """Meaning of the arrows; nothing if there are none."""
    bottom = tradeoff_data.loss_axis(tradeoff, measure).bottom
    if any(point.readings[measure][0].value < bottom for point in tradeoff.sparse):
        return "An arrow at the lower edge: the point lies farther down; the table has its value."
    return ""


def _front(
    tradeoff: TradeoffData, gained: GainAxis, measure: Measure
) -> list[tuple[str, float, float]]:
    """The Pareto front of dense and the sparse models, by rising gain: each key with its gain and
    its loss.

    None over tasks: an easy one of a model would stand for the model.
    """
    if measure == "tasks":
        return []
    models = [(tradeoff.dense.key, 1.0, tradeoff.dense_value(measure))]
    for point in tradeoff.sparse:
        if gain := gained.gains.get(point.key):
            models.append((point.key, gain.value, point.readings[measure][0].value))
    places = pareto_front([(gained_value, value) for _, gained_value, value in models])
    return [models[i] for i in places]


def _verdict_ink(point: Point, measure: Measure, colours: Palette) -> str:
    inks = {"within": colours.fixed, "beyond": colours.broke}
    return inks.get(point.verdicts.get(measure, ""), colours.muted)


def _ground(
    tradeoff: TradeoffData,
    measure: Measure,
    ends: tuple[float, float],
    colours: Palette,
) -> list[dict[str, Any]]:
    """The ground of a chart: the tolerance as a band under dense, dense across, with its interval
    if it has one.
    """
    top = tradeoff.dense_value(measure)
    bands = []
    if measure in tradeoff.limits:
        bands.append((top - tradeoff.limits[measure], top, colours.allowed, "allowed"))
    if measure == "share right":
        (reading,) = tradeoff.dense.readings[measure]
        bands.append((reading.low, reading.high, colours.band, "dense interval"))
    across = {"mode": "lines", "hoverinfo": "skip"}
    traces: list[dict[str, Any]] = []
    for low, high, colour, name in bands:
        band = {
            "name": name,
            "x": [*ends, *reversed(ends)],
            "y": [low, low, high, high],
            "fill": "toself",
            "fillcolor": colour,
            "line": {"width": 0},
        }
        traces.append(across | band)
    line = {
        "name": "dense",
        "x": list(ends),
        "y": [top, top],
        "line": {"color": colours.dense, "width": 2},
    }
    return [*traces, across | line]


def _dense_point(
    tradeoff: TradeoffData, x: float, measure: Measure, colours: Palette
) -> dict[str, Any]:
    facts = "<br>".join(["dense", *map(style.plain, tradeoff.dense.facts)])
    return {
        "x": [x],
        "y": [tradeoff.dense_value(measure)],
        "mode": "markers",
        "marker": {"color": colours.dense, "size": 10},
        "cliponaxis": False,
        "name": "dense",
        "hovertemplate": f"{facts}<extra></extra>",
    }


def _marks(
    line: _Line,
    marks: Sequence[Mark],
    axis: LossAxis,
    ink: str,
    *,
    details: Sequence[str] = (),
    is_strong: bool = False,
) -> dict[str, Any]:
    """Marks with intervals; hollow ones answered fewer passages than dense. details: more about each,
    when pointed at.
    """
    bars = []
    data = []
    for i, (_, point, reading) in enumerate(marks):
        facts = [
            f"{style.plain(line.label)}, {reading.words}",
            *details[i : i + 1],
            *point.facts,
        ]
        data.append(["<br>".join(facts), point.key])
        is_far = reading.value < axis.bottom
        bars.append(
            (axis.edge,) * 3 if is_far else (reading.value, reading.low, reading.high)
        )
    symbols = {True: f"{line.symbol}-open", False: line.symbol}
    return {
        "x": [x for x, _, _ in marks],
        "y": [value for value, _, _ in bars],
        "mode": "markers",
        "name": line.label,
        "marker": {
            "color": ink,
            "symbol": [symbols[point.hollow] for _, point, _ in marks],
            "size": 9,
            "opacity": 1,
            "line": {
                "color": ink,
                "width": [
                    2 if point.hollow or point.live else 0 for _, point, _ in marks
                ],
            },
        },
        "error_y": style.error_bars(
            bars, ink, 1.25 if is_strong else 0.75, 5 if is_strong else 3
        ),
        "cliponaxis": False,
        "customdata": data,
        "hovertemplate": "%{customdata[0]}<extra></extra>",
    }


def _published_trace(rows: Sequence[PublishedRow], colours: Palette) -> dict[str, Any]:
    """Published results as grey diamonds, open for dense."""
    places = []
    hover_texts = []
    for row in rows:
        ends = {
            "dense": (0.0, row.dense),
            "sparse": (row.sparsity_permille / 10, row.sparse),
        }
        for name, (sparsity, share) in ends.items():
            places.append((sparsity, 100 * share))
            hover_texts.append(f"published, {name}<br>{100 * share:.2f} %")
    return {
        "x": [x for x, _ in places],
        "y": [y for _, y in places],
        "mode": "markers",
        "name": PUBLISHED,
        "cliponaxis": False,
        "marker": {
            "color": colours.muted,
            "size": 11,
            "symbol": ["diamond-open", "diamond"] * len(rows),
            "line": {"color": colours.muted, "width": 1.5},
        },
        "customdata": hover_texts,
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _verdict_rows(
    lines: Sequence[_Line], measure: Measure, colours: Palette, room: float
) -> list[dict[str, Any]]:
    """Notes under the axis: a row for each line, with its verdicts under its points.

    room: of a sign, in the unit of the axis.
    """
    notes = []
    for i, line in enumerate(lines):
        row: dict[str, Any] = {"yref": "paper", "yshift": -_VERDICT_ROW * (i + 0.7)}
        head = row | {"xref": "paper", "xanchor": "right", "xshift": -8}
        if line.is_only:
            notes.append(style.annotation("verdict", 0, 0, colours.muted, 12, **head))
        else:
            notes.append(
                style.annotation(line.sign.strip(), 0, 0, line.text_ink, 14, **head)
            )
        judged = [point for point in line.points if measure in point.verdicts]
        judged.sort(key=lambda point: point.sparsity)
        places = _apart([point.sparsity for point in judged], room)
        for point, place in zip(judged, places, strict=True):
            glyph = VERDICT_GLYPHS[point.verdicts[measure]]
            ink = _verdict_ink(point, measure, colours)
            notes.append(style.annotation(glyph, place, 0, ink, **row))
    return notes


def _apart(places: Sequence[float], room: float) -> list[float]:
    """Rising places with so much room for each; those that are too near spread about their middle."""
    groups: list[list[float]] = []
    for place in places:
        if groups and place - groups[-1][-1] < room:
            groups[-1].append(place)
        else:
            groups.append([place])
    spread = []
    for group in groups:
        first = sum(group) / len(group) - room * (len(group) - 1) / 2
        spread += (
            [first + room * i for i in range(len(group))] if len(group) > 1 else group
        )
    return spread


def _far_arrows(
    line: _Line, axis: LossAxis, places: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Arrows of a line's points at the edge. places: on the x axis, by the keys of the points."""
    arrows = []
    for point in line.points:
        if (
            point.key not in places
            or point.readings[axis.measure][0].value >= axis.bottom
        ):
            continue
        arrow = style.annotation(
            "",
            places[point.key],
            axis.edge,
            line.ink,
            arrowcolor=line.ink,
            arrowwidth=1.25,
            ax=0,
            ay=-_ARROW,
            yshift=-_ARROW,
            arrowhead=2,
        )
        arrows.append(arrow | {"showarrow": True})
    return arrows
