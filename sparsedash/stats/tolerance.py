"""Verdict on a sparse model: is its loss of word perplexity and accuracy within a tolerance?

*Word perplexity*: how many times the dense model's; its logarithm is the mean fall of the target's
log-likelihood, in nats. *Accuracy*: how many points fewer last words are right. A loss is `within`
where its whole interval lies inside the tolerance, `beyond` where all of it lies outside, else
`undecided`: a few passages decide nothing, rather than passing for proof that nothing was lost.
Intervals hold for all comparisons of a sweep together, by Holm's steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, inf, isfinite, log, sqrt
from statistics import NormalDist
from typing import TypeVar

from sparsedash.schema.find_settings import TrialVerdict
from sparsedash.schema.records import Outcome, Record
from sparsedash.schema.tolerance_settings import ALPHA, LossMeasure, Tolerance
from sparsedash.stats.anytime import anytime_interval, bisect_boundary
from sparsedash.stats.mean_intervals import (
    Moments,
    anytime_mean_interval,
    mean_interval,
    moments,
)
from sparsedash.stats.significance import paired_interval, shared_outcomes

Verdict = TrialVerdict
K = TypeVar("K")

MIN_PASSAGES = 30
"""With fewer no loss is called within: an interval of so few passages is narrow by chance."""
MIN_RIGHT = 20
"""With fewer right answers of the dense model accuracy is left out: there is too little to lose."""
SPREAD_NATS = 0.85
"""Standard deviation of the fall of the target's log-likelihood over passages, of a small loss:
that of the run which ships as an example at 10 % of the channels, where three methods lie within a
tenth of each other.
"""

_REACH = 3.1
"""How far from the mean the most extreme of these falls are, in standard deviations."""
_MAX_NATS = 10.0
_Z_POWER = NormalDist().inv_cdf(0.8)
_STEPS = 40


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Losses of one model against dense, before a verdict. nats: falls of the targets'
    log-likelihoods.

    broke, fixed: verdicts that changed. n_right: of the dense model. anytime: it may have stopped
    at any passage.
    alpha: the chance of error planned for this look at this model; None where the models judged
    together share one.
    """

    nats: Moments
    broke: int
    fixed: int
    n_right: int
    anytime: bool
    alpha: float | None = None


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One measure's loss with its interval, larger is worse: nats for word perplexity, a share for
    accuracy.

    level: of the interval, so that all intervals that are judged together hold together. most: the
    limit. needed: passages that would decide it four times of five if the loss stays the same; None
    where it is decided or unknown.
    task: whose questions were answered; empty for the passages.
    """

    measure: LossMeasure
    value: float
    low: float
    high: float
    level: float
    most: float
    verdict: Verdict
    needed: int | None
    task: str = ""

    @property
    def name(self) -> str:
        """The task, or of the passages the measure."""
        return self.task or self.measure


@dataclass(frozen=True, kw_only=True)
class ToleranceVerdict:
    """Verdict on a model by all its losses. accuracy: None where the dense model has too few right
    answers.

    tasks: losses on the tasks that can be judged; unjudged: names of the others. unanswered:
    whether tasks of the run could not be answered, by this model or at all.
    """

    n_passages: int
    perplexity: Loss
    accuracy: Loss | None
    tasks: tuple[Loss, ...] = ()
    unjudged: tuple[str, ...] = ()
    unanswered: bool = False

    @property
    def losses(self) -> tuple[Loss, ...]:
        """Losses on the passages by every measure that counts, the more sensitive one first."""
        return (
            (self.perplexity,)
            if self.accuracy is None
            else (self.perplexity, self.accuracy)
        )

    @property
    def verdict(self) -> Verdict:
        """Beyond where any loss is; within where word perplexity and every task are, and all tasks
        were answered.

        Accuracy on the passages is the coarser measure: where it decides nothing, perplexity
        decides.
        """
        if any(loss.verdict == "beyond" for loss in (*self.losses, *self.tasks)):
            return "beyond"
        decided = all(
            loss.verdict == "within" for loss in (self.perplexity, *self.tasks)
        )
        return "within" if decided and not self.unanswered else "undecided"

    @property
    def deciding(self) -> tuple[Loss, ...]:
        """The losses with this verdict."""
        return tuple(
            loss for loss in (*self.losses, *self.tasks) if loss.verdict == self.verdict
        )

    @property
    def too_few(self) -> bool:
        """Whether there are too few passages to call anything within."""
        return self.n_passages < MIN_PASSAGES

    @property
    def passages_needed(self) -> int | None:
        """Passages that would decide it; None where it is decided or unknown, or tasks are open.

        Word perplexity decides either way; accuracy only where its loss is over the limit.
        """
        if (
            self.verdict != "undecided"
            or self.unanswered
            or any(loss.verdict == "undecided" for loss in self.tasks)
        ):
            return None
        deciding = [
            self.perplexity,
            *(loss for loss in self.losses[1:] if loss.value > loss.most),
        ]
        return min(
            (loss.needed for loss in deciding if loss.needed is not None), default=None
        )


def record_losses(dense: Record, sparse: Record) -> Losses:
    """Losses of the sparse model on the passages that both answered."""
    stoppings = [
        record.stopping for record in (dense, sparse) if record.stopping is not None
    ]
    planned = next(
        (stopping.alpha for stopping in stoppings if stopping.alpha is not None), None
    )
    return passage_losses(
        shared_outcomes(dense, sparse),
        anytime=bool(stoppings) and planned is None,
        alpha=planned,
    )


def passage_losses(
    pairs: Sequence[tuple[Outcome, Outcome]],
    *,
    anytime: bool = False,
    alpha: float | None = None,
) -> Losses:
    """Losses on passages, each answered by the dense and the sparse model.

    anytime, alpha: as in Losses.
    """
    return Losses(
        nats=moments([d.log_likelihood - s.log_likelihood for d, s in pairs]),
        broke=sum(d.last_word_right and not s.last_word_right for d, s in pairs),
        fixed=sum(s.last_word_right and not d.last_word_right for d, s in pairs),
        n_right=sum(d.last_word_right for d, _ in pairs),
        anytime=anytime,
        alpha=alpha,
    )


def judge_all(
    models: Sequence[Losses], tolerance: Tolerance, n_compared: int = 0
) -> list[ToleranceVerdict]:
    """Verdicts on all models of a sweep together, in their order. Models with an alpha of their own
    are judged separately.

    Holm's steps: while k losses are undecided, each interval has level 1 - 0.05 / k; those that it
    decides leave, and the rest is judged again. So the chance that any loss at the tolerance is
    called within, or beyond, stays small.
    n_compared: models that were compared, where that is more: all losses of the missing ones count
    as undecided.
    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    together = [model for model in models if model.alpha is None]
    judged = iter(
        _judge_by_holm(
            together,
            ALPHA,
            tolerance,
            max(0, n_compared - len(models)),
        )
    )
    return [
        next(judged)
        if model.alpha is None
        else _judge_by_holm([model], model.alpha, tolerance)[0]
        for model in models
    ]


def lost_accuracy_interval(model: Losses, alpha: float) -> tuple[float, float]:
    """Interval of the share of right answers that was lost: that of sparse minus dense, negated."""
    n = model.nats.n
    broke = model.broke
    fixed = model.fixed
    if model.anytime:
        low, high = anytime_interval(broke, fixed, n, alpha)
        return -high, -low
    return lost_share_interval(broke, fixed, n, alpha)


def lost_share_interval(
    broke: int, fixed: int, n: int, alpha: float
) -> tuple[float, float]:
    """Interval of the share of n right answers that was lost, n fixed before any was seen.

    Each end counts one passage more than was seen, fixed or broken: see `mean_interval`.
    """
    z = NormalDist().inv_cdf(1 - alpha / 2)
    return -paired_interval(broke, fixed + 1, n + 1, z)[1], -paired_interval(
        broke + 1, fixed, n + 1, z
    )[0]


def _judge_by_holm(
    models: Sequence[Losses], alpha: float, tolerance: Tolerance, n_missing: int = 0
) -> list[ToleranceVerdict]:
    measures: list[tuple[LossMeasure, ...]] = [
        ("word perplexity", "accuracy")
        if model.n_right >= MIN_RIGHT
        else ("word perplexity",)
        for model in models
    ]
    waiting = list[tuple[int, LossMeasure]]()
    for i, counted in enumerate(measures):
        waiting += [(i, measure) for measure in counted]
    n_missing_losses = n_missing * max(map(len, measures), default=0)

    def judge(key: tuple[int, LossMeasure], share: float) -> Loss:
        i, measure = key
        return _loss(models[i], measure, share, tolerance)

    losses = judge_in_steps(waiting, alpha, judge, n_missing_losses)
    return [
        ToleranceVerdict(
            n_passages=model.nats.n,
            perplexity=losses[i, "word perplexity"],
            accuracy=losses.get((i, "accuracy")),
        )
        for i, model in enumerate(models)
    ]


def judge_in_steps(
    waiting: Sequence[K],
    alpha: float,
    judge: Callable[[K, float], Loss],
    n_missing: int = 0,
) -> dict[K, Loss]:
    """Losses by Holm's steps: see `judge_all`. judge: the loss of one with its share of alpha.
    n_missing: as undecided.
    """
    losses: dict[K, Loss] = {}
    while waiting:
        share = alpha / (len(waiting) + n_missing)
        n_before = len(waiting)
        losses |= {key: judge(key, share) for key in waiting}
        waiting = [key for key in waiting if losses[key].verdict == "undecided"]
        if len(waiting) == n_before:
            break
    return losses


def _loss(
    model: Losses, measure: LossMeasure, alpha: float, tolerance: Tolerance
) -> Loss:
    estimate, (low, high) = _estimate(model, measure, alpha)
    wider = 1.0
    if model.anytime:
        _, fixed_n_interval = _estimate(replace(model, anytime=False), measure, alpha)
        fixed_n_width = fixed_n_interval[1] - fixed_n_interval[0]
        # Where all passages lost the same it has no width.
        wider = (high - low) / fixed_n_width if fixed_n_width > 0 else 1.0
    return loss_of(
        measure,
        estimate,
        (low, high),
        alpha,
        tolerance.most(measure),
        wider=wider,
    )


def own_perplexity(model: Losses, most: float) -> Loss:
    """Loss of word perplexity with the 95 % interval of this model by itself.

    It holds at any look where the evaluation may have stopped early. most: the limit.
    """
    interval = mean_interval
    if model.anytime or model.alpha is not None:
        interval = anytime_mean_interval
    return loss_of(
        "word perplexity",
        model.nats,
        interval(model.nats, ALPHA),
        ALPHA,
        most,
    )


def _estimate(
    model: Losses, measure: LossMeasure, alpha: float
) -> tuple[Moments, tuple[float, float]]:
    if measure == "word perplexity":
        return model.nats, (anytime_mean_interval if model.anytime else mean_interval)(
            model.nats, alpha
        )
    return flip_moments(model.broke, model.fixed, model.nats.n), lost_accuracy_interval(
        model, alpha
    )


def flip_moments(broke: int, fixed: int, n: int) -> Moments:
    """Moments of n verdicts: 1 where it broke, -1 where it was fixed, else 0."""
    value = (broke - fixed) / n
    spread = sqrt(max(0.0, (broke + fixed) / n - value**2))
    lowest = -1.0 if fixed else 0.0
    highest = 1.0 if broke else 0.0
    return Moments(
        n=n,
        mean=value,
        deviation=spread,
        lowest=lowest,
        highest=highest,
    )


def loss_of(
    measure: LossMeasure,
    moments: Moments,
    interval: tuple[float, float],
    alpha: float,
    most: float,
    *,
    wider: float = 1.0,
) -> Loss:
    """The loss with these moments and this interval of level 1 - alpha, judged against the limit.

    wider: the interval is so many times as wide as one for a number of passages that was fixed
    before.
    """
    low, high = interval
    verdict: Verdict = "undecided"
    if low > most:
        verdict = "beyond"
    elif high <= most and moments.n >= MIN_PASSAGES:
        verdict = "within"
    return Loss(
        measure=measure,
        value=moments.mean,
        low=low,
        high=high,
        level=1 - alpha,
        most=most,
        verdict=verdict,
        needed=_passages_to_decide(
            moments,
            most,
            alpha,
            wider,
        )
        if verdict == "undecided"
        else None,
    )


def passages_to_judge(
    nats: float, ratio: float, alpha: float, spread: float = SPREAD_NATS
) -> int | None:
    """Passages that would call so large a loss within or beyond this limit four times of five,
    about.

    alpha: the chance of error of one loss. spread: standard deviation over passages, in nats. None
    where the loss is the limit.
    """
    loss = Moments(
        n=2,
        mean=nats,
        deviation=spread,
        lowest=nats - _REACH * spread,
        highest=nats + _REACH * spread,
    )
    return _passages_to_decide(loss, log(ratio), alpha, 1.0)


def detectable_ratio(n_passages: int, ratio: float, alpha: float) -> float:
    """The smallest ratio of word perplexity that so many passages would call beyond: see
    `passages_to_judge`.
    """

    def is_called(nats: float) -> bool:
        return (passages_to_judge(nats, ratio, alpha) or inf) <= n_passages

    return exp(bisect_boundary(is_called, log(ratio) + _MAX_NATS, log(ratio)))


_MIN_GAP = 1e-9
"""Nats, or a share, between a mean and its limit below which no number of passages decides."""


def _passages_to_decide(
    moments: Moments, most: float, alpha: float, wider: float
) -> int | None:
    """Passages after which the interval would lie on one side of the limit, four times of five."""
    gap = abs(most - moments.mean)
    if moments.n < 2 or not isfinite(moments.deviation * wider) or gap < _MIN_GAP:
        return None
    z = wider * NormalDist().inv_cdf(1 - alpha / 2) + _Z_POWER
    # How much one more passage like the most extreme widens the interval, which shrinks with their
    # number.
    reach = (
        moments.highest - moments.mean
        if moments.mean < most
        else moments.mean - moments.lowest
    )
    n = (z * moments.deviation / gap) ** 2
    for _ in range(_STEPS if n > 0 else 0):
        n = (
            (z * sqrt(moments.deviation**2 + reach**2 / n) + reach / sqrt(n)) / gap
        ) ** 2
    return max(MIN_PASSAGES if moments.mean < most else 2, ceil(n))
