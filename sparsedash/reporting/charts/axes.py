"""The two axes of the trade-off chart: how far they reach, and what their numbers say."""

from collections.abc import Sequence
from math import ceil, floor, log
from typing import Any

from sparsedash.reporting.charts.points import MOST_TIMES, Measure, TradeoffData, times

MARGIN = 0.02
"""Air left of zero, as a share of the axis, so that the dense point does not stand on the tick labels."""
_SMALL_FACTORS = (1, 1.05, 1.1, 1.2, 1.35, 1.5, 2, 3, 5)
_FACTORS = (*_SMALL_FACTORS, 10, 20, 50, 100, 300, 1000, 10_000, 100_000, MOST_TIMES)
_SHORT = {10_000: "10⁴ ×", 100_000: "10⁵ ×", MOST_TIMES: "> 10⁶ ×"}
"""Factors that would be wider than the room left of the axis."""
_ABOVE = (0.5, 0.1, 0.01)
_MOST_TICKS = 7
_STEPS = (0.5, 1, 2, 5, 10, 20, 50)


def end_of_axis(tradeoff: TradeoffData) -> float:
    """The right end of the sparsity axis in percent: a little beyond the largest sparsity."""
    asked = [*tradeoff.asked, *(row.sparsity_permille for row in tradeoff.published)]
    largest = max([*(point.sparsity for point in tradeoff.sparse), *(value / 10 for value in asked), 1.0])
    return min(100.0, largest * 1.06)


def range_of(tradeoff: TradeoffData, measure: Measure) -> tuple[float, float]:
    """The ends of the y axis, which holds every interval with some air; shares stay within 0 to 100 percent."""
    bounds = [
        bound
        for point in (tradeoff.dense, *tradeoff.sparse)
        for reading in point.readings[measure]
        for bound in (reading.low, reading.high)
    ]
    if measure == "share right":
        bounds += [100 * share for row in tradeoff.published for share in (row.dense, row.sparse)]
        bounds += [tradeoff.live.reading.low, tradeoff.live.reading.high] if tradeoff.live else []
    if measure in tradeoff.allowed:
        bounds.append(tradeoff.dense_value(measure) - tradeoff.allowed[measure])
    least = 0.02 if measure == "word perplexity" else 2.0
    air = max(least, 0.08 * (max(bounds) - min(bounds)))
    low, high = min(bounds) - air, max(bounds) + air
    return (max(0.0, low), min(100.0, high)) if measure == "share right" else (low, high)


def ticks(measure: Measure, y_range: tuple[float, float]) -> dict[str, Any]:
    """The numbers of the y axis, their places and words: log-likelihoods as factors, broken answers without a minus."""
    low, high = y_range
    match measure:
        case "share right":
            places = round_places(low, high)
            return {"tickvals": places, "ticktext": [f"{place:g} %" for place in places]}
        case "accuracy":
            places = round_places(low, high)
            return {"tickvals": places, "ticktext": [signed(place) for place in places]}
        case "word perplexity":
            below = _apart([-log(factor) for factor in _FACTORS if low <= -log(factor) <= high], high - low)
            above = _apart([0.0, *(log(factor) for factor in _ABOVE if -log(factor) <= high)], high - low)
            places = [*(-place for place in above[1:]), *below]
            short = {-log(factor): words for factor, words in _SHORT.items()}
            return {"tickvals": places, "ticktext": [short.get(place) or times(-place) for place in places]}
        case "flips":
            places = round_places(low, high)
            return {"tickvals": places, "ticktext": [f"{abs(place):g} %" for place in places]}


def signed(value: float) -> str:
    """A change as a tick says it: "+5", "−0.5", and "0" without a sign."""
    return f"{value:+g}".replace("-", "−") if value else "0"


def round_places(low: float, high: float) -> list[float]:
    """The round percents between these, eight at most."""
    step = next((s for s in _STEPS if (high - low) / s <= _MOST_TICKS), _STEPS[-1])
    return [n * step for n in range(ceil(low / step), floor(high / step) + 1)]


def _apart(places: Sequence[float], span: float) -> list[float]:
    """The places, from the highest down, without those too near to the one before."""
    kept: list[float] = []
    for place in places:
        if not kept or kept[-1] - place >= span / _MOST_TICKS * 0.8:
            kept.append(place)
    return kept
