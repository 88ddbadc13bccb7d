"""Several models judged together against one baseline by answers to the same questions, and ranked:
a model stands below another one only where that is shown to be better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.tolerance_settings import ALPHA, Tolerance
from sparsedash.stats.mean_intervals import Moments, mean_interval, moments
from sparsedash.stats.races import mean_p_value
from sparsedash.stats.significance import holm, mcnemar
from sparsedash.stats.task_pairs import TaskPair, pair_tasks
from sparsedash.stats.task_verdicts import JudgedAnswers, judge_tasks
from sparsedash.stats.tolerance import MIN_PASSAGES, lost_share_interval


@dataclass(frozen=True, kw_only=True)
class RankedModel:
    """A model's place. rank: 1 and how many models are shown to be better.

    score: the mean of the tasks' shares of right answers. change, low, high: in the score, from the
    baseline, with its interval; of the baseline 0. ties: the models that it is neither shown to be
    better nor worse than.
    """

    name: str
    rank: int
    score: float
    change: float
    low: float
    high: float
    ties: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Models, the best first, the baseline among them. tasks, n_questions: that all of them
    answered. level: of each interval; all of them hold together at 95 %.
    """

    models: tuple[RankedModel, ...]
    baseline: str
    tasks: tuple[str, ...]
    n_questions: int
    level: float


def judge_models(
    baseline: Sequence[QuestionSet],
    models: Mapping[str, Sequence[QuestionSet]],
    tolerance: Tolerance,
) -> dict[str, JudgedAnswers]:
    """The verdicts on all tasks of all models, by Holm together; by model. Raises CorpusError where
    answers cannot be paired.
    """
    paired = {name: pair_tasks(baseline, sets) for name, sets in models.items()}
    together = list[TaskPair]()
    for pairs, _ in paired.values():
        together += pairs
    results = iter(judge_tasks(together, tolerance))
    judged = {}
    for name, (pairs, notes) in paired.items():
        judged[name] = JudgedAnswers([next(results) for _ in pairs], notes)
    return judged


def rank_models(judged: Mapping[str, JudgedAnswers], baseline: str) -> Ranking | None:
    """The ranking by the tasks with right and wrong answers, on the questions that all answered;
    None where there are none, or fewer than MIN_PASSAGES.

    Each task counts alike. Two models differ where the paired difference is shown after Holm over
    all pairs of models: of one task by McNemar's exact test, of several by their mean differences.
    """
    by_task = _shared_rights(judged)
    n_questions = sum(map(len, by_task.values()))
    if n_questions < MIN_PASSAGES:
        return None
    names = [baseline, *judged]
    scores = [_mean_score(by_task, i) for i in range(len(names))]
    duels = list(combinations(range(len(names)), 2))
    p_values = holm([_p_value(by_task, i, k) for i, k in duels])
    better = {i: set[int]() for i in range(len(names))}
    apart = {i: {i} for i in range(len(names))}
    for (i, k), p_value in zip(duels, p_values, strict=True):
        if p_value <= ALPHA and scores[i] != scores[k]:
            worse = i if scores[i] < scores[k] else k
            better[worse].add(i + k - worse)
            apart[i].add(k)
            apart[k].add(i)
    share = ALPHA / max(1, len(judged))
    ranked = []
    for i, name in enumerate(names):
        low, high = (0.0, 0.0) if i == 0 else _change_interval(by_task, i, share)
        model = RankedModel(
            name=name,
            rank=1 + len(better[i]),
            score=scores[i],
            change=scores[i] - scores[0],
            low=low,
            high=high,
            ties=tuple(tied for k, tied in enumerate(names) if k not in apart[i]),
        )
        ranked.append(model)
    ranked.sort(key=lambda model: (model.rank, -model.score))
    return Ranking(
        models=tuple(ranked),
        baseline=baseline,
        tasks=tuple(by_task),
        n_questions=n_questions,
        level=1 - share,
    )


_Rights = Mapping[str, Sequence[Sequence[bool]]]
"""By task, for each question whether each model is right, the baseline first."""


def _shared_rights(judged: Mapping[str, JudgedAnswers]) -> dict[str, list[list[bool]]]:
    """The questions that all models answered right or wrong."""
    answers = dict[tuple[str, str, str], list[bool]]()
    for n_before, model in enumerate(judged.values(), start=1):
        for result in model.results:
            for one, two in result.pair.questions:
                if one.right is None:
                    continue
                key = result.task, one.part, one.doc_hash
                rights = answers.setdefault(key, [one.right])
                if len(rights) == n_before:
                    rights.append(bool(two.right))
    by_task = dict[str, list[list[bool]]]()
    for (task, *_), rights in answers.items():
        if len(rights) == len(judged) + 1:
            by_task.setdefault(task, []).append(rights)
    return by_task


def _mean_score(by_task: _Rights, i: int) -> float:
    total = 0.0
    for rows in by_task.values():
        total += sum(row[i] for row in rows) / len(rows)
    return total / len(by_task)


def _p_value(by_task: _Rights, i: int, k: int) -> float:
    if len(by_task) > 1:
        return mean_p_value(_loss_moments(by_task, i, k))
    (rows,) = by_task.values()
    return mcnemar(*_flips(rows, i, k))


def _change_interval(by_task: _Rights, i: int, alpha: float) -> tuple[float, float]:
    """Interval of the change in the score from the baseline to model i."""
    if len(by_task) > 1:
        low, high = mean_interval(_loss_moments(by_task, 0, i), alpha)
    else:
        (rows,) = by_task.values()
        broke, fixed = _flips(rows, 0, i)
        low, high = lost_share_interval(broke, fixed, len(rows), alpha)
    return -high, -low


def _flips(rows: Sequence[Sequence[bool]], i: int, k: int) -> tuple[int, int]:
    broke = sum(row[i] and not row[k] for row in rows)
    return broke, sum(row[k] and not row[i] for row in rows)


def _loss_moments(by_task: _Rights, i: int, k: int) -> Moments:
    """Moments of what model k loses against i, such that their mean is that of the tasks' means.

    The tasks are given and their questions drawn, so what differs between tasks is no error
    (stratified sampling).
    """
    n_tasks = len(by_task)
    n = sum(map(len, by_task.values()))
    mean = 0.0
    variance = 0.0
    extremes = [0.0]
    for rows in by_task.values():
        losses = moments([float(row[i]) - float(row[k]) for row in rows])
        weight = n / (n_tasks * len(rows))
        mean += losses.mean / n_tasks
        variance += losses.deviation**2 / (len(rows) * n_tasks**2)
        extremes += [weight * losses.lowest, weight * losses.highest]
    return Moments(
        n=n,
        mean=mean,
        deviation=sqrt(variance * n),
        lowest=min(extremes),
        highest=max(extremes),
    )
