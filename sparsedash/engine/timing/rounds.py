"""Rounds in which two models do the same work one after the other, in random order, until their ratio is known."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from sparsedash.schema.pair_records import SpeedRatio
from sparsedash.stats.speed_ratio import is_narrow, speed_ratio

LEAST_FOR_AN_INTERVAL = 3
"""Rounds that are timed however long they take."""
MOST_ROUNDS = 400
"""Work that is over in no time has an interval long before."""

Sample = Callable[[bool], float]
"""Lets the dense model (True) or the sparse one do the work once; gives the seconds that it took."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When enough was timed.

    within: the interval's ends are nearer to the ratio than this share. least_rounds: before anybody looks at it.
    most_s: seconds after which no round is begun. n_warmup: rounds before the first that counts.
    """

    within: float
    least_rounds: int
    most_s: float
    n_warmup: int


@dataclass(kw_only=True)
class Rounds:
    """What was timed so far: seconds of both in every round, and whether the dense model began it."""

    dense_s: list[float] = field(default_factory=list)
    sparse_s: list[float] = field(default_factory=list)
    dense_first: list[bool] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Whole rounds."""
        return len(self.dense_first)

    @property
    def ratio(self) -> SpeedRatio:
        """The ratio by these rounds."""
        return speed_ratio(self.dense_s, self.sparse_s)


def timed_rounds(
    sample: Sample, stop: Stop, seed: int, clock: Callable[[], float], on_round: Callable[[int, float], None]
) -> Rounds:
    """Time rounds until `stop` says that it is enough.

    clock: seconds, of the time that goes by. on_round: called before every sample with the rounds that count so far and
    the seconds spent; may raise Cancelled.
    """
    order, found = random.Random(seed), Rounds()
    for _ in range(stop.n_warmup):
        _round(sample, order.random() < 0.5, lambda: on_round(0, 0.0))
    started = clock()
    while not _is_enough(found, stop, clock() - started):
        first = order.random() < 0.5
        seconds = _round(sample, first, lambda: on_round(found.n, clock() - started))
        found.dense_s.append(seconds[True])
        found.sparse_s.append(seconds[False])
        found.dense_first.append(first)
    return found


def _round(sample: Sample, dense_first: bool, before: Callable[[], None]) -> dict[bool, float]:
    seconds = {}
    for is_dense in (dense_first, not dense_first):
        before()
        seconds[is_dense] = sample(is_dense)
    return seconds


def _is_enough(found: Rounds, stop: Stop, spent_s: float) -> bool:
    if found.n < LEAST_FOR_AN_INTERVAL:
        return False
    if spent_s >= stop.most_s or found.n >= MOST_ROUNDS:
        return True
    return found.n >= stop.least_rounds and is_narrow(found.ratio, stop.within)
