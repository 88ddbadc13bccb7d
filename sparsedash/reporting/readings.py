"""What a model's answers come to on each measure of the trade-off chart, with 95 % intervals."""

from sparsedash.reporting.charts.points import Live, Reading, Readings, times
from sparsedash.schema.records import Record
from sparsedash.stats.significance import PairedComparison, share_interval
from sparsedash.stats.tolerance import Loss


def readings(record: Record, comparison: PairedComparison, lost: Loss) -> Readings:
    """A record's values of every measure. comparison: of this record with dense. lost: of word perplexity."""
    score = record.last_word
    return {
        "word perplexity": (perplexity(lost),),
        "accuracy": (accuracy(score.right, score.total, anytime=record.stopping is not None),),
        "flips": _flips(comparison),
    }


def accuracy(right: int, total: int, anytime: bool = False) -> Reading:
    """Right answers among all, with an interval of the share. anytime: it must hold however long was counted."""
    low, high = (100 * bound for bound in share_interval(right, total, anytime))
    share = 100 * right / total
    return Reading(role="sparse", value=share, low=low, high=high, words=f"{share:.1f} % ({low:.1f} to {high:.1f})")


def answering(label: str, permille: int, right: int, done: int) -> Live:
    """The point of a model that has answered `done` passages so far. label: of its line. permille: asked for."""
    reading = accuracy(right, done)
    words = f"{right:,} of {done:,} right so far: {reading.words}"
    return Live(label=label, permille=permille, reading=reading, words=words)


def perplexity(lost: Loss) -> Reading:
    """The change of the log-likelihood, upwards better, with the interval that its verdict was made from."""
    words = f"{times(lost.value)} that of dense ({times(lost.low)} to {times(lost.high)})"
    return Reading(role="sparse", value=-lost.value, low=-lost.high, high=-lost.low, words=words)


def factor_interval(reading: Reading) -> tuple[str, str]:
    """The lower and the upper end of a word perplexity's interval, as a multiple of dense's: "1.72", "1.75 ×"."""
    return times(-reading.high).removesuffix(" ×"), times(-reading.low)


def _flips(comparison: PairedComparison) -> tuple[Reading, Reading]:
    broke, mended = comparison.broke, comparison.mended
    below, above = (accuracy(count, comparison.n_passages, comparison.anytime) for count in (broke, mended))
    words = f"{broke:,} broke, {mended:,} mended"
    return (
        Reading(role="broke", value=-below.value, low=-below.high, high=-below.low, words=words),
        Reading(role="mended", value=above.value, low=above.low, high=above.high, words=words),
    )
