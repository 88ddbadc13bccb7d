"""What a trade-off chart draws: a point for each model with the values measured on it, and the lines they form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log
from typing import Literal

from sparsedash.catalog.published import PublishedRow
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


MOST_TIMES, LEAST_TIMES = 1_000_000, 100
"""From so many times dense's word perplexity on, and under the reciprocal, a point stands at the edge of the chart."""
FARTHEST_BELOW, FARTHEST_ABOVE = log(MOST_TIMES), log(LEAST_TIMES)


def by_sparsity(points: Sequence[Point]) -> list[Point]:
    """The points of one line from left to right."""
    return sorted(points, key=lambda point: point.sparsity)


def times(nats: float) -> str:
    """A difference of log-likelihoods as a factor: 0.095 -> "1.10 ×"; of a very large one only that."""
    if nats >= FARTHEST_BELOW:
        return f"over {MOST_TIMES:,} ×"
    if nats <= -FARTHEST_ABOVE:
        return f"under {1 / LEAST_TIMES:g} ×"
    factor = exp(nats)
    return f"{factor:.2f} ×" if factor < 9.995 else f"{factor:,.0f} ×"
