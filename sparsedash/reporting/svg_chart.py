"""The accuracy chart as inline SVG, for the report: no script, so it opens anywhere and can be printed."""

from collections.abc import Sequence

from sparsedash.reporting.charts.axes import round_places
from sparsedash.reporting.charts.labels import placed
from sparsedash.reporting.charts.marks import SYMBOLS, places
from sparsedash.reporting.html import Html, element, escape
from sparsedash.reporting.run_results import RunResults
from sparsedash.schema.records import Record
from sparsedash.stats.significance import accuracy_interval

_WIDTH, _HEIGHT = 720, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 190, 24, 48
_DASHES = ("", "7 4", "2 4", "7 3 2 3")
_LABEL_HEIGHT = 16


class _Plane:
    """Where a share of channels removed and a share of right answers stand in the picture."""

    def __init__(self, records: Sequence[Record]) -> None:
        bounds = [bound for record in records for bound in _interval(record)]
        self.low, self.high = max(0.0, min(bounds) - 0.02), min(1.0, max(bounds) + 0.02)
        self.end = max([0.01, *(_removed(record) for record in records)]) * 1.04

    def x(self, removed: float) -> str:
        return f"{_LEFT + removed / self.end * (_WIDTH - _LEFT - _RIGHT):.1f}"

    def y(self, share: float) -> str:
        height = _HEIGHT - _TOP - _BOTTOM
        return f"{_TOP + (self.high - share) / (self.high - self.low) * height:.1f}"


def accuracy_drawing(found: RunResults, words: str) -> Html:
    """Accuracy against measured sparsity with Wilson's 95 % intervals.

    words: what it shows, for those who cannot see it.
    """
    plane = _Plane([found.dense, *found.sparse])
    tradeoff = found.tradeoff()
    drawn = [*_axes(plane, tradeoff.taken), *_dense(found.dense, plane)]
    at = places(tradeoff, 100 * plane.end)
    for i, (label, records) in enumerate(found.lines.items()):
        points = [(at[label, record.sparsity_permille] / 100, record) for record in sorted(records, key=_removed)]
        drawn += _line(found.dense, points, _sign(i), _DASHES[i % len(_DASHES)], plane)
    drawn += _labels(found, plane)
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
    for percent in round_places(100 * plane.low, 100 * plane.high):
        y = plane.y(percent / 100)
        drawn.append(element("line", x1=str(_LEFT), x2=str(_WIDTH - _RIGHT), y1=y, y2=y, css="grid"))
        drawn.append(_text(f"{percent:g} %", str(_LEFT - 8), y, "end"))
    below = str(_HEIGHT - _BOTTOM + 18)
    for percent in round_places(0.0, 100 * plane.end):
        drawn.append(_text(f"{percent:g} %", plane.x(percent / 100), below, "middle"))
    drawn.append(_text("Last word right", str(_LEFT), "14", "start"))
    middle = str((_LEFT + _WIDTH - _RIGHT) // 2)
    drawn.append(_text(taken, middle, str(_HEIGHT - 8), "middle"))
    return drawn


def _dense(dense: Record, plane: _Plane) -> list[Html]:
    low, high = _interval(dense)
    y = plane.y(dense.last_word.accuracy)
    height = f"{float(plane.y(low)) - float(plane.y(high)):.1f}"
    width = str(_WIDTH - _LEFT - _RIGHT)
    return [
        element("rect", x=str(_LEFT), y=plane.y(high), width=width, height=height, css="band"),
        element("line", x1=str(_LEFT), x2=str(_WIDTH - _RIGHT), y1=y, y2=y, css="dense"),
    ]


def _labels(found: RunResults, plane: _Plane) -> list[Html]:
    """The names of dense and of every line at the right edge, none on another."""
    ends = {"dense": found.dense} | {name: max(records, key=_removed) for name, records in found.lines.items()}
    wanted = [float(plane.y(record.last_word.accuracy)) for record in ends.values()]
    heights = placed(wanted, [_LABEL_HEIGHT] * len(ends), _HEIGHT - _BOTTOM)
    edge = str(_WIDTH - _RIGHT + 8)
    names = ["dense", *(f"{_sign(i)} {name}" for i, name in enumerate(found.lines))]
    return [_text(n, edge, f"{y:.1f}", "start") for n, y in zip(names, heights, strict=True)]


def _sign(number: int) -> str:
    """The mark of a line, as in the page's chart."""
    return list(SYMBOLS.values())[number % len(SYMBOLS)]


def _line(dense: Record, stands: Sequence[tuple[float, Record]], sign: str, dash: str, plane: _Plane) -> list[Html]:
    points = " ".join(f"{plane.x(x)},{plane.y(r.last_word.accuracy)}" for x, r in ((0.0, dense), *stands))
    drawn = [element("polyline", points=points, stroke_dasharray=dash, css="sparse")]
    for at, record in stands:
        x, (low, high) = plane.x(at), _interval(record)
        drawn.append(element("line", x1=x, x2=x, y1=plane.y(low), y2=plane.y(high), css="sparse"))
        y = plane.y(record.last_word.accuracy)
        drawn.append(_text(sign, x, y, "middle", css="point"))
    return drawn


def _text(words: str, x: str, y: str, anchor: str, css: str = "") -> Html:
    return element("text", escape(words), x=x, y=y, text_anchor=anchor, dominant_baseline="central", css=css)


def _removed(record: Record) -> float:
    return record.pruned.mlp_sparsity if record.pruned else 0.0


def _interval(record: Record) -> tuple[float, float]:
    return accuracy_interval(record)
