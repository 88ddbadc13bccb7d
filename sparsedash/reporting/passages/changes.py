"""How the right word's log-probability changed: in words, and in ranges that a histogram counts."""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, floor, inf

from sparsedash.reporting import wording

MOST_RANGES = 14
LEAST_SHOWN = 0.005
"""Nats below which nothing is called a change; two decimals show no less."""
_STEPS = tuple(digit * 10.0**power for power in range(-2, 3) for digit in (1, 2, 5))
_OUTSIDE = 0.02
"""Share of the passages at either end that the outermost ranges, which are open, may take in."""
_MOST_TIMES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Range:
    """Changes from `low` up to, not including, `high`, in nats; negative where the right word became less likely."""

    low: float
    high: float

    @property
    def address(self) -> str:
        """ "-2..-1", "..-3", "3.."."""
        low, high = ("" if abs(end) == inf else f"{end:g}" for end in (self.low, self.high))
        return f"{low}..{high}"

    @property
    def words(self) -> str:
        """ "fell by 1 to 2", "rose by 3 or more"."""
        verb = "fell by" if self.high <= 0 else "rose by"
        near, far = sorted((abs(self.low), abs(self.high)))
        return f"{verb} {near:g} or more" if far == inf else f"{verb} {near:g} to {far:g}"


def ranges(changes: Sequence[float]) -> list[Range]:
    """Ranges of one width that hold all these changes, at most MOST_RANGES of them; zero is an end of two of them.

    The outermost are open: a few passages far away would squeeze all others together.
    """
    ordered = sorted(changes) or [0.0]
    rest = int(_OUTSIDE * len(ordered))
    low, high = min(0.0, ordered[rest]), max(0.0, ordered[-1 - rest])
    step = next((step for step in _STEPS if ceil(high / step) - floor(low / step) <= MOST_RANGES), _STEPS[-1])
    first, last = min(-1, floor(low / step)), max(1, ceil(high / step))
    inner = [round(place * step, 6) for place in range(first + 1, last)]
    ends = [-inf, *inner, inf]
    return [Range(low=one, high=other) for one, other in itertools.pairwise(ends)]


def counted(changes: Sequence[float], found: Sequence[Range]) -> list[int]:
    """How many of the changes each range holds."""
    counts = [0] * len(found)
    inner = [each.high for each in found[:-1]]
    for change in changes:
        counts[bisect_right(inner, change)] += 1
    return counts


def change_words(change: float, target: str) -> str:
    """What became of the right word, in a sentence or two."""
    if abs(change) < LEAST_SHOWN:
        return f"“{target}” stayed as likely as it was. Its log-probability stayed the same."
    times, much = exp(min(abs(change), 700.0)), "less" if change < 0 else "more"
    factor = f"over {_MOST_TIMES:,}" if times > _MOST_TIMES else f"{times:,.0f}" if times >= 99.5 else f"{times:.3g}"
    verb = "fell" if change < 0 else "rose"
    return f"“{target}” became {factor} times {much} likely. Its log-probability {verb} by {abs(change):.2f}."


def signed(change: float) -> str:
    """ "−2.68", "+0.10"."""
    return f"{change:+.2f}".replace("-", wording.MINUS)
