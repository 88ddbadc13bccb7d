"""The accuracy chart as inline SVG, for the report: it needs no script, opens anywhere and can be printed."""

from sparsedash.reporting.charts.axes import round_places
from sparsedash.reporting.charts.labels import placed
from sparsedash.reporting.charts.marks import SYMBOLS, Line, lines_of
from sparsedash.reporting.charts.points import Point, Reading, TradeoffData
from sparsedash.reporting.html import Html, element, escape

_WIDTH, _HEIGHT = 720, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 190, 24, 48
_DASHES = ("", "7 4", "2 4", "7 3 2 3")
_LABEL_HEIGHT = 16


class _Plane:
    """Where a share of channels removed and a share of right answers, both in percent, stand in the picture."""

    def __init__(self, tradeoff: TradeoffData) -> None:
        read = [_accuracy(point) for point in (tradeoff.dense, *tradeoff.sparse)]
        self.low = max(0.0, min(reading.low for reading in read) - 2)
        self.high = min(100.0, max(reading.high for reading in read) + 2)
        self.end = max([1.0, *(point.sparsity for point in tradeoff.sparse)]) * 1.04

    def x(self, removed: float) -> str:
        return f"{_LEFT + removed / self.end * (_WIDTH - _LEFT - _RIGHT):.1f}"

    def y(self, right: float) -> str:
        height = _HEIGHT - _TOP - _BOTTOM
        return f"{_TOP + (self.high - right) / (self.high - self.low) * height:.1f}"


def accuracy_drawing(tradeoff: TradeoffData, words: str) -> Html:
    """Accuracy against measured sparsity, every value with its 95 % interval.

    words: what it shows, for those who cannot see it.
    """
    plane = _Plane(tradeoff)
    lines = [line for line in lines_of(tradeoff, plane.end) if line.points]
    dense = _accuracy(tradeoff.dense)
    drawn = [*_axes(plane, tradeoff.taken), *_dense(dense, plane)]
    for i, line in enumerate(lines):
        drawn += _line(dense, line, _DASHES[i % len(_DASHES)], plane)
    drawn += _labels(dense, lines, plane)
    return element(
        "svg",
        *drawn,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=words,
        xmlns="http://www.w3.org/2000/svg",
    )


def _axes(plane: _Plane, taken: str) -> list[Html]:
    drawn = []
    for percent in round_places(plane.low, plane.high):
        y = plane.y(percent)
        drawn.append(element("line", x1=str(_LEFT), x2=str(_WIDTH - _RIGHT), y1=y, y2=y, css="grid"))
        drawn.append(_text(f"{percent:g} %", str(_LEFT - 8), y, "end"))
    below = str(_HEIGHT - _BOTTOM + 18)
    for percent in round_places(0.0, plane.end):
        drawn.append(_text(f"{percent:g} %", plane.x(percent), below, "middle"))
    drawn.append(_text("Last word right", str(_LEFT), "14", "start"))
    middle = str((_LEFT + _WIDTH - _RIGHT) // 2)
    drawn.append(_text(taken, middle, str(_HEIGHT - 8), "middle"))
    return drawn


def _dense(dense: Reading, plane: _Plane) -> list[Html]:
    y = plane.y(dense.value)
    height = f"{float(plane.y(dense.low)) - float(plane.y(dense.high)):.1f}"
    width = str(_WIDTH - _LEFT - _RIGHT)
    return [
        element("rect", x=str(_LEFT), y=plane.y(dense.high), width=width, height=height, css="band"),
        element("line", x1=str(_LEFT), x2=str(_WIDTH - _RIGHT), y1=y, y2=y, css="dense"),
    ]


def _labels(dense: Reading, lines: list[Line], plane: _Plane) -> list[Html]:
    """The names of dense and of every line at the right edge, none on another."""
    ends = [dense, *(_accuracy(line.points[-1]) for line in lines)]
    wanted = [float(plane.y(reading.value)) for reading in ends]
    heights = placed(wanted, [_LABEL_HEIGHT] * len(ends), _HEIGHT - _BOTTOM)
    edge = str(_WIDTH - _RIGHT + 8)
    names = ["dense", *(f"{SYMBOLS[line.symbol]} {line.label}" for line in lines)]
    return [_text(n, edge, f"{y:.1f}", "start") for n, y in zip(names, heights, strict=True)]


def _line(dense: Reading, line: Line, dash: str, plane: _Plane) -> list[Html]:
    stands = [(plane.x(place), _accuracy(point)) for place, point in zip(line.places, line.points, strict=True)]
    points = " ".join(f"{x},{plane.y(reading.value)}" for x, reading in ((plane.x(0.0), dense), *stands))
    drawn = [element("polyline", points=points, stroke_dasharray=dash, css="sparse")]
    for x, reading in stands:
        drawn.append(element("line", x1=x, x2=x, y1=plane.y(reading.low), y2=plane.y(reading.high), css="sparse"))
        drawn.append(_text(SYMBOLS[line.symbol], x, plane.y(reading.value), "middle", css="point"))
    return drawn


def _text(words: str, x: str, y: str, anchor: str, css: str = "") -> Html:
    return element("text", escape(words), x=x, y=y, text_anchor=anchor, dominant_baseline="central", css=css)


def _accuracy(point: Point) -> Reading:
    return point.readings["accuracy"][0]
