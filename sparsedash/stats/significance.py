"""Paired tests and intervals of accuracy, dense against sparse on the same passages: McNemar,
Tango, Wilson, Holm.

Assumes that the passages are an independent sample of those that a statement is about, and, unless
anytime-valid, that their number was fixed before any answer was seen.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from sparsedash.schema.records import Outcome, Record
from sparsedash.stats.anytime import anytime_interval, anytime_p, bisect_boundary

Z_95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """Dense against sparse on the same passages.

    broke: right before, wrong now. fixed: wrong before, right now. difference: sparse minus dense
    accuracy, -1 to 1.
    interval: 95 %, around the difference. p_value: exact McNemar, two-sided; chance of flips this
    lopsided if neither model were better. anytime: one of the models may have stopped early, so
    that both are those of stats.anytime.
    """

    both_right: int
    broke: int
    fixed: int
    both_wrong: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    anytime: bool = False

    @property
    def n_passages(self) -> int:
        """Passages that both answered."""
        return self.both_right + self.broke + self.fixed + self.both_wrong


def compare_records(left: Record, right: Record) -> PairedComparison:
    """Last-word verdicts of the right record against the left, on shared passages."""
    pairs = shared_outcomes(left, right)
    return compare_verdicts(
        [first.last_word_right for first, _ in pairs],
        [second.last_word_right for _, second in pairs],
        anytime=left.stopping is not None or right.stopping is not None,
    )


def shared_outcomes(left: Record, right: Record) -> list[tuple[Outcome, Outcome]]:
    """Both outcomes of every passage that both records answered, in corpus order."""
    known = {outcome.index: outcome for outcome in right.outcomes}
    return [(one, known[one.index]) for one in left.outcomes if one.index in known]


def accuracy_interval(record: Record) -> tuple[float, float]:
    """95 % interval of an accuracy: Wilson's, or anytime-valid where it might stop early."""
    score = record.last_word
    return share_interval(score.right, score.total, anytime=record.stopping is not None)


def share_interval(
    count: int, total: int, anytime: bool = False
) -> tuple[float, float]:
    """95 % interval of a share of at least one: Wilson's, or an anytime-valid one."""
    if not anytime:
        return wilson_interval(count, total)
    low, high = anytime_interval(0, count, total)
    return max(0.0, low), high


def compare_verdicts(
    dense: Sequence[bool], sparse: Sequence[bool], anytime: bool = False
) -> PairedComparison:
    """The comparison of verdicts on the same passages, at least one, in the same order.

    anytime: as in PairedComparison.
    """
    counts = Counter(zip(dense, sparse, strict=True))
    n = len(dense)
    broke = counts[True, False]
    fixed = counts[False, True]
    return PairedComparison(
        both_right=counts[True, True],
        broke=broke,
        fixed=fixed,
        both_wrong=counts[False, False],
        difference=(fixed - broke) / n,
        interval=anytime_interval(broke, fixed, n)
        if anytime
        else paired_interval(broke, fixed, n),
        p_value=anytime_p(broke, fixed) if anytime else mcnemar(broke, fixed),
        anytime=anytime,
    )


def mcnemar(broke: int, fixed: int) -> float:
    """Two-sided exact McNemar p: binomial test of the discordant pairs against one half.

    Holds its level for any number of flips; a little conservative. Source: McNemar, Psychometrika
    12 (1947).
    """
    n = broke + fixed
    ways = tail = 1
    for k in range(min(broke, fixed)):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return min(1.0, float(2 * tail / (1 << n)))


def wilson_interval(right: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Score interval of a share of at least one, within 0 to 1.

    Source: Wilson, Journal of the American Statistical Association 22 (1927), without a correction
    for continuity.
    """
    share = right / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = (
        z
        * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
        / (1 + z * z / total)
    )
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_interval(
    broke: int, fixed: int, n_passages: int, z: float = Z_95
) -> tuple[float, float]:
    """Interval of sparse minus dense accuracy: the differences that a score test on paired verdicts
    does not reject.

    Holds the truth 94 to 96 times of 100 where ten flips or more are expected, some of them each
    way; 93 to 97 times with four to ten, and mostly more often with fewer. Counts are too coarse to
    hit 95 there, for any interval: see docs/adr/0008. Zero is in it where McNemar's statistic
    without a correction is at most z squared. Source: Tango, Statistics in Medicine 17 (1998).
    """

    def holds(difference: float) -> bool:
        # The likeliest share that broke, if this is the difference.
        b = (2 * n_passages - fixed + broke) * difference - fixed - broke
        c = broke * difference * (1 - difference)
        share = (sqrt(max(0.0, b * b + 8 * n_passages * c)) - b) / (4 * n_passages)
        variance = n_passages * (2 * share + difference * (1 - difference))
        return (fixed - broke - n_passages * difference) ** 2 <= z * z * variance

    observed = (fixed - broke) / n_passages
    return bisect_boundary(holds, observed, -1.0), bisect_boundary(holds, observed, 1.0)


def unpaired_interval(
    dense: tuple[int, int], sparse: tuple[int, int]
) -> tuple[float, float]:
    """Interval of sparse minus dense accuracy when only totals are known, not which passages
    flipped.

    dense, sparse: right and total. Wider than the paired interval of the same passages, since two
    models that share their weights mostly agree. Source: Newcombe, Statistics in Medicine 17
    (1998), the hybrid score for independent shares.
    """
    before, after = (right / total for right, total in (dense, sparse))
    below, above = wilson_interval(*dense)
    low, high = wilson_interval(*sparse)
    down = sqrt((after - low) ** 2 + (above - before) ** 2)
    up = sqrt((high - after) ** 2 + (before - below) ** 2)
    return after - before - down, after - before + up


def holm(p_values: Sequence[float], n_compared: int = 0) -> list[float]:
    """Adjusted p-values, in the order given: they keep the error rate of all comparisons together.

    Each p-value must be valid by itself, however they depend on each other: exact and anytime-valid
    ones (1 / e) mix.
    n_compared: comparisons that were made, where that is more: missing ones count as the largest.
    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    n_comparisons = max(n_compared, len(p_values))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for position, i in enumerate(order):
        adjusted[i] = highest = max(
            highest, min(1.0, (n_comparisons - position) * p_values[i])
        )
    return adjusted
