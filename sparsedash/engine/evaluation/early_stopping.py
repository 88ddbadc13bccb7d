"""Early stopping of an evaluation: the order of the passages, and the rules that end it at a look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from sparsedash.schema.records import Decision, Outcome, Stopping
from sparsedash.stats.anytime import MARGIN, anytime_interval, anytime_p, decide_difference, planned_looks
from sparsedash.stats.tolerance import ALPHA, Tolerance, ToleranceVerdict, judge_all, passage_losses

FIRST_CHUNK, FIRST_LOOK = 256, 128
_ORDER_SEED = 0


def evaluation_chunks(n_passages: int) -> list[list[int]]:
    """The positions of the passages in the order they are answered, cut where an evaluation may stop.

    They are shuffled, and cut at the planned looks, between them into parts of a quarter of all before. So the passages
    answered at a cut are a fair sample, whatever their lengths. Every model is asked in the same order and in the same
    parts, whether or where it may stop: batches are made of one part, and answers in BF16 depend on the batch.
    """
    order = list(range(n_passages))
    Random(_ORDER_SEED).shuffle(order)
    cut: list[list[int]] = []
    start = 0
    for look in (look.n_passages for look in planned_looks(n_passages)):
        while start < look:
            size = max(FIRST_CHUNK, start // 4)
            # What would be left behind is too little for batches of its own.
            end = look if start + size + size // 2 >= look else start + size
            cut.append(order[start:end])
            start = end
    return cut


def look_counts(n_passages: int) -> list[int]:
    """The numbers of passages after which a StopRule looks."""
    return [end for end in accumulate(map(len, evaluation_chunks(n_passages))) if end >= min(FIRST_LOOK, n_passages)]


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """Says when a sparse model's difference to the dense one is decided, so that it need not be asked further.

    dense: the dense model's outcomes, of every passage. n_comparisons: sparse records of the run.
    """

    dense: Sequence[Outcome]
    n_comparisons: int

    def stopping(self, outcomes: Mapping[int, Outcome]) -> Stopping | None:
        """What is known after these passages of the sparse model, by position; None where they are too few to look."""
        if len(outcomes) < look_counts(len(self.dense))[0]:
            return None
        broke, mended = _flips(self.dense, outcomes)
        return _stopping(self, outcomes, decide_difference(broke, mended, len(outcomes), self.n_comparisons))


@dataclass(frozen=True, kw_only=True)
class ToleranceRule:
    """Says when a sparse model's loss is decided to be within or beyond what is allowed.

    Within is called before the last passage only where every measure says so: until then accuracy may still be beyond.
    dense: as in StopRule. n_comparisons: trials that may be made, over which the chance of error is split.
    """

    dense: Sequence[Outcome]
    n_comparisons: int
    tolerance: Tolerance

    def stopping(self, outcomes: Mapping[int, Outcome]) -> Stopping | None:
        """What is known after these passages of the sparse model, by position; None where no look was planned."""
        shares = {look.n_passages: look.share for look in planned_looks(len(self.dense))}
        if (share := shares.get(len(outcomes))) is None:
            return None
        alpha = ALPHA / self.n_comparisons * share
        pairs = [(self.dense[row], outcome) for row, outcome in outcomes.items()]
        (judged,) = judge_all([passage_losses(pairs, alpha=alpha)], self.tolerance)
        decision = _decision(judged, is_last=len(outcomes) == len(self.dense))
        return _stopping(self, outcomes, decision, alpha)


AnyRule = StopRule | ToleranceRule


def _decision(judged: ToleranceVerdict, is_last: bool) -> Decision:
    if judged.verdict == "undecided":
        return "open"
    all_say_so = len(judged.decided_by) == len(judged.losses)
    return judged.verdict if judged.verdict == "beyond" or all_say_so or is_last else "open"


def _flips(dense: Sequence[Outcome], outcomes: Mapping[int, Outcome]) -> tuple[int, int]:
    """How many answers broke, and how many were mended."""
    verdicts = [(dense[row].last_word_right, outcome.last_word_right) for row, outcome in outcomes.items()]
    return sum(one and not two for one, two in verdicts), sum(two and not one for one, two in verdicts)


def _stopping(
    rule: AnyRule, outcomes: Mapping[int, Outcome], decision: Decision, alpha: float | None = None
) -> Stopping:
    broke, mended = _flips(rule.dense, outcomes)
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
