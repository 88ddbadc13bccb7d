"""Where labels stand inside a plot: near their marks, on no line, bar, mark or other label, however
wide it is.

Heights are known, widths are not: a place has to be free on the plot of a phone and on that of a
wide screen.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sparsedash.reporting.charts import chart_style as style

WIDTHS = (170, 300, 560, 960)
"""Widths of a plot in pixels, from the narrowest phone's on."""
_LETTER, _LINE = 0.57, 1.25
"""Width of a letter and height of a line, as shares of their size: those of a wide font, for a
report.
"""
_RADIUS, _GAP, _RINGS, _RING = 6, 4, 3, 15
"""Pixels: half a mark, what is between it and its label; how often, and by how much, places farther
away are tried.
"""

Range = tuple[float, float]
_Place = tuple[float, float]


class _Box(NamedTuple):
    """A rectangle in pixels, y upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: "_Box") -> bool:
        """Whether both have some area in common."""
        across = self.left < other.right and other.left < self.right
        return across and self.bottom < other.top and other.bottom < self.top

    def crossed_by(self, x0: float, y0: float, x1: float, y1: float) -> bool:
        """Whether the segment touches the box: whether anything of it is left between each pair of
        edges.
        """
        if (
            max(x0, x1) < self.left
            or min(x0, x1) > self.right
            or max(y0, y1) < self.bottom
            or min(y0, y1) > self.top
        ):
            return False
        enters, leaves = 0.0, 1.0
        for start, step, low, high in (
            (x0, x1 - x0, self.left, self.right),
            (y0, y1 - y0, self.bottom, self.top),
        ):
            if step:
                first, last = sorted(((low - start) / step, (high - start) / step))
                enters, leaves = max(enters, first), min(leaves, last)
        return enters <= leaves


class Room:
    """What is free in a plot of this height in pixels, once for each of `WIDTHS`; notes take their
    places from it.
    """

    def __init__(
        self, traces: Sequence[Mapping[str, Any]], x_range: Range, y_range: Range, height: float
    ) -> None:
        """traces: in plotly's terms; their lines, bars and marks are never covered."""
        self._x_range, self._y_range, self._height = x_range, y_range, height
        self._taken: list[list[_Box]] = [[] for _ in WIDTHS]
        self._segments: list[list[tuple[float, float, float, float]]] = [[] for _ in WIDTHS]
        for trace in traces:
            at = list(zip(trace["x"], trace["y"], strict=True))
            if "lines" in trace["mode"] and "fill" not in trace:
                self._stroke(pairwise(at))
            if "markers" in trace["mode"]:
                for mark in at:
                    self.take(mark)
            for axis in ("x", "y"):
                bars = trace.get(f"error_{axis}", {"array": (), "arrayminus": ()})
                for (x, y), more, less in zip(at, bars["array"], bars["arrayminus"], strict=False):
                    self._stroke(
                        [
                            ((x - less, y), (x + more, y))
                            if axis == "x"
                            else ((x, y - less), (x, y + more))
                        ]
                    )

    def _stroke(self, lines: Iterable[tuple[_Place, _Place]]) -> None:
        for one, other in lines:
            (x0, y0), (x1, y1) = self._share(one), self._share(other)
            for width, segments in zip(WIDTHS, self._segments, strict=True):
                segments.append((x0 * width, y0, x1 * width, y1))

    def take(self, at: _Place, down: float = _RADIUS) -> None:
        """Keep the place of a mark at these values of the axes, which reaches so many pixels
        down.
        """
        x, y = self._share(at)
        for width, taken in zip(WIDTHS, self._taken, strict=True):
            taken.append(_Box(x * width - _RADIUS, y - down, x * width + _RADIUS, y + _RADIUS))

    def note(
        self, text: str, at: _Place, colour: str, tie: str, size: int = 13
    ) -> list[dict[str, Any]]:
        """The text beside the mark at these values; nothing where no place is free.

        tie: the colour of its leader line, which it has where it stands farther away.
        """
        x, y = self._share(at)
        width, height = _LETTER * size * len(text), _LINE * size
        for right, up, far in _places(width, height):
            middles = [(x * w + right, y + up) for w in WIDTHS]
            boxes = [
                _Box(a - width / 2, b - height / 2, a + width / 2, b + height / 2)
                for a, b in middles
            ]
            ties = (
                [(x * w, y, *middle) for w, middle in zip(WIDTHS, middles, strict=True)]
                if far
                else []
            )
            if all(map(self._is_free, boxes, range(len(WIDTHS)))) and all(
                map(self._is_open, ties, range(len(ties)))
            ):
                for taken, box in zip(self._taken, boxes, strict=True):
                    taken.append(box)
                for segments, tie_line in zip(self._segments, ties, strict=False):
                    segments.append(tie_line)
                found = style.annotation(text, *at, colour, size)
                leader: dict[str, Any] = {
                    "showarrow": True,
                    "ax": right,
                    "ay": -up,
                    "arrowhead": 0,
                    "arrowwidth": 1,
                }
                leader |= {"arrowcolor": tie, "standoff": _RADIUS}
                return [found | (leader if far else {"xshift": right, "yshift": up})]
        return []

    def _share(self, at: _Place) -> tuple[float, float]:
        """A share of the width, and pixels from the lower edge."""
        (left, right), (bottom, top) = self._x_range, self._y_range
        return (at[0] - left) / (right - left), self._height * (at[1] - bottom) / (top - bottom)

    def _is_free(self, box: _Box, at: int) -> bool:
        if box.left < 0 or box.right > WIDTHS[at] or box.bottom < 0 or box.top > self._height:
            return False
        return not (
            any(map(box.overlaps, self._taken[at]))
            or any(box.crossed_by(*each) for each in self._segments[at])
        )

    def _is_open(self, tie: tuple[float, float, float, float], at: int) -> bool:
        """Whether a leader line meets no label and no mark but those at its beginning."""
        x, y, *_ = tie
        mark = _Box(x, y, x, y)
        return not any(box.crossed_by(*tie) for box in self._taken[at] if not box.crossed_by(*mark))


def _places(width: float, height: float) -> Iterator[tuple[float, float, bool]]:
    """Where the middle of a label may stand, in pixels from its mark to the right and up, and
    whether that is far.
    """
    for ring in range(_RINGS):
        away = _RADIUS + _GAP + _RING * ring
        x, y, right, up = (
            away + width / 2,
            away + height / 2,
            0.6 * away + width / 2,
            0.6 * away + height / 2,
        )
        slanted = ((right, up), (-right, up), (right, -up), (-right, -up))
        # A leader line upright or level would pass for an error bar.
        for place in (
            slanted if ring else ((0, y), *slanted[:2], (x, 0), (-x, 0), *slanted[2:], (0, -y))
        ):
            yield *place, ring > 0
