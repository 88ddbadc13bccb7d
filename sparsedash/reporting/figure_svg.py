"""The trade-off chart as inline SVG, for a report without scripts: once for a wide screen and once
for a phone.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import unescape
from math import cos, pi, sin
from typing import Any

from sparsedash.reporting.charts.tradeoff_data import round_ticks
from sparsedash.reporting.html import Html, element, escape

_WIDTHS = {"wide": 720, "narrow": 358}
"""Pixels, by the class for which the style sheet of the report chooses one."""
_LARGEST = {"wide": 15, "narrow": 12}
"""Pixels of the largest text."""
_MARGIN = {"wide": 1.3, "narrow": 1.05}
"""What labels need of the margin that they have on a page, whose font is narrower than those of
other programs.
"""
_TICK = 36
"""Pixels from one number of the x axis to the next, at least."""
_ANCHORS = {"left": "start", "center": "middle", "right": "end"}


def _corners(n: int, *radii: float) -> list[tuple[float, float]]:
    """Corners of a regular shape from the top on, the radii taken in turn."""
    return [
        (
            radii[i % len(radii)] * sin(2 * pi * i / n),
            -radii[i % len(radii)] * cos(2 * pi * i / n),
        )
        for i in range(n)
    ]


_SHAPES = {
    "circle": _corners(24, 1.0),
    "square": [
        (-0.9, -0.9),
        (0.9, -0.9),
        (0.9, 0.9),
        (-0.9, 0.9),
    ],
    "diamond": _corners(4, 1.3),
    "triangle-up": _corners(3, 1.25),
    "triangle-down": [(x, -y) for x, y in _corners(3, 1.25)],
    "star": _corners(10, 1.4, 0.6),
    "hexagon": _corners(6, 1.1),
    "bowtie": [
        (-1.1, -0.9),
        (1.1, 0.9),
        (1.1, -0.9),
        (-1.1, 0.9),
    ],
}
"""Corners of the marks, in half their size."""


def figure_svg(figure: Any, words: str) -> Html:
    """A plotly figure of lines, marks, error bars, bands and notes as two drawings, of which one is
    shown.

    It draws what `tradeoff_chart` uses of plotly, on one pair of axes, without hover texts. words:
    for screen readers.
    """
    return element(
        "figure",
        *(_Drawing(figure.to_dict(), words, form).drawn() for form in _WIDTHS),
    )


class _Drawing:
    """The figure's layout in pixels, and the elements for each part of it."""

    def __init__(self, figure: dict[str, Any], words: str, form: str) -> None:
        self.traces = figure["data"]
        self.layout = figure["layout"]
        self.words = words
        self.form = form
        self.x_axis = self.layout["xaxis"]
        self.y_axis = self.layout["yaxis"]
        margin = self.layout["margin"]
        self.left = margin["l"]
        self.right = _WIDTHS[form] - _MARGIN[form] * margin["r"]
        self.top = margin["t"]
        self.bottom = self.layout["height"] - margin["b"]
        self.clip = f"plot-{words.split(maxsplit=1)[0].lower()}-{form}"

    def drawn(self) -> Html:
        """The whole drawing."""
        across = self.right - self.left
        down = self.bottom - self.top
        place = {
            "x": f"{self.left}",
            "y": f"{self.top}",
            "width": f"{across:.1f}",
            "height": f"{down}",
        }
        parts = [
            element(
                "clipPath",
                element("rect", **place),
                id=self.clip,
            ),
            *self._axes(),
        ]
        for shape in self.layout.get("shapes", ()):
            # In pixels from the right edge, or at a value of the axis.
            x0, x1 = (
                self.right + shape[end]
                if shape["xref"] == "paper"
                else self._place(shape[end], 0)[0]
                for end in ("x0", "x1")
            )
            ys = (self._place(0, shape[end], "y")[1] for end in ("y0", "y1"))
            parts.append(_polyline(list(zip((x0, x1), ys, strict=True)), shape["line"]))
        for trace in self.traces:
            parts += self._trace(trace)
        for note in self.layout["annotations"]:
            parts += self._note(note)
        box = f"0 0 {_WIDTHS[self.form]} {self.layout['height']}"
        return element(
            "svg",
            *parts,
            viewBox=box,
            role="img",
            aria_label=self.words,
            css=self.form,
        )

    def _place(self, x: float, y: float, shares: str = "") -> tuple[float, float]:
        """Pixels of a point. shares: the axes, "x" or "y", on which it is given as a share of the
        plot.
        """
        (x_low, x_high) = self.x_axis["range"]
        (y_low, y_high) = self.y_axis["range"]
        across = x if "x" in shares else (x - x_low) / (x_high - x_low)
        up = y if "y" in shares else (y - y_low) / (y_high - y_low)
        return self.left + across * (self.right - self.left), self.bottom - up * (
            self.bottom - self.top
        )

    def _axes(self) -> Iterator[Html]:
        numbers = {"size": 13, "color": self.y_axis["tickfont"]["color"]}
        for value, text in zip(
            self.y_axis["tickvals"],
            self.y_axis["ticktext"],
            strict=True,
        ):
            ends = [self._place(x, value, "x") for x in (0, 1)]
            yield _polyline(ends, {"color": self.y_axis["gridcolor"]})
            yield self._text(
                text,
                (self.left - 6, ends[0][1]),
                numbers,
                "end",
            )
        below = self.bottom + self.x_axis["ticklabelstandoff"]
        yield _polyline(
            [(self.left, self.bottom), (self.right, self.bottom)],
            {"color": self.x_axis["linecolor"]},
        )
        *ticks, last = round_ticks(
            0,
            self.x_axis["range"][1],
            most=min(8, int((self.right - self.left) / _TICK)),
        )
        for percent, text in [
            *((tick, f"{tick:g}") for tick in ticks),
            (last, f"{last:g} %"),
        ]:
            yield self._text(
                text,
                (self._place(percent, 0)[0], below + 14),
                numbers,
            )
        title = self.x_axis["title"]
        middle = (self.left + self.right) / 2
        yield self._text(
            self.layout["title"]["text"],
            (0, 14),
            self.layout["title"]["font"],
            "start",
        )
        yield self._text(
            title["text"],
            (middle, self.layout["height"] - 8),
            title["font"],
            vertical="bottom",
        )

    def _trace(self, trace: dict[str, Any]) -> Iterator[Html]:
        corners_at = [
            self._place(x, y) for x, y in zip(trace["x"], trace["y"], strict=True)
        ]
        if "fill" in trace:
            yield element(
                "polygon",
                points=_points(corners_at),
                fill=trace["fillcolor"],
            )
        elif "lines" in trace["mode"]:
            yield _polyline(corners_at, trace["line"], f"url(#{self.clip})")
        if bars := trace.get("error_y"):
            line = {"color": bars["color"], "width": bars["thickness"]}
            for x, y, up, down in zip(
                trace["x"],
                trace["y"],
                bars["array"],
                bars["arrayminus"],
                strict=True,
            ):
                if up or down:
                    yield _polyline(
                        [self._place(x, y - down), self._place(x, y + up)],
                        line,
                    )
        if "markers" not in trace["mode"]:
            return
        marker = trace["marker"]
        symbols = marker.get("symbol", "circle")
        half = marker["size"] / 2
        for (x, y), symbol in zip(
            corners_at,
            [symbols] * len(corners_at) if isinstance(symbols, str) else symbols,
            strict=True,
        ):
            shape, opened, _ = symbol.partition("-open")
            corners = [
                (x + half * right, y + half * down) for right, down in _SHAPES[shape]
            ]
            style = {
                "fill": "none" if opened else marker["color"],
                "stroke": marker["color"],
            }
            yield element(
                "polygon",
                points=_points(corners),
                stroke_width="1.5",
                **style,
            )

    def _note(self, note: dict[str, Any]) -> Iterator[Html]:
        x, y = self._place(
            note["x"],
            note["y"],
            "".join(axis for axis in "xy" if note[f"{axis}ref"] == "paper"),
        )
        x = x + note.get("xshift", 0)
        y = y - note.get("yshift", 0)
        if note["showarrow"] and note["text"]:
            across = note["ax"]
            down = note["ay"]
            # From the mark to the edge of the text.
            half = (
                0.3 * note["font"]["size"] * len(note["text"]),
                0.6 * note["font"]["size"],
            )
            end = 1 - min(
                size / abs(way)
                for size, way in zip(half, (across, down), strict=True)
                if way
            )
            start = note["standoff"] / (across**2 + down**2) ** 0.5
            tie = {"color": note["arrowcolor"], "width": note["arrowwidth"]}
            yield _polyline(
                [(x + share * across, y + share * down) for share in (start, end)],
                tie,
            )
            x = x + across
            y = y + down
        elif note["showarrow"]:
            arrow = {"color": note["arrowcolor"], "width": note["arrowwidth"]}
            yield _polyline(
                [
                    (x, y + note["ay"]),
                    (x, y),
                    (x - 4, y - 5),
                    (x, y),
                    (x + 4, y - 5),
                ],
                arrow,
            )
        if note["text"]:
            yield self._text(
                note["text"],
                (x, y),
                note["font"],
                _ANCHORS[note["xanchor"]],
                note["yanchor"],
            )

    def _text(
        self,
        text: str,
        position: tuple[float, float],
        font: Mapping[str, Any],
        anchor: str = "middle",
        vertical: str = "middle",
    ) -> Html:
        """Text on lines that are parted by <br>. vertical: which edge of it stands at the place,
        middle or bottom.
        """
        size = min(font["size"], _LARGEST[self.form])
        lines = text.split("<br>")
        height = 1.25 * size
        top = position[1] - height * (
            (len(lines) - 1) / 2 if vertical == "middle" else len(lines) - 0.5
        )
        places = [
            {"x": f"{position[0]:.1f}", "y": f"{top + height * i:.1f}"}
            for i in range(len(lines))
        ]
        inside = [
            element("tspan", escape(unescape(line)), **place)
            for line, place in zip(lines, places, strict=True)
        ]
        style = {
            "fill": font["color"],
            "font_size": f"{size}",
            "text_anchor": anchor,
        }
        return element(
            "text",
            *inside,
            dominant_baseline="central",
            **style,
        )


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _polyline(
    points: Sequence[tuple[float, float]], line: Mapping[str, Any], clip: str = ""
) -> Html:
    dash = (
        line.get("dash", "solid")
        .replace("px", "")
        .replace(",", " ")
        .replace(
            "solid",
            "",
        )
    )
    style = {
        "fill": "none",
        "stroke": line["color"],
        "stroke_width": f"{line.get('width', 1)}",
    }
    return element(
        "polyline",
        points=_points(points),
        clip_path=clip,
        stroke_dasharray=dash,
        **style,
    )
