"""What a sparse model can be judged by, and each record's value of it with a 95 % interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp
from typing import Literal

from sparsedash.catalog.published import PublishedRow
from sparsedash.schema.records import Record
from sparsedash.stats.significance import mean_interval, share_interval, shared_outcomes

Measure = Literal["accuracy", "word perplexity", "flips"]
"""Right last words; how likely the right word was; answers that broke or were mended."""

Lines = Mapping[str, Sequence[Record]]
"""Sparse records by the label of their line, in the order they are drawn; none yet for a method that is still to come.
"""

Role = Literal["sparse", "broke", "mended"]


@dataclass(frozen=True, kw_only=True)
class Live:
    """The sparse model that is answering now: the line it belongs to, and `right` of `done` passages so far."""

    label: str
    permille: int
    right: int
    done: int

    @property
    def reading(self) -> "Reading":
        """Its accuracy so far."""
        return accuracy(self.right, self.done)

    @property
    def words(self) -> str:
        """Its accuracy so far, in words."""
        return f"{self.right:,} of {self.done:,} right so far: {self.reading.words}"


@dataclass(frozen=True, kw_only=True)
class TradeoffData:
    """What one chart shows: sparse records on their lines against the dense one.

    asked: sparsities in per mille that the axis leaves room for, so that nothing moves while a run fills the chart.
    leader: the label of the line to be drawn strongest. published: rows that stand beside, where accuracy is shown.
    """

    dense: Record
    lines: Lines
    asked: Sequence[int] = ()
    live: Live | None = None
    leader: str = ""
    published: Sequence[PublishedRow] = ()

    @property
    def taken(self) -> str:
        """What its sparsity is a share of."""
        methods = [record.pruned.method for record in self.records if record.pruned]
        masks = any(not method.takes_channels for method in methods)
        return "MLP channels removed, or MLP weights set to zero" if masks else "MLP channels removed"

    @property
    def records(self) -> list[Record]:
        """The sparse records of every line."""
        return [record for records in self.lines.values() for record in records]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A value with its 95 % interval, in the unit of its axis, larger is better; and the same in words.

    role: what it counts. For accuracy the share in percent; for perplexity the mean change of the target's
    log-likelihood in nats; for flips the share of passages in percent, of broken ones below zero.
    """

    role: Role
    value: float
    low: float
    high: float
    words: str


class Same:
    """A record that is equal to itself only: for caches, since comparing every outcome would cost more than
    they save.
    """

    __slots__ = ("record",)

    def __init__(self, record: Record) -> None:
        self.record = record

    def __hash__(self) -> int:
        return id(self.record)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.record is self.record


def readings(measure: Measure, dense: Record, record: Record) -> list[Reading]:
    """A record's values of a measure, against dense where it is a comparison."""
    return list(_readings(measure, Same(dense), Same(record)))


@lru_cache(maxsize=512)
def _readings(measure: Measure, the_dense: Same, the_record: Same) -> list[Reading]:
    dense, record = the_dense.record, the_record.record
    match measure:
        case "accuracy":
            score = record.last_word
            return [accuracy(score.right, score.total, anytime=record.stopping is not None)]
        case "word perplexity":
            return [_perplexity(dense, record)]
        case "flips":
            return _flips(dense, record)


def dense_value(measure: Measure, dense: Record) -> float:
    """Where the dense model stands on the axis of a measure."""
    return 100 * dense.last_word.accuracy if measure == "accuracy" else 0.0


def sparsity(record: Record) -> float:
    """Measured MLP sparsity in percent."""
    return 100 * record.pruned.mlp_sparsity if record.pruned else 0.0


def accuracy(right: int, total: int, anytime: bool = False) -> Reading:
    """Right answers among all, with an interval of the share. anytime: it must hold however long was counted."""
    low, high = (100 * bound for bound in share_interval(right, total, anytime))
    share = 100 * right / total
    return Reading(role="sparse", value=share, low=low, high=high, words=f"{share:.1f} % ({low:.1f} to {high:.1f})")


def _perplexity(dense: Record, record: Record) -> Reading:
    changes = [s.log_likelihood - d.log_likelihood for d, s in shared_outcomes(dense, record)]
    low, high = mean_interval(changes)
    mean = sum(changes) / len(changes)
    return Reading(
        role="sparse",
        value=mean,
        low=low,
        high=high,
        words=f"{times(-mean)} that of dense ({times(-high)} to {times(-low)})",
    )


def _flips(dense: Record, record: Record) -> list[Reading]:
    pairs = shared_outcomes(dense, record)
    broke = sum(d.last_word_right and not s.last_word_right for d, s in pairs)
    mended = sum(s.last_word_right and not d.last_word_right for d, s in pairs)
    anytime = dense.stopping is not None or record.stopping is not None
    below, above = (accuracy(count, len(pairs), anytime) for count in (broke, mended))
    words = f"{broke:,} broke, {mended:,} mended"
    return [
        Reading(role="broke", value=-below.value, low=-below.high, high=-below.low, words=words),
        Reading(role="mended", value=above.value, low=above.low, high=above.high, words=words),
    ]


def times(nats: float) -> str:
    """A difference of log-likelihoods as a factor: 0.095 -> "1.10 ×"."""
    factor = exp(min(nats, 50.0))
    return f"{factor:.2f} ×" if factor < 10 else f"{factor:,.0f} ×"
