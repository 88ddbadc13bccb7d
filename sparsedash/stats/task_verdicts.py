"""Verdict over tasks: does a model lose more than is allowed on any of them, against dense on the
same questions?

The loss of a task is the share of right answers lost; of rolling documents that of word perplexity,
in nats a word, which is their bits a byte in another unit. Of one true loss only one of *within*
and *beyond* can be wrong, so each interval is that of level 1 - 2 alpha: the chance that a verdict
is wrong is at most alpha, 5 %, for all tasks that are judged together, of one model or several, by
Holm's steps. Why: see docs/adr/0049.
"""

from collections.abc import (
    Callable,
    Collection,
    Container,
    Iterable,
    Mapping,
    Sequence,
    Set,
)
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import exp, inf, log, sqrt
from typing import Literal, NamedTuple, TypeVar

from sparsedash.schema.question_records import AnsweredQuestion, QuestionSet
from sparsedash.schema.records import Run
from sparsedash.schema.tolerance_settings import ALPHA, LossMeasure, Tolerance
from sparsedash.stats.mean_intervals import Moments, mean_interval, moments
from sparsedash.stats.races import mean_p_value
from sparsedash.stats.significance import holm, mcnemar, wilson_interval
from sparsedash.stats.sparsity_search import TRIAL_ALPHA
from sparsedash.stats.task_pairs import TaskPair, pairs_of
from sparsedash.stats.tolerance import (
    MIN_PASSAGES,
    MIN_RIGHT,
    Loss,
    Verdict,
    flip_moments,
    judge_in_steps,
    loss_of,
    lost_share_interval,
)

T = TypeVar("T")
V = TypeVar("V")

NotJudged = Literal["few right", "chance"]
TaskVerdict = Verdict | Literal["not judged"]
"""not judged: dense has fewer than MIN_RIGHT right answers, or not shown more than guessing
gives.
"""


@dataclass(frozen=True, kw_only=True)
class TaskLosses:
    """A model's losses on a task, before a verdict. broke, fixed, not_judged: as in TaskResult.

    moments: of the loss over the questions that both answered, in the unit of `Loss`. least: the
    limit that comes with the task, where the tolerance is narrower and does not name it. clusters:
    moments of the mean loss over clusters of questions; None where each stands alone.
    """

    task: str
    measure: LossMeasure
    broke: int
    fixed: int
    moments: Moments
    not_judged: NotJudged | None
    least: float
    clusters: Moments | None = None


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The verdict on one task, or why there is none, and what changed.

    dense, other: shares of right answers, or bits a byte. loss: None where it is not judged, for the reason not_judged.
    broke, fixed: right answers that are wrong now, and the reverse. moved: wrong ones that are wrong otherwise.
    p_value: of no difference, after Holm over the tasks that are judged: exact McNemar; of documents by the interval.
    None where it is not judged.
    divergence: mean KL(dense || other) of the choices, in nats; None where there is nothing to choose from.
    own_limit: in points, where it is another than that of all tasks. n_clusters: of questions, by which the interval is
    computed; None where each stands alone.
    """

    pair: TaskPair
    dense: float
    other: float
    broke: int
    fixed: int
    moved: int
    p_value: float | None
    divergence: float | None
    loss: Loss | None
    not_judged: NotJudged | None
    own_limit: float | None
    n_clusters: int | None

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.pair.dense.task

    @property
    def verdict(self) -> TaskVerdict:
        """The verdict."""
        return "not judged" if self.loss is None else self.loss.verdict


class JudgedAnswers(NamedTuple):
    """The verdicts on the tasks that two models answered, and sentences on what is left out."""

    results: Sequence[TaskResult]
    notes: Sequence[str]


def judge_tasks(
    pairs: Sequence[TaskPair],
    tolerance: Tolerance,
    alpha: float = ALPHA,
    n_missing: int = 0,
) -> list[TaskResult]:
    """The verdicts on all tasks, of one model or several, together; in the order given.

    alpha: the chance of error. n_missing: tasks of missing models, which count as undecided.
    """
    measured = [task_losses(pair) for pair in pairs]
    losses = judge_losses(measured, tolerance, alpha, n_missing)
    # Those that are not judged claim nothing, so they take nothing of the chance of error.
    judged = [i for i, loss in enumerate(losses) if loss is not None]
    p_values = holm([_p_value(measured[i]) for i in judged], len(judged) + n_missing)
    adjusted = dict(zip(judged, p_values, strict=True))
    results = []
    for i, pair in enumerate(pairs):
        dense, answers = zip(*pair.questions, strict=True)
        result = TaskResult(
            pair=pair,
            dense=task_score(dense),
            other=task_score(answers),
            broke=measured[i].broke,
            fixed=measured[i].fixed,
            moved=sum(map(_moved, dense, answers)),
            p_value=adjusted.get(i),
            divergence=_divergence(pair),
            loss=losses[i],
            not_judged=measured[i].not_judged,
            own_limit=own_limit(measured[i], tolerance) if i in adjusted else None,
            n_clusters=clusters.n if (clusters := measured[i].clusters) else None,
        )
        results.append(result)
    return results


def judge_together(
    run: Run,
    tasks: Mapping[str, Sequence[T]],
    n_tasks: Collection[int],
    judge: Callable[[list[T], float, int], Iterable[V]],
) -> dict[str, list[V]]:
    """What `judge` says of the tasks of each sparse record of a run, in their order.

    n_tasks: those that can be judged, by record. judge: called with tasks that are judged together,
    alpha and n_missing, as of `judge_tasks`. Models of a run that are missing count as those there
    do. A search judges each trial by itself, when the next ones are not known.
    """
    if run.find is not None:
        return {
            record: list(judge(list(of_one), TRIAL_ALPHA, 0))
            for record, of_one in tasks.items()
        }
    n_missing = max(0, run.n_compared - len(tasks)) * max(n_tasks, default=0)
    results = iter(judge(list(chain.from_iterable(tasks.values())), ALPHA, n_missing))
    return {
        record: list(islice(results, len(of_one))) for record, of_one in tasks.items()
    }


def is_unanswered(run: Run, record: str, judged: Container[str]) -> bool:
    """Whether tasks of the run could not be answered, or by dense alone.

    judged: the models that were.
    """
    if run.unanswered:
        return True
    n_dense = len(run.answers.get(run.dense, ()))
    is_judged = record in judged and len(run.answers.get(record, ())) >= n_dense
    return n_dense > 0 and not is_judged


def judge_run(
    run: Run, answered: Callable[[str], QuestionSet | None], tolerance: Tolerance
) -> dict[str, JudgedAnswers]:
    """The verdicts on the tasks of each sparse model of a run, by the key of its record: see
    `judge_together`.

    answered: the set of a key. Models of which a set is missing are left out; a note says what
    cannot be judged.
    """
    complete = dict[str, list[QuestionSet]]()
    for record, keys in run.answers.items():
        sets = list(filter(None, map(answered, keys)))
        if sets and len(sets) == len(keys):
            complete[record] = sets
    if run.dense not in complete:
        return {}
    pairs = dict[str, list[TaskPair]]()
    notes = dict[str, list[str]]()
    n_tasks = list[int]()
    for record in run.sparse:
        if record in complete:
            pairs[record], notes[record] = pairs_of(
                complete[run.dense], complete[record]
            )
            n_tasks.append(sum(_not_judged(pair) is None for pair in pairs[record]))
    judged = judge_together(
        run,
        pairs,
        n_tasks,
        lambda together, alpha, n_missing: judge_tasks(
            together, tolerance, alpha, n_missing
        ),
    )
    return {
        record: JudgedAnswers(results, notes[record])
        for record, results in judged.items()
    }


def own_limit(task: TaskLosses, tolerance: Tolerance) -> float | None:
    """Points that may be lost on a task, where they are others than on all tasks."""
    share = tolerance.most_on(task.task, task.least)
    if task.measure != "accuracy" or share == tolerance.most("accuracy"):
        return None
    return round(100 * share, 6)


def task_losses(pair: TaskPair) -> TaskLosses:
    """The losses of a pair."""
    broke, fixed = _flips(pair)
    losses = _loss_moments(pair)
    clusters = _cluster_moments(pair, losses)
    if clusters is not None:
        # So that the questions that would decide are counted as they are asked: cluster by cluster.
        spread = clusters.deviation * sqrt(losses.n / clusters.n)
        losses = replace(losses, deviation=max(losses.deviation, spread))
    return TaskLosses(
        task=pair.dense.task,
        measure="word perplexity" if pair.dense.kind == "rolling" else "accuracy",
        broke=broke,
        fixed=fixed,
        moments=losses,
        not_judged=_not_judged(pair),
        least=pair.dense.points / 100,
        clusters=clusters,
    )


def judge_losses(
    tasks: Sequence[TaskLosses],
    tolerance: Tolerance,
    alpha: float = ALPHA,
    n_missing: int = 0,
) -> list[Loss | None]:
    """The losses of all tasks judged together, in the order given; None where one is not judged.

    alpha, n_missing: as of `judge_tasks`.
    """

    def judge(i: int, share: float) -> Loss:
        task = tasks[i]
        width = 2 * share
        n = task.moments.n
        if task.measure == "accuracy":
            interval = _accuracy_interval(task, width)
            most = tolerance.most_on(task.task, task.least)
        else:
            interval = mean_interval(task.moments, width)
            most = tolerance.most(task.measure)
        loss = loss_of(task.measure, task.moments, interval, width, most)
        # Of few flips, or none, it is not known how many questions would do.
        needed = None if loss.needed and loss.needed <= n else loss.needed
        return replace(loss, task=task.task, needed=needed)

    judged = [i for i, task in enumerate(tasks) if task.not_judged is None]
    losses = judge_in_steps(judged, alpha, judge, n_missing)
    return [losses.get(i) for i in range(len(tasks))]


def _accuracy_interval(task: TaskLosses, alpha: float) -> tuple[float, float]:
    """Interval of the share of right answers lost; of clusters the wider at either end of that by
    clusters and that by questions, which sees how rare flips are.
    """
    low, high = lost_share_interval(task.broke, task.fixed, task.moments.n, alpha)
    clusters = task.clusters
    if clusters is None:
        return low, high
    if clusters.n < MIN_PASSAGES:
        return -inf, inf
    cluster_low, cluster_high = mean_interval(clusters, alpha)
    return min(low, cluster_low), max(high, cluster_high)


def joint_verdict(verdicts: Set[TaskVerdict]) -> TaskVerdict:
    """Verdict on several models: beyond if any is, within if all are."""
    if "beyond" in verdicts:
        return "beyond"
    if verdicts == {"within"}:
        return "within"
    return "not judged" if verdicts == {"not judged"} else "undecided"


def overall_verdict(results: Sequence[TaskResult]) -> TaskVerdict:
    """Beyond where any task is; within where every task is that can be judged."""
    verdicts = {result.verdict for result in results} - {"not judged"}
    return joint_verdict(verdicts or {"not judged"})


def _flips(pair: TaskPair) -> tuple[int, int]:
    """Numbers of answers that broke and that were fixed."""
    broke = sum(bool(one.right) and not two.right for one, two in pair.questions)
    return broke, sum(bool(two.right) and not one.right for one, two in pair.questions)


def _moved(one: AnsweredQuestion, two: AnsweredQuestion) -> bool:
    if one.right is not False or two.right is not False:
        return False
    return (
        one.chosen != two.chosen if len(one.choices) > 1 else one.answer != two.answer
    )


def task_score(questions: Sequence[AnsweredQuestion]) -> float:
    """The share of right answers; of documents bits a byte."""
    if questions[0].right is not None:
        return sum(question.right is True for question in questions) / len(questions)
    nats = -sum(question.log_likelihood or 0.0 for question in questions)
    return nats / log(2) / sum(question.n_bytes for question in questions)


_ALIKE = 1e-9
"""A deviation that is no larger a share of the mean is rounding."""


def _loss_moments(pair: TaskPair) -> Moments:
    """Moments of the loss; of documents, those of a ratio of sums (Cochran's linear form)."""
    n = len(pair.questions)
    if pair.dense.kind != "rolling":
        return flip_moments(*_flips(pair), n)
    falls = [
        ((one.log_likelihood or 0.0) - (two.log_likelihood or 0.0), one.n_words)
        for one, two in pair.questions
    ]
    n_words = sum(words for _, words in falls)
    mean = sum(fall for fall, _ in falls) / n_words
    losses = moments(
        [mean + (fall - mean * words) * n / n_words for fall, words in falls]
    )
    # Few documents, or all with the same change, do not say how much others differ.
    differ = losses.deviation > _ALIKE * abs(losses.mean) or losses.mean == 0
    return losses if n >= MIN_PASSAGES and differ else replace(losses, deviation=inf)


def _cluster_moments(pair: TaskPair, losses: Moments) -> Moments | None:
    """Moments over clusters, each with its share of the mean loss (Cochran's linear form); None
    where no two questions share one.
    """
    sums = dict[str, list[float]]()
    for i, (one, two) in enumerate(pair.questions):
        cluster = sums.setdefault(one.cluster or f"question {i}", [0.0, 0.0])
        cluster[0] += float(bool(one.right)) - float(bool(two.right))
        cluster[1] += 1
    n = len(pair.questions)
    if len(sums) == n or pair.dense.kind == "rolling":
        return None
    scale = len(sums) / n
    return moments(
        [
            losses.mean + (lost - losses.mean * size) * scale
            for lost, size in sums.values()
        ]
    )


def _not_judged(pair: TaskPair) -> NotJudged | None:
    if pair.dense.kind == "rolling":
        return None
    n = len(pair.questions)
    n_right = sum(one.right is True for one, _ in pair.questions)
    if n_right < MIN_RIGHT:
        return "few right"
    if pair.dense.inverted:
        # What is to be avoided is no ability that guessing could feign: a biased model can become
        # more so.
        return None
    chance = (
        sum(1 / len(one.choices) for one, _ in pair.questions if len(one.choices) > 1)
        / n
    )
    return "chance" if wilson_interval(n_right, n)[0] <= chance else None


def _p_value(task: TaskLosses) -> float:
    if task.measure != "accuracy":
        return mean_p_value(task.moments)
    p_value = mcnemar(task.broke, task.fixed)
    if task.clusters is None:
        return p_value
    if task.clusters.n < MIN_PASSAGES:
        return 1.0
    return max(p_value, mean_p_value(task.clusters))


def _divergence(pair: TaskPair) -> float | None:
    terms = []
    for one, two in pair.questions:
        if len(one.choices) > 1:
            logs = zip(choice_logs(one), choice_logs(two), strict=True)
            terms.append(sum(exp(p) * (p - q) for p, q in logs))
    return max(0.0, sum(terms) / len(terms)) if terms else None


def choice_logs(question: AnsweredQuestion) -> list[float]:
    """Logarithms of the choices' probabilities: the softmax of their log-likelihoods."""
    scores = [choice.log_likelihood for choice in question.choices]
    highest = max(scores)
    normaliser = highest + log(sum(exp(score - highest) for score in scores))
    return [score - normaliser for score in scores]
