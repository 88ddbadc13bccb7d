"""The verdicts of a chart with several lines, in rows under its axis: beside their marks they cover each other."""

from statistics import fmean
from typing import Any

from sparsedash.reporting.charts.marks import SYMBOLS, Line, glyph, glyph_ink
from sparsedash.reporting.charts.palette import Palette

_ROW = 18
"""Pixels from row to row."""


def rows_height(n_lines: int) -> int:
    """The pixels that the rows of so many lines need under the axis; none for one line."""
    return _ROW * n_lines + 6 if n_lines > 1 else 0


def verdict_rows(lines: list[Line], colours: Palette) -> list[dict[str, Any]]:
    """The rows as annotations: the mark of each line left of the axis, its verdicts under the sparsities."""
    if len(lines) < 2:
        return []
    middles: dict[int, list[float]] = {}
    for line in lines:
        for point, place in zip(line.points, line.places, strict=True):
            middles.setdefault(point.permille, []).append(place)
    notes = []
    for row, line in enumerate(lines):
        notes.append(_note(SYMBOLS[line.symbol], colours.sparse_text, row) | {"xref": "paper", "x": 0, "xshift": -16})
        notes += [
            _note(glyph(point.verdict), glyph_ink(point.verdict, colours), row) | {"x": fmean(middles[point.permille])}
            for point in line.points
        ]
    return notes


def _note(text: str, colour: str, row: int) -> dict[str, Any]:
    return {
        "text": text,
        "font": {"color": colour, "size": 14},
        "showarrow": False,
        "xref": "x",
        "xanchor": "center",
        "yref": "paper",
        "y": 0,
        "yanchor": "middle",
        "yshift": -_ROW * (row + 0.7),
    }
