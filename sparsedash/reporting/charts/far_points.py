"""Points so far below the others that these would lie in one band: at the edge of the chart, with an arrow and a value.

Only word perplexity has no bound, so only its axis can be drawn out by one hopeless model.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import exp
from statistics import fmean, median_high
from typing import Any

from sparsedash.reporting.charts.marks import SYMBOLS, Line
from sparsedash.reporting.charts.palette import Palette
from sparsedash.reporting.charts.points import FARTHEST_BELOW, Measure, Point, Reading, TradeoffData

_EXPLAINED = "An arrow at the lower edge: the point lies farther down, at the value that stands there."
_BANDS, _DEEPEST, _MIDDLE = 12, 2, 4
"""A point may stand at its own place so many times as far below dense as what may be lost, and so many times as far as
the deepest point of the leading line, unless its middle one says less: a sweep up to 90 % draws its axis out by itself.
"""
_ROOM = 0.14
"""Of what the others take, kept free below them for the points at the edge."""
_SIZE = 11
"""Pixels of the letters of a value."""
ARROW, _UP = 18, 7
"""Pixels from a mark down to the tip of its arrow, and up to its value."""


@dataclass(frozen=True, kw_only=True)
class FarGroup:
    """The points at the edge of one sparsity. places: on the x axis. edge: on the y axis. said: their values."""

    places: Sequence[float]
    edge: float
    said: Sequence[str]


def with_far_points_at_the_edge(tradeoff: TradeoffData, measure: Measure) -> TradeoffData:
    """The same data with every point that is too far down at the edge: its reading is `farther` than it stands.

    None that is undecided, whose whole interval has to be seen, and none that the others leave room for.
    """
    if measure != "word perplexity":
        return tradeoff
    far = _far(tradeoff)
    if not far:
        return tradeoff
    near = [_reading(point) for point in tradeoff.sparse if point.key not in far]
    bottom, top = _bottom(tradeoff, near), max([0.0, *(reading.high for reading in near)])
    edge = bottom - _ROOM * (top - bottom)
    lines = {
        label: [_at(edge, point) if point.key in far else point for point in points]
        for label, points in tradeoff.lines.items()
    }
    return replace(tradeoff, lines=lines)


def far_words(tradeoff: TradeoffData, measure: Measure) -> str:
    """What the arrows mean; nothing where there are none."""
    drawn = with_far_points_at_the_edge(tradeoff, measure)
    return _EXPLAINED if any(_is_far(point, measure) for point in drawn.sparse) else ""


def far_groups(lines: Sequence[Line], measure: Measure) -> list[FarGroup]:
    """The points at the edge, sparsity by sparsity. lines: of data whose far points stand there."""
    found: dict[int, list[tuple[float, float, str, str]]] = {}
    for line in lines:
        for point, place in zip(line.points, line.places, strict=True):
            reading = point.readings[measure][0]
            if reading.farther is not None:
                stands = (place, reading.value, SYMBOLS[line.symbol], short_times(-reading.farther))
                found.setdefault(point.permille, []).append(stands)
    return [
        FarGroup(
            places=[place for place, *_ in group],
            edge=group[0][1],
            said=[f"{sign} {said}" if len(group) > 1 else said for *_, sign, said in group],
        )
        for group in found.values()
    ]


def far_notes(groups: Sequence[FarGroup], colours: Palette) -> list[dict[str, Any]]:
    """Their arrows and values as annotations."""
    notes = []
    for group in groups:
        notes += [_arrow(place, group.edge, colours) for place in group.places]
        notes.append(_values(group, colours))
    return notes


def short_times(nats: float) -> str:
    """A factor in few letters, for where points stand close: "934×", "13k×", ">1M×"."""
    if nats >= FARTHEST_BELOW:
        return ">1M×"
    thousands = exp(nats) / 1000
    if thousands < 0.9995:
        return f"{1000 * thousands:.0f}×"
    return f"{thousands:.1f}k×" if thousands < 9.95 else f"{thousands:.0f}k×"


def _far(tradeoff: TradeoffData) -> Collection[str]:
    """The keys of the points that are too far down."""
    leading = tradeoff.lines.get(tradeoff.leader) or tradeoff.sparse
    if not leading:
        return []
    allowed = tradeoff.allowed.get("word perplexity", 0.0)
    depths = [-_reading(point).low for point in leading]
    limit = -max(_BANDS * allowed, min(_DEEPEST * max(depths), _MIDDLE * median_high(depths)))
    near = [point for point in tradeoff.sparse if _reading(point).value >= limit or point.verdict == "undecided"]
    if not near:
        return []
    bottom = _bottom(tradeoff, [_reading(point) for point in near])
    return {point.key for point in tradeoff.sparse if _reading(point).value < bottom} - {point.key for point in near}


def _bottom(tradeoff: TradeoffData, near: Sequence[Reading]) -> float:
    return min([-tradeoff.allowed.get("word perplexity", 0.0), *(min(r.low, r.value) for r in near)])


def _is_far(point: Point, measure: Measure) -> bool:
    return point.readings[measure][0].farther is not None


def _reading(point: Point) -> Reading:
    return point.readings["word perplexity"][0]


def _at(edge: float, point: Point) -> Point:
    reading = _reading(point)
    moved = replace(reading, value=edge, low=edge, high=edge, farther=reading.value)
    return replace(point, readings={**point.readings, "word perplexity": (moved,)})


def _arrow(place: float, edge: float, colours: Palette) -> dict[str, Any]:
    return {
        "x": place,
        "y": edge,
        "xref": "x",
        "yref": "y",
        "ax": 0,
        "ay": -ARROW,
        "yshift": -ARROW,
        "showarrow": True,
        "arrowhead": 2,
        "arrowwidth": 1.25,
        "arrowcolor": colours.sparse,
        "text": "",
    }


def _values(group: FarGroup, colours: Palette) -> dict[str, Any]:
    return {
        "x": fmean(group.places),
        "y": group.edge,
        "xref": "x",
        "yref": "y",
        "yanchor": "bottom",
        "yshift": _UP,
        "text": "<br>".join(group.said),
        "showarrow": False,
        "font": {"color": colours.sparse_text, "size": _SIZE},
    }
