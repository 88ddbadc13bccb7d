"""Early stopping of an evaluation: the order of passages and the stopping rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from random import Random

from sparsedash.schema.records import Decision, Outcome, Stopping
from sparsedash.schema.tolerance_settings import ALPHA, Tolerance
from sparsedash.stats.anytime import (
    MARGIN,
    anytime_interval,
    anytime_p,
    decide_difference,
    planned_looks,
)
from sparsedash.stats.tolerance import MIN_RIGHT, judge_all, passage_losses

FIRST_CHUNK = 256
FIRST_LOOK = 128
_ORDER_SEED = 0


def evaluation_chunks(n_passages: int) -> list[list[int]]:
    """The positions of the passages in their order of evaluation, cut where an evaluation may stop.

    Shuffled, so that the passages answered at a cut are a fair sample; cut at the planned looks,
    and between them into chunks of a quarter of all before. The same for every model: batches are
    made within a chunk, and answers in BF16 depend on the batch.
    """
    order = list(range(n_passages))
    ends = [0]
    Random(_ORDER_SEED).shuffle(order)
    for look in planned_looks(n_passages):
        while (start := ends[-1]) < look.n_passages:
            size = max(FIRST_CHUNK, start // 4)
            # A short rest would be too little for batches of its own.
            ends.append(
                look.n_passages
                if start + size + size // 2 >= look.n_passages
                else start + size
            )
    return [order[start:end] for start, end in pairwise(ends)]


def look_counts(n_passages: int) -> list[int]:
    """The numbers of passages after which a StopRule without a tolerance looks."""
    ends = accumulate(map(len, evaluation_chunks(n_passages)))
    return [end for end in ends if end >= min(FIRST_LOOK, n_passages)]


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """Stops when a model's difference to dense, or its loss against a tolerance, is decided.

    dense: the dense model's outcomes, of every passage. n_comparisons: sparse records of the run,
    or most trials of a search, over which the chance of error is split. tolerance: None: the
    difference alone.
    """

    dense: Sequence[Outcome]
    n_comparisons: int
    tolerance: Tolerance | None = None

    def stopping(self, outcomes: Mapping[int, Outcome]) -> Stopping | None:
        """The decision after these passages, by position; None where no look was planned."""
        n = len(outcomes)
        n_passages = len(self.dense)
        alpha = None
        decision: Decision = "open"
        pairs = [(self.dense[row], outcome) for row, outcome in outcomes.items()]
        broke = sum(
            dense.last_word_right and not sparse.last_word_right
            for dense, sparse in pairs
        )
        fixed = sum(
            sparse.last_word_right and not dense.last_word_right
            for dense, sparse in pairs
        )
        if self.tolerance is not None:
            shares = {look.n_passages: look.share for look in planned_looks(n_passages)}
            if n not in shares:
                return None
            alpha = ALPHA / self.n_comparisons * shares[n]
            (judged,) = judge_all([passage_losses(pairs, alpha=alpha)], self.tolerance)
            # Before the last passage, within only where every measure is: until then accuracy may
            # still be beyond, also where too few are right so far to judge it.
            comes = (
                judged.accuracy is None
                and sum(outcome.last_word_right for outcome in self.dense) >= MIN_RIGHT
            )
            is_early = n < n_passages and (
                comes or len(judged.deciding) < len(judged.losses)
            )
            if judged.verdict == "beyond" or (
                judged.verdict == "within" and not is_early
            ):
                decision = judged.verdict
        elif n < look_counts(n_passages)[0]:
            return None
        else:
            decision = decide_difference(broke, fixed, n, self.n_comparisons)
        return Stopping(
            decision=decision,
            n_answered=n,
            n_passages=n_passages,
            p_value=anytime_p(broke, fixed),
            interval=anytime_interval(broke, fixed, n),
            margin=MARGIN,
            n_comparisons=self.n_comparisons,
            alpha=alpha,
        )
