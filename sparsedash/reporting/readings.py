"""What a model's answers come to on each measure of the trade-off chart, with 95 % intervals."""

from dataclasses import replace
from math import isinf

from sparsedash.reporting.charts.points import FARTHEST_ABOVE, FARTHEST_BELOW, Live, Reading, Readings, times
from sparsedash.reporting.wording import signed, signed_interval
from sparsedash.schema.records import Record
from sparsedash.stats.significance import PairedComparison, share_interval
from sparsedash.stats.tolerance import Loss, ToleranceVerdict


def readings(record: Record, comparison: PairedComparison, verdict: ToleranceVerdict) -> Readings:
    """A record's values of every measure. comparison: of this record with dense. verdict: on its losses."""
    score = record.last_word
    return {
        **judged(comparison, verdict),
        "flips": _flips(comparison),
        "share right": (share_right(score.right, score.total, anytime=record.stopping is not None),),
    }


def judged(comparison: PairedComparison, verdict: ToleranceVerdict) -> Readings:
    """The values of the measures that a verdict is made from, with its intervals.

    Where it leaves accuracy out, that has the interval of a comparison by itself.
    """
    lost = verdict.accuracy
    low, high = comparison.interval if lost is None else (-lost.high, -lost.low)
    return {
        "word perplexity": (perplexity(verdict.perplexity),),
        "accuracy": (_accuracy(comparison.difference, low, high),),
    }


def _accuracy(value: float, low: float, high: float) -> Reading:
    """A change of the share of right words, upwards better, in points."""
    words = f"{signed(value)} points ({signed_interval((low, high))})"
    return Reading(role="sparse", value=100 * value, low=100 * low, high=100 * high, words=words)


def share_right(right: int, total: int, anytime: bool = False) -> Reading:
    """Right answers among all, with an interval of the share. anytime: it must hold however long was counted."""
    low, high = (100 * bound for bound in share_interval(right, total, anytime))
    share = 100 * right / total
    return Reading(role="sparse", value=share, low=low, high=high, words=f"{share:.1f} % ({low:.1f} to {high:.1f})")


def answering(label: str, permille: int, right: int, done: int) -> Live:
    """The point of a model that has answered `done` passages so far. label: of its line. permille: asked for."""
    reading = share_right(right, done)
    words = f"{right:,} of {done:,} right so far: {reading.words}"
    return Live(label=label, permille=permille, reading=reading, words=words)


def perplexity(lost: Loss) -> Reading:
    """The change of the log-likelihood, upwards better, with the interval that its verdict was made from.

    What is farther than the chart reaches stands at its edge. One passage has no interval, and no bar.
    """
    value, low, high = (min(FARTHEST_ABOVE, max(-FARTHEST_BELOW, -nats)) for nats in (lost.value, lost.high, lost.low))
    if isinf(lost.low):
        words = f"{times(-value)} that of dense (no interval)"
        return Reading(role="sparse", value=value, low=value, high=value, words=words)
    reading = Reading(role="sparse", value=value, low=low, high=high, words="")
    return replace(reading, words=f"{times(-value)} that of dense ({factor_interval(reading)})")


def factor_interval(reading: Reading) -> str:
    """A word perplexity's interval as a multiple of dense's: "1.72 to 1.75 ×", or one bound where both are one."""
    low, high = times(-reading.high), times(-reading.low)
    if low == high and not low[0].isdigit():
        return low
    return f"{low.removesuffix(' ×')} to {high}"


def _flips(comparison: PairedComparison) -> tuple[Reading, Reading]:
    broke, mended = comparison.broke, comparison.mended
    below, above = (share_right(count, comparison.n_passages, comparison.anytime) for count in (broke, mended))
    words = f"{broke:,} broke, {mended:,} mended"
    return (
        Reading(role="broke", value=-below.value, low=-below.high, high=-below.low, words=words),
        Reading(role="mended", value=above.value, low=above.low, high=above.high, words=words),
    )
