"""Data of the trade-off chart: a point for each model with its values on every measure, its gains, and both axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, floor, log
from typing import Any, Literal

from sparsedash.catalog.published_results import PublishedRow
from sparsedash.reporting.wording import LEAST_FACTOR, MOST_FACTOR, nats_as_factor
from sparsedash.stats.tolerance import Verdict

Measure = Literal["word perplexity", "accuracy", "flips", "share right"]
"""How likely the right word was; right last words more or fewer than dense's; answers that broke or were mended; and
the share of right last words, which is no difference but stands beside published ones. The most sensitive one first.
"""

Role = Literal["sparse", "broke", "mended"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A value with its 95 % interval, in the unit of its axis, larger is better; and the same in words.

    role: what it counts. For perplexity the mean change of the target's log-likelihood in nats, as far as the chart
    reaches; for accuracy the change in percentage points; for flips the share of passages in percent, of broken ones
    below zero; for the share right that in percent. farther: of a point at the edge of its chart, where it belongs.
    """

    role: Role
    value: float
    low: float
    high: float
    words: str
    farther: float | None = None

    @property
    def place(self) -> float:
        """Where it belongs, whether the chart reaches there or not."""
        return self.value if self.farther is None else self.farther


Readings = Mapping[Measure, Sequence[Reading]]
"""What was measured on one model: two readings for flips, broken answers before mended ones, else one."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model on the chart.

    key: of its record. permille: the sparsity asked for. sparsity: measured, in percent. facts: what is said of it
    whatever the measure is. hollow: it answered fewer passages than dense. verdict: empty for dense.
    """

    key: str
    permille: int
    sparsity: float
    readings: Readings
    facts: Sequence[str]
    hollow: bool = False
    verdict: Verdict | Literal[""] = ""


@dataclass(frozen=True, kw_only=True)
class Live:
    """The sparse model that is answering now: its line, the sparsity asked for, its share of right words so far."""

    label: str
    permille: int
    reading: Reading
    words: str


Lines = Mapping[str, Sequence[Point]]
"""The sparse models by the label of their line, in the order they are drawn; none yet for a method that is still to
come.
"""


@dataclass(frozen=True, kw_only=True)
class TradeoffData:
    """What one chart shows: sparse models on their lines against the dense one.

    n_passages: what dense answered. taken: what the sparsity is a share of. asked: sparsities in per mille that the
    axis leaves room for, so that nothing moves while a run fills the chart. leader: the label of the line to be drawn
    strongest. published: rows that stand beside the shares of right words. allowed: how far below dense a model may be,
    in the unit of each measure's axis; for those that are judged.
    """

    dense: Point
    lines: Lines
    n_passages: int
    taken: str
    asked: Sequence[int] = ()
    live: Live | None = None
    leader: str = ""
    published: Sequence[PublishedRow] = ()
    allowed: Mapping[Measure, float] = field(default_factory=dict)

    @property
    def sparse(self) -> list[Point]:
        """The points of every line."""
        return [point for points in self.lines.values() for point in points]

    def dense_value(self, measure: Measure) -> float:
        """Where the dense model stands on the axis of a measure."""
        return self.dense.readings[measure][0].value if measure == "share right" else 0.0


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What a model wins, as a factor over dense, with its interval; above 1 is better. words: the same in words."""

    value: float
    low: float
    high: float
    words: str


@dataclass(frozen=True, kw_only=True)
class Gained:
    """One axis of gains. name: its title. gains: the known ones, by the keys of records."""

    name: str
    gains: Mapping[str, Gain]


FARTHEST_BELOW, FARTHEST_ABOVE = log(MOST_FACTOR), log(LEAST_FACTOR)
"""Change of the log-likelihood, in nats, at which a point stands at the lower and at the upper edge of the chart."""

MARGIN = 0.02
"""Air left of zero, as a share of the axis, so that the dense point does not stand on the tick labels."""
_FACTORS = (1, 1.05, 1.1, 1.2, 1.35, 1.5, 2, 3, 5, 10, 20, 50, 100, 300, 1000, 10_000, 100_000, MOST_FACTOR)
_SHORT = {10_000: "10⁴ ×", 100_000: "10⁵ ×", MOST_FACTOR: "> 10⁶ ×"}
"""Factors that would be wider than the room left of the axis."""
_ABOVE = (0.5, 0.1, 0.01)
_MOST_TICKS = 7
_STEPS = (0.5, 1, 2, 5, 10, 20, 50)


def sparsity_axis_end(tradeoff: TradeoffData) -> float:
    """The right end of the sparsity axis in percent: a little beyond the largest sparsity."""
    asked = [*tradeoff.asked, *(row.sparsity_permille for row in tradeoff.published)]
    largest = max([*(point.sparsity for point in tradeoff.sparse), *(value / 10 for value in asked), 1.0])
    return min(100.0, largest * 1.06)


def measure_range(tradeoff: TradeoffData, measure: Measure) -> tuple[float, float]:
    """The ends of the y axis, which holds every interval with some air; shares stay within 0 to 100 percent."""
    readings = [reading for point in (tradeoff.dense, *tradeoff.sparse) for reading in point.readings[measure]]
    shares = measure == "share right"
    if shares and tradeoff.live:
        readings.append(tradeoff.live.reading)
    bounds = [bound for reading in readings for bound in (reading.low, reading.high)]
    if shares:
        bounds += [100 * share for row in tradeoff.published for share in (row.dense, row.sparse)]
    if measure in tradeoff.allowed:
        bounds.append(tradeoff.dense_value(measure) - tradeoff.allowed[measure])
    least = 0.02 if measure == "word perplexity" else 2.0
    air = max(least, 0.08 * (max(bounds) - min(bounds)))
    low, high = min(bounds) - air, max(bounds) + air
    return (max(0.0, low), min(100.0, high)) if shares else (low, high)


def measure_ticks(measure: Measure, y_range: tuple[float, float]) -> dict[str, Any]:
    """The numbers of the y axis, their places and words: log-likelihoods as factors, broken answers without a minus."""
    low, high = y_range
    if measure != "word perplexity":
        places = round_ticks(low, high)
        words = [signed_tick(place) if measure == "accuracy" else f"{abs(place):g} %" for place in places]
        return {"tickvals": places, "ticktext": words}
    below = _thin_out([-log(factor) for factor in _FACTORS if low <= -log(factor) <= high], high - low)
    above = _thin_out([0.0, *(log(factor) for factor in _ABOVE if -log(factor) <= high)], high - low)
    places = [*(-place for place in above[1:]), *below]
    short = {-log(factor): words for factor, words in _SHORT.items()}
    return {"tickvals": places, "ticktext": [short.get(place) or nats_as_factor(-place) for place in places]}


def signed_tick(value: float) -> str:
    """A change as a tick says it: "+5", "−0.5", and "0" without a sign."""
    return f"{value:+g}".replace("-", "−") if value else "0"


def round_ticks(low: float, high: float) -> list[float]:
    """The round percents between these, eight at most."""
    step = next((s for s in _STEPS if (high - low) / s <= _MOST_TICKS), _STEPS[-1])
    return [n * step for n in range(ceil(low / step), floor(high / step) + 1)]


def _thin_out(places: Sequence[float], span: float) -> list[float]:
    """The places, from the highest down, without those too near to the one before."""
    kept: list[float] = []
    for place in places:
        if not kept or kept[-1] - place >= span / _MOST_TICKS * 0.8:
            kept.append(place)
    return kept
