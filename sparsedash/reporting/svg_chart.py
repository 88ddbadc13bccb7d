"""The trade-off chart as inline SVG, for the report: it needs no script, opens anywhere and can be printed."""

from statistics import fmean

from sparsedash.reporting.charts.chart_style import place_labels
from sparsedash.reporting.charts.tradeoff_chart import (
    SYMBOLS,
    TITLES,
    FarGroup,
    Line,
    chart_lines,
    clip_far_points,
    far_groups,
    tradeoff_words,
)
from sparsedash.reporting.charts.tradeoff_data import (
    Measure,
    Point,
    Reading,
    TradeoffData,
    measure_range,
    measure_ticks,
    round_ticks,
)
from sparsedash.reporting.html import Html, element, escape

_WIDTH, _HEIGHT = 720, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 190, 24, 48
_DASHES = ("", "7 4", "2 4", "7 3 2 3")
_LABEL_HEIGHT = 16


class _Plane:
    """Where a share of channels removed, in percent, and a value of the measure stand in the picture."""

    def __init__(self, tradeoff: TradeoffData, measure: Measure) -> None:
        self.measure: Measure = measure
        self.low, self.high = measure_range(tradeoff, measure)
        self.end = max([1.0, *(point.sparsity for point in tradeoff.sparse)]) * 1.04

    def x(self, removed: float) -> str:
        return f"{_LEFT + removed / self.end * (_WIDTH - _LEFT - _RIGHT):.1f}"

    def y(self, value: float) -> str:
        height = _HEIGHT - _TOP - _BOTTOM
        return f"{_TOP + (self.high - value) / (self.high - self.low) * height:.1f}"

    def reading(self, point: Point) -> Reading:
        return point.readings[self.measure][0]


def tradeoff_svg(tradeoff: TradeoffData, measure: Measure) -> Html:
    """A measure against measured sparsity, every value with its interval, what is allowed as a band under dense.

    measure: one that has a single reading for each model.
    """
    tradeoff = clip_far_points(tradeoff, measure)
    plane = _Plane(tradeoff, measure)
    lines = [line for line in chart_lines(tradeoff, plane.end) if line.points]
    dense = tradeoff.dense_value(measure)
    drawn = [_plot(plane), *_allowed(tradeoff, plane), *_axes(plane, tradeoff), *_across(plane.y(dense))]
    for i, line in enumerate(lines):
        drawn += _line(dense, line, _DASHES[i % len(_DASHES)], plane)
    drawn += [note for group in far_groups(lines, measure) for note in _far(group, plane)]
    drawn += _labels(dense, lines, plane)
    return element(
        "svg",
        *drawn,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=tradeoff_words(tradeoff, measure),
        xmlns="http://www.w3.org/2000/svg",
    )


def _axes(plane: _Plane, tradeoff: TradeoffData) -> list[Html]:
    drawn = []
    marks = measure_ticks(plane.measure, (plane.low, plane.high))
    for value, words in zip(marks["tickvals"], marks["ticktext"], strict=True):
        y = plane.y(value)
        drawn.append(element("line", x1=str(_LEFT), x2=str(_WIDTH - _RIGHT), y1=y, y2=y, css="grid"))
        drawn.append(_text(words, str(_LEFT - 8), y, "end"))
    below = str(_HEIGHT - _BOTTOM + 18)
    for percent in round_ticks(0.0, plane.end):
        drawn.append(_text(f"{percent:g} %", plane.x(percent), below, "middle"))
    drawn.append(_text(TITLES[plane.measure].format(total=tradeoff.n_passages), str(_LEFT), "14", "start"))
    middle = str((_LEFT + _WIDTH - _RIGHT) // 2)
    drawn.append(_text(tradeoff.taken, middle, str(_HEIGHT - 8), "middle"))
    return drawn


def _allowed(tradeoff: TradeoffData, plane: _Plane) -> list[Html]:
    """What may be lost, from dense down; nothing where a measure is not judged."""
    if plane.measure not in tradeoff.allowed:
        return []
    top = tradeoff.dense_value(plane.measure)
    edge = plane.y(top)
    height = f"{float(plane.y(top - tradeoff.allowed[plane.measure])) - float(edge):.1f}"
    return [element("rect", x=str(_LEFT), y=edge, width=str(_WIDTH - _LEFT - _RIGHT), height=height, css="allowed")]


def _across(y: str) -> list[Html]:
    return [element("line", x1=str(_LEFT), x2=str(_WIDTH - _RIGHT), y1=y, y2=y, css="dense")]


def _labels(dense: float, lines: list[Line], plane: _Plane) -> list[Html]:
    """The names of dense and of every line at the right edge, none on another."""
    ends = [dense, *(plane.reading(line.points[-1]).value for line in lines)]
    wanted = [float(plane.y(value)) for value in ends]
    heights = place_labels(wanted, [_LABEL_HEIGHT] * len(ends), _HEIGHT - _BOTTOM)
    edge = str(_WIDTH - _RIGHT + 8)
    names = ["dense", *(f"{SYMBOLS[line.symbol]} {line.label}" for line in lines)]
    return [_text(n, edge, f"{y:.1f}", "start") for n, y in zip(names, heights, strict=True)]


def _line(dense: float, line: Line, dash: str, plane: _Plane) -> list[Html]:
    stands = [(plane.x(place), plane.reading(point)) for place, point in zip(line.places, line.points, strict=True)]
    ends = [(plane.x(0.0), dense), *((x, reading.place) for x, reading in stands)]
    points = " ".join(f"{x},{plane.y(value)}" for x, value in ends)
    cut = f"url(#{_cut_off(plane)})" if any(reading.farther is not None for _, reading in stands) else ""
    drawn = [element("polyline", points=points, stroke_dasharray=dash, css="sparse", clip_path=cut)]
    for x, reading in stands:
        drawn.append(element("line", x1=x, x2=x, y1=plane.y(reading.low), y2=plane.y(reading.high), css="sparse"))
        drawn.append(_text(SYMBOLS[line.symbol], x, plane.y(reading.value), "middle", css="point"))
    return drawn


def _far(group: FarGroup, plane: _Plane) -> list[Html]:
    """The arrows of points at the edge, and above them what stands there."""
    edge = float(plane.y(group.edge))
    drawn = [_text("↓", plane.x(place), f"{edge + _LABEL_HEIGHT:.1f}", "middle") for place in group.places]
    middle = plane.x(fmean(group.places))
    return drawn + [
        _text(said, middle, f"{edge - _LABEL_HEIGHT * (i + 1):.1f}", "middle")
        for i, said in enumerate(reversed(group.said))
    ]


def _plot(plane: _Plane) -> Html:
    """The plot, beyond which no line leads."""
    box = element(
        "rect", x=str(_LEFT), y=str(_TOP), width=str(_WIDTH - _LEFT - _RIGHT), height=str(_HEIGHT - _TOP - _BOTTOM)
    )
    return element("clipPath", box, id=_cut_off(plane))


def _cut_off(plane: _Plane) -> str:
    return f"plot-{plane.measure.replace(' ', '-')}"


def _text(words: str, x: str, y: str, anchor: str, css: str = "") -> Html:
    return element("text", escape(words), x=x, y=y, text_anchor=anchor, dominant_baseline="central", css=css)
