"""The marks of a race: dense across, a line for each method, and the point of the model that is answering now."""

from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from sparsedash.charts.axes import MARGIN
from sparsedash.charts.measures import Measure, Race, Reading, Role, dense_value, readings, sparsity
from sparsedash.charts.palette import Palette
from sparsedash.records import Record

SYMBOLS = {
    "circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "triangle-down": "▼", "star": "★",
    "hexagon": "⬢", "bowtie": "⧓",
}  # fmt: skip
"""The marks that tell methods apart, by plotly's names, with the sign that stands before the method's label."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_ASIDE = 0.008
"""How far the points of two methods are drawn apart, as a share of the axis, so that their intervals can be told apart."""
_FEW = 3
_FAR_ASIDE = 0.04
"""How far they may be drawn apart altogether."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method's records by rising sparsity, what tells it from others, and how far aside its marks stand.

    strong: drawn thicker than others. alone: whether it is the only one. crowded: whether there are many.
    """

    label: str
    records: tuple[Record, ...]
    symbol: str
    dash: str
    aside: float
    strong: bool
    alone: bool
    crowded: bool


def lines_of(race: Race, end: float) -> list[Line]:
    """The lines of a race; also those that have no record yet. end: of the x axis."""
    labels = list(race.lines)
    n, symbols = len(labels), list(SYMBOLS)
    step = min(_ASIDE, _FAR_ASIDE / n) * end if n else 0.0
    return [
        Line(
            label=label, records=tuple(sorted(race.lines.get(label, ()), key=sparsity)),
            symbol=symbols[i % len(symbols)], dash=DASHES[i % len(DASHES)], aside=(i - (n - 1) / 2) * step,
            strong=n == 1 or label == race.leader, alone=n == 1, crowded=n > _FEW,
        )
        for i, label in enumerate(labels)
    ]  # fmt: skip


def ink(role: Role, colours: Palette) -> tuple[str, str]:
    """The colours of a role's marks and of its label."""
    return {
        "sparse": (colours.sparse, colours.sparse_text),
        "broke": (colours.broke, colours.broke),
        "mended": (colours.mended, colours.mended),
    }[role]


def dense_marks(race: Race, measure: Measure, end: float, colours: Palette) -> list[Any]:
    """Dense drawn across, under everything; for accuracy with the band of its interval."""
    y = dense_value(measure, race.dense)
    left = -MARGIN * end
    across = go.Scatter(
        x=[left, end], y=[y, y], mode="lines", line={"color": colours.dense, "width": 2}, hoverinfo="skip", name="dense",
    )  # fmt: skip
    if measure != "accuracy":
        return [across]
    (reading,) = readings(measure, race.dense, race.dense)
    low, high = reading.low, reading.high
    band = go.Scatter(
        x=[left, end, end, left], y=[low, low, high, high], fill="toself", mode="lines", fillcolor=colours.band,
        line={"width": 0}, hoverinfo="skip", name="95 % interval of dense",
    )  # fmt: skip
    return [band, across]


def dense_point(race: Race, measure: Measure, colours: Palette) -> Any:
    """The dense model's own point."""
    return go.Scatter(
        x=[0], y=[dense_value(measure, race.dense)], mode="markers", marker={"color": colours.dense, "size": 10},
        cliponaxis=False, name="dense", hovertemplate=f"dense<br>{_said(race.dense, '')}<extra></extra>",
    )  # fmt: skip


def strands(race: Race, line: Line, measure: Measure) -> dict[Role, list[Reading]]:
    """The readings of a line's records, by what they count."""
    found: dict[Role, list[Reading]] = {}
    for record in line.records:
        for reading in readings(measure, race.dense, record):
            found.setdefault(reading.role, []).append(reading)
    return found


def strand_trace(
    race: Race, line: Line, measure: Measure, found: list[Reading], colours: Palette
) -> Any:
    """One line of marks with intervals, from dense on; hollow marks stand for fewer passages than dense has."""
    colour, _ = ink(found[0].role, colours)
    hollow = [len(r.outcomes) < len(race.dense.outcomes) for r in line.records]
    said = [
        _said(record, f"{line.label}, {r.words}")
        for record, r in zip(line.records, found, strict=True)
    ]
    return go.Scatter(
        x=[0.0, *(sparsity(record) + line.aside for record in line.records)],
        y=[dense_value(measure, race.dense), *(r.value for r in found)], mode="lines+markers", name=found[0].role,
        line={"color": colour, "width": 2.5 if line.strong else 1.25, "dash": line.dash},
        marker={
            "color": colour, "symbol": [line.symbol, *(f"{line.symbol}-open" if h else line.symbol for h in hollow)],
            "size": [0] + [7 if line.crowded else 9] * len(found), "opacity": 1,
            "line": {"color": colour, "width": [0, *(2 if h else 0 for h in hollow)]},
        },
        error_y={
            "type": "data", "symmetric": False, "array": [0.0, *(r.high - r.value for r in found)],
            "arrayminus": [0.0, *(r.value - r.low for r in found)], "color": colour,
            "thickness": 1.25 if line.strong else 0.75, "width": 5 if line.strong else 3,
        },
        cliponaxis=False,
        customdata=[["", ""], *([s, record.key] for s, record in zip(said, line.records, strict=True))],
        hovertemplate="%{customdata[0]}<extra></extra>",
    )  # fmt: skip


def live_trace(race: Race, line: Line, colours: Palette) -> Any:
    """The point of the model that is answering now, at the sparsity asked for, with the interval of what it has so far."""
    assert race.live is not None
    reading = race.live.reading
    return go.Scatter(
        x=[race.live.permille / 10 + line.aside], y=[reading.value], mode="markers", name="live",
        marker={
            "color": colours.sparse, "symbol": f"{line.symbol}-open-dot", "size": 12,
            "line": {"color": colours.sparse, "width": 2},
        },
        error_y={
            "type": "data", "symmetric": False, "array": [reading.high - reading.value],
            "arrayminus": [reading.value - reading.low], "color": colours.sparse, "thickness": 1.25, "width": 5,
        },
        cliponaxis=False, customdata=[f"{line.label}, answering<br>{race.live.words}"],
        hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip


def _said(record: Record, reading: str) -> str:
    score = record.last_word
    removed = f"{sparsity(record):.1f} % removed" if record.pruned else ""
    perplexity = f"word perplexity {record.word_perplexity:,.2f}"
    parts = [reading, removed, f"{score.right:,} of {score.total:,} right", perplexity]
    return "<br>".join(part for part in parts if part)
