"""Stopping an evaluation early: in which order passages are answered, and when enough of them have been."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from sparsedash.schema.records import Stopping
from sparsedash.stats.anytime import MARGIN, anytime_interval, anytime_p, decide

FIRST_CHUNK = 256
_ORDER_SEED = 0


def chunks(n_passages: int) -> list[list[int]]:
    """The positions of the passages in the order they are answered, cut where an evaluation may stop.

    They are shuffled, and each later part is a quarter of all before. So the passages answered at a cut are a fair
    sample, whatever their lengths; and short parts, whose batches hold more padding, come only while little has been
    answered. Every model is asked in the same order.
    """
    order = list(range(n_passages))
    Random(_ORDER_SEED).shuffle(order)
    cut: list[list[int]] = []
    start = 0
    while start < n_passages:
        size = max(FIRST_CHUNK, start // 4)
        # What would be left behind is too little for batches of its own.
        end = n_passages if start + size + size // 2 >= n_passages else start + size
        cut.append(order[start:end])
        start = end
    return cut


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """Says when a sparse model's difference to the dense one is decided, so that it need not be asked further.

    dense: whether the dense model was right, passage by passage. n_comparisons: sparse records of the run.
    """

    dense: Sequence[bool]
    n_comparisons: int

    def stopping(self, verdicts: Mapping[int, bool]) -> Stopping:
        """What is known after these passages. verdicts: whether the sparse model was right, by position."""
        broke = sum(self.dense[i] and not right for i, right in verdicts.items())
        mended = sum(right and not self.dense[i] for i, right in verdicts.items())
        return Stopping(
            decision=decide(broke, mended, len(verdicts), self.n_comparisons),
            n_answered=len(verdicts),
            n_passages=len(self.dense),
            p_value=anytime_p(broke, mended),
            interval=anytime_interval(broke, mended, len(verdicts)),
            margin=MARGIN,
            n_comparisons=self.n_comparisons,
        )
