"""Data of the charts of loss: a point for each model with its values on every measure, its gains,
and the loss axis.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import ceil, floor, inf, log
from statistics import median_high
from typing import Any, Literal

from sparsedash.catalog.published_results import PublishedRow
from sparsedash.reporting.wording import MAX_FACTOR, MIN_FACTOR, nats_as_factor
from sparsedash.stats.tolerance import Verdict

Measure = Literal["word perplexity", "accuracy", "flips", "share right", "tasks"]
"""How likely the right word was; right last words more or fewer than dense's; answers that broke or
were fixed; the share of right last words, which is no difference but stands beside published ones;
and right answers to tasks more or fewer than dense's, with a line for each task. Of the passages
the most sensitive one first.
"""

OF_PASSAGES: tuple[Measure, ...] = (
    "word perplexity",
    "accuracy",
    "flips",
    "share right",
)

Role = Literal["sparse", "broke", "fixed"]


@dataclass(frozen=True)
class Reading:
    """A value with its interval, in the unit of its axis, larger is better; and the same in words.

    role: what it counts. For perplexity the mean change of the target's log-likelihood in nats, as
    far as the chart reaches; for accuracy and tasks the change in percentage points; for flips the
    share of passages in percent, of broken ones below zero; for the share right that in percent.
    low, high: the interval behind the verdict, where the measure has one, else of 95 %.
    """

    value: float
    low: float
    high: float
    words: str
    role: Role = "sparse"


Readings = Mapping[Measure, Sequence[Reading]]
"""What was measured on one model: two readings for flips, broken answers before fixed ones, else
one.
"""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model on the chart.

    key: of its record. permille: the sparsity asked for. sparsity: measured, in percent. facts:
    what is said of it whatever the measure is. hollow: it answered fewer passages than dense.
    verdicts: by each measure that was judged.
    live: it is being evaluated, and only its share of right words so far is known.
    """

    key: str
    permille: int
    sparsity: float
    readings: Readings
    facts: Sequence[str]
    hollow: bool = False
    verdicts: Mapping[Measure, Verdict] = field(default_factory=dict)
    live: bool = False


@dataclass(frozen=True, kw_only=True)
class TradeoffData:
    """Data of one chart: sparse models on their lines against the dense one.

    lines: points by the label of their line, in drawing order; none yet for a method still to come.
    n_passages: what dense answered. sparsity_title: what the sparsity is a share of. planned: sparsities in
    per mille that the axis leaves room for, so that nothing moves while a run fills the chart.
    leader: the label of the line to be drawn strongest.
    highlighted: that of the only one in colour. published: rows that stand beside the shares of
    right words. limits: how far below dense a model may be, in the unit of each measure's axis;
    for those that are judged.
    """

    dense: Point
    lines: Mapping[str, Sequence[Point]]
    n_passages: int
    sparsity_title: str
    planned: Sequence[int] = ()
    leader: str = ""
    highlighted: str = ""
    published: Sequence[PublishedRow] = ()
    limits: Mapping[Measure, float] = field(default_factory=dict)

    @property
    def sparse(self) -> list[Point]:
        """The points of every line, live ones left out."""
        return [
            point
            for point in chain.from_iterable(self.lines.values())
            if not point.live
        ]

    @property
    def sparsity_end(self) -> float:
        """The right end of the sparsity axis in percent: a little beyond the largest sparsity."""
        planned = [*self.planned, *(row.sparsity_permille for row in self.published)]
        shares = [1.0, *(point.sparsity for point in self.sparse)]
        shares += [permille / 10 for permille in planned]
        return min(100.0, max(shares) * 1.06)

    def dense_value(self, measure: Measure) -> float:
        """Place of the dense model on the axis of a measure."""
        return (
            self.dense.readings[measure][0].value if measure == "share right" else 0.0
        )


@dataclass(frozen=True, kw_only=True)
class GainAxis:
    """One axis of gains. name: its title. gains: factors over dense that are known, by the keys of
    records.
    """

    name: str
    gains: Mapping[str, Reading]


FARTHEST_BELOW = log(MAX_FACTOR)
FARTHEST_ABOVE = log(MIN_FACTOR)
"""Change of the log-likelihood, in nats, at which a point stands at the lower and at the upper edge
of the chart.
"""

MARGIN = 0.02
"""Air left of zero, as a share of the axis, so that the dense point does not stand on the tick
labels.
"""
_BANDS = 12
_DEEPEST = 2
_MIDDLE = 4
"""A point may stand at its own place so many times as far below dense as the tolerance, and so many
times as far as the deepest point of the leading line, unless its middle one says less: a sweep up
to 90 % draws its axis out by itself.
"""
_FAR_ROOM = 0.14
"""Of the height of the others, kept free below them for the points at the edge."""
_FACTORS = (
    1,
    1.01,
    1.02,
    1.05,
    1.1,
    1.2,
    1.35,
    1.5,
    2,
    3,
    5,
    10,
    20,
    50,
    100,
    300,
    1000,
    10_000,
    100_000,
    MAX_FACTOR,
)
_SHORT = {
    10_000: "10⁴ ×",
    100_000: "10⁵ ×",
    MAX_FACTOR: "> 10⁶ ×",
}
"""Factors that would be wider than the room left of the axis."""
_ABOVE = (0.5, 0.1, 0.01)
_MAX_TICKS = 7
_STEPS = (0.5, 1, 2, 5, 10, 20, 50)


@dataclass(frozen=True, kw_only=True)
class LossAxis:
    """The y axis of one measure. Values below `bottom` stand at `edge`, which the range leaves room
    for.
    """

    measure: Measure
    range: tuple[float, float]
    bottom: float = -inf
    edge: float = -inf

    def place(self, reading: Reading) -> float:
        """Place where a value is drawn: at the edge if it is below the bottom."""
        return self.edge if reading.value < self.bottom else reading.value

    @property
    def ticks(self) -> dict[str, Any]:
        """Places and words of the numbers: log-likelihoods as factors, broken answers without a
        minus.
        """
        # Beside points that do not stand where they belong no number of the axis holds.
        low = max(self.range[0], self.edge)
        high = self.range[1]
        if self.measure != "word perplexity":
            places = round_ticks(low, high)
            is_change = self.measure in ("accuracy", "tasks")
            words = [
                signed_tick(place) if is_change else f"{abs(place):g} %"
                for place in places
            ]
            return {"tickvals": places, "ticktext": words}
        span = high - low
        below = [-log(factor) for factor in _FACTORS if low <= -log(factor) <= high]
        above = [log(factor) for factor in _ABOVE if -log(factor) <= high]
        _, *above = _thin_out([0.0, *above], span)
        places = [*(-place for place in above), *_thin_out(below, span)]
        short = {-log(factor): words for factor, words in _SHORT.items()}
        return {
            "tickvals": places,
            "ticktext": [
                short.get(place) or nats_as_factor(-place) for place in places
            ],
        }


def loss_axis(tradeoff: TradeoffData, measure: Measure) -> LossAxis:
    """The axis that holds every interval with some air; shares stay within 0 to 100 percent.

    Word perplexity has no bound, so points far below the others, which would lie in one band, stand
    at the edge: never an undecided one, whose whole interval has to be seen, nor one that the
    others leave room for.
    """
    points = [tradeoff.dense, *chain.from_iterable(tradeoff.lines.values())]
    readings = list(
        chain.from_iterable(point.readings.get(measure, ()) for point in points)
    )
    shares = measure == "share right"
    bottom = -inf
    edge = -inf
    if measure == "word perplexity":
        bottom, edge = _edge(tradeoff)
    bounds = []
    for reading in readings:
        is_far = reading.value < bottom
        bounds += [edge, edge] if is_far else [reading.low, reading.high]
    if shares:
        for row in tradeoff.published:
            bounds += [100 * row.dense, 100 * row.sparse]
    if measure in tradeoff.limits:
        bounds.append(tradeoff.dense_value(measure) - tradeoff.limits[measure])
    air = max(
        0.02 if measure == "word perplexity" else 2.0,
        0.08 * (max(bounds) - min(bounds)),
    )
    low = min(bounds) - air
    high = max(bounds) + air
    ends = (max(0.0, low), min(100.0, high)) if shares else (low, high)
    return LossAxis(measure=measure, range=ends, bottom=bottom, edge=edge)


def _edge(tradeoff: TradeoffData) -> tuple[float, float]:
    """The perplexity below which points stand at the edge, and the edge; both infinitely low where
    none does.
    """
    every = [(point, point.readings["word perplexity"][0]) for point in tradeoff.sparse]
    if not every:
        return -inf, -inf
    leading = tradeoff.lines.get(tradeoff.leader, ())
    depths = [-reading.low for point, reading in every if point in leading]
    if not depths:
        depths = [-reading.low for _, reading in every]
    allowed = tradeoff.limits.get("word perplexity", 0.0)
    limit = -max(
        _BANDS * allowed,
        min(_DEEPEST * max(depths), _MIDDLE * median_high(depths)),
    )
    near = [
        reading
        for point, reading in every
        if reading.value >= limit
        or point.verdicts.get("word perplexity") == "undecided"
    ]
    bottom = min([-allowed, *(reading.low for reading in near)])
    if not near or all(reading.value >= bottom for _, reading in every):
        return -inf, -inf
    return bottom, bottom - _FAR_ROOM * (
        max([0.0, *(reading.high for reading in near)]) - bottom
    )


def signed_tick(value: float) -> str:
    """A change as a tick says it: "+5", "−0.5", and "0" without a sign."""
    return f"{value:+g}".replace("-", "−") if value else "0"


def round_ticks(low: float, high: float, most: int = _MAX_TICKS) -> list[float]:
    """The round percents between these, one more than `most` at most."""
    step = next((step for step in _STEPS if (high - low) / step <= most), _STEPS[-1])
    return [n * step for n in range(ceil(low / step), floor(high / step) + 1)]


def _thin_out(places: Sequence[float], span: float) -> list[float]:
    """The places, from the highest down, without those too near to the one before."""
    kept: list[float] = []
    for place in places:
        if not kept or kept[-1] - place >= span / _MAX_TICKS * 0.8:
            kept.append(place)
    return kept
