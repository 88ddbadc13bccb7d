"""Early stopping of an evaluation: the order of the passages, and the rules that end it at a look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from sparsedash.schema.records import Decision, Outcome, Stopping
from sparsedash.stats.anytime import MARGIN, anytime_interval, anytime_p, decide_difference, planned_looks
from sparsedash.stats.tolerance import ALPHA, Tolerance, judge_all, passage_losses

FIRST_CHUNK, FIRST_LOOK = 256, 128
_ORDER_SEED = 0


def evaluation_chunks(n_passages: int) -> list[list[int]]:
    """The positions of the passages in their order of evaluation, cut where an evaluation may stop.

    They are shuffled, and cut at the planned looks, between them into chunks of a quarter of all before. So the
    passages answered at a cut are a fair sample, whatever their lengths. The order and the chunks are the same for
    every model, whether or where it may stop: batches are made within a chunk, and answers in BF16 depend on the batch.
    """
    order = list(range(n_passages))
    Random(_ORDER_SEED).shuffle(order)
    cut: list[list[int]] = []
    start = 0
    for look in planned_looks(n_passages):
        while start < look.n_passages:
            size = max(FIRST_CHUNK, start // 4)
            # A short rest would be too little for batches of its own.
            end = look.n_passages if start + size + size // 2 >= look.n_passages else start + size
            cut.append(order[start:end])
            start = end
    return cut


def look_counts(n_passages: int) -> list[int]:
    """The numbers of passages after which a StopRule looks."""
    ends = accumulate(map(len, evaluation_chunks(n_passages)))
    return [end for end in ends if end >= min(FIRST_LOOK, n_passages)]


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """Stops when a sparse model's difference to the dense one is decided.

    dense: the dense model's outcomes, of every passage. n_comparisons: sparse records of the run.
    """

    dense: Sequence[Outcome]
    n_comparisons: int

    def stopping(self, outcomes: Mapping[int, Outcome]) -> Stopping | None:
        """The decision after these passages of the sparse model, by position; None where they are too few to look."""
        if len(outcomes) < look_counts(len(self.dense))[0]:
            return None
        decision = decide_difference(*_flips(self, outcomes), len(outcomes), self.n_comparisons)
        return _stopping(self, outcomes, decision)


@dataclass(frozen=True, kw_only=True)
class ToleranceRule:
    """Stops when a sparse model's loss is decided to be within or beyond a tolerance.

    Within is called before the last passage only where every measure is within: until then accuracy may still be
    beyond. dense: as in StopRule. n_comparisons: most trials, over which the chance of error is split.
    """

    dense: Sequence[Outcome]
    n_comparisons: int
    tolerance: Tolerance

    def stopping(self, outcomes: Mapping[int, Outcome]) -> Stopping | None:
        """The decision after these passages of the sparse model, by position; None where no look was planned."""
        shares = {look.n_passages: look.share for look in planned_looks(len(self.dense))}
        if (share := shares.get(len(outcomes))) is None:
            return None
        alpha = ALPHA / self.n_comparisons * share
        pairs = [(self.dense[row], outcome) for row, outcome in outcomes.items()]
        (judged,) = judge_all([passage_losses(pairs, alpha=alpha)], self.tolerance)
        unanimous = len(judged.decided_by) == len(judged.losses)
        decision: Decision = "open"
        if judged.verdict == "beyond" or (
            judged.verdict == "within" and (unanimous or len(outcomes) == len(self.dense))
        ):
            decision = judged.verdict
        return _stopping(self, outcomes, decision, alpha)


AnyRule = StopRule | ToleranceRule


def _flips(rule: AnyRule, outcomes: Mapping[int, Outcome]) -> tuple[int, int]:
    """The numbers of answers that broke, and that were fixed."""
    verdicts = [(rule.dense[row].last_word_right, outcome.last_word_right) for row, outcome in outcomes.items()]
    return sum(one and not two for one, two in verdicts), sum(two and not one for one, two in verdicts)


def _stopping(
    rule: AnyRule, outcomes: Mapping[int, Outcome], decision: Decision, alpha: float | None = None
) -> Stopping:
    broke, mended = _flips(rule, outcomes)
    return Stopping(
        decision=decision,
        n_answered=len(outcomes),
        n_passages=len(rule.dense),
        p_value=anytime_p(broke, mended),
        interval=anytime_interval(broke, mended, len(outcomes)),
        margin=MARGIN,
        n_comparisons=rule.n_comparisons,
        alpha=alpha,
    )
