"""Slices of the answers to a task, by its fields or the length of what was asked: what was lost in
each, and where that differs from the rest of the task.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import exp, lgamma, sqrt
from statistics import NormalDist
from typing import NamedTuple

from sparsedash.schema.errors import CorpusError
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.tolerance_settings import ALPHA, Tolerance
from sparsedash.stats.mean_intervals import moments, student_quantile
from sparsedash.stats.significance import holm
from sparsedash.stats.task_pairs import TaskPair
from sparsedash.stats.task_verdicts import TaskResult, judge_tasks
from sparsedash.stats.tolerance import MIN_PASSAGES

LENGTH = "length"
"""The slices by characters of what the model read: quarters of the task's questions."""
_PARTS_OF_LENGTH = 4
_MAX_VALUES = 200
"""A field with more values names questions, not groups of them."""
_MAX_TERMS = 20_000
"""Of an exact test; with more flips the normal approximation is as good."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Loss in a slice of a task. name: "subject: law". result: as of a task, judged together
    with all slices. rest_loss: of the task's other questions, in the unit of `Loss`. p_value: of the
    same loss in the slice and the rest, after Holm over all slices; None where one side has fewer
    than MIN_PASSAGES questions, or clusters.
    """

    name: str
    result: TaskResult
    rest_loss: float
    p_value: float | None

    @property
    def differs(self) -> bool:
        """Whether the loss is shown to be another than in the rest."""
        return self.p_value is not None and self.p_value <= ALPHA


def clustered(sets: Sequence[QuestionSet], field: str) -> list[QuestionSet]:
    """The sets with a field of their questions as the cluster. Raises CorpusError where no question
    has it.
    """
    with_clusters = []
    names = set[str]()
    for answers in sets:
        questions = []
        for question in answers.questions:
            names.update(question.fields)
            questions.append(replace(question, cluster=question.fields.get(field, "")))
        with_clusters.append(replace(answers, questions=tuple(questions)))
    if field not in names:
        fields = ", ".join(sorted(names)) or "none"
        raise CorpusError(f"No question has a field {field}.", f"Fields are: {fields}.")
    return with_clusters


def slice_tasks(
    pairs: Sequence[TaskPair], tolerance: Tolerance, names: Collection[str] = ()
) -> list[Slice]:
    """All slices with MIN_PASSAGES questions or more of these tasks, in their order; documents
    have none.

    names: of fields, and LENGTH; none: all. Raises CorpusError for a name that no question has.
    """
    known = {LENGTH}
    sliced = list[tuple[str, list[int], _TaskLosses]]()
    parts = list[TaskPair]()
    for pair in pairs:
        if pair.dense.kind == "rolling":
            continue
        losses = _losses(pair)
        for field, groups in _groups(pair).items():
            known.add(field)
            if names and field not in names:
                continue
            for name, places in groups.items():
                if MIN_PASSAGES <= len(places) < len(pair.questions):
                    sliced.append((name, places, losses))
                    questions = tuple(pair.questions[i] for i in places)
                    parts.append(replace(pair, questions=questions))
    if unknown := [name for name in names if name not in known]:
        raise CorpusError(
            f"No question has a field {unknown[0]}.",
            f"Fields are: {', '.join(sorted(known))}.",
        )
    results = judge_tasks(parts, tolerance)
    raw = [_difference_p(losses, places) for _, places, losses in sliced]
    adjusted = iter(holm([p for p in raw if p is not None]))
    slices = []
    for (name, places, losses), result, p_value in zip(
        sliced, results, raw, strict=True
    ):
        n_outside = len(losses.values) - len(places)
        slices.append(
            Slice(
                name=name,
                result=result,
                rest_loss=(losses.broke - losses.fixed - losses.lost_in(places))
                / n_outside,
                p_value=None if p_value is None else next(adjusted),
            )
        )
    return slices


def _groups(pair: TaskPair) -> dict[str, dict[str, list[int]]]:
    """The places of questions by field, and by the value of it in words."""
    groups = dict[str, dict[str, list[int]]]()
    for i, (question, _) in enumerate(pair.questions):
        for field, value in question.fields.items():
            groups.setdefault(field, {}).setdefault(f"{field}: {value}", []).append(i)
    groups = {
        field: places for field, places in groups.items() if len(places) <= _MAX_VALUES
    }
    lengths = [len(question.context) for question, _ in pair.questions]
    by_length = dict[str, list[int]]()
    bounds = _quarters(lengths)
    for i, length in enumerate(lengths):
        upper = next(bound for bound in bounds if length <= bound)
        by_length.setdefault(f"{LENGTH}: up to {upper:,} characters", []).append(i)
    groups[LENGTH] = dict(
        sorted(by_length.items(), key=lambda entry: lengths[entry[1][0]])
    )
    return groups


def _quarters(lengths: Sequence[int]) -> list[int]:
    """The upper ends of four parts with about as many lengths each; fewer where many are equal."""
    ordered = sorted(lengths)
    last = len(ordered) - 1
    ends = [
        ordered[last * part // _PARTS_OF_LENGTH]
        for part in range(1, _PARTS_OF_LENGTH + 1)
    ]
    return sorted(set(ends))


class _TaskLosses(NamedTuple):
    """Of each question of a task: 1 where its answer broke, -1 where it was fixed, else 0; and its
    cluster. clusters: empty where no two questions share one.
    """

    values: list[int]
    clusters: list[str]
    broke: int
    fixed: int
    deviation: float

    def lost_in(self, places: Sequence[int]) -> int:
        """The sum in a slice."""
        return sum(self.values[i] for i in places)


def _losses(pair: TaskPair) -> _TaskLosses:
    values = [
        int(bool(one.right)) - int(bool(two.right)) for one, two in pair.questions
    ]
    clusters = [
        one.cluster or f"question {i}" for i, (one, _) in enumerate(pair.questions)
    ]
    return _TaskLosses(
        values=values,
        clusters=clusters if len(set(clusters)) < len(clusters) else [],
        broke=values.count(1),
        fixed=values.count(-1),
        deviation=moments(values).deviation,
    )


def _difference_p(losses: _TaskLosses, places: Sequence[int]) -> float | None:
    """p of the same mean loss in a slice and in the rest."""
    n = len(losses.values)
    if n - len(places) < MIN_PASSAGES:
        return None
    if losses.clusters:
        return _clustered_p(losses.values, losses.clusters, places)
    broke = losses.broke
    fixed = losses.fixed
    lost = losses.lost_in(places)
    if (broke + 1) * (fixed + 1) <= _MAX_TERMS:
        return _exact_p(broke, fixed, n, len(places), lost)
    share = len(places) / n
    error = losses.deviation * sqrt(len(places) * (1 - share))
    z = abs(lost - share * (broke - fixed)) / error
    return 2 * NormalDist().cdf(-z)


def _exact_p(broke: int, fixed: int, n: int, n_slice: int, lost: int) -> float:
    """Permutation test: how often a random slice of this size is as far from its share of the loss.

    The flips in it follow the multivariate hypergeometric distribution.
    """
    expected = n_slice * (broke - fixed) / n
    far = abs(lost - expected) - 1e-9
    whole = _log_ways(n, n_slice)
    p_value = 0.0
    for in_broke in range(max(0, n_slice - (n - broke)), min(broke, n_slice) + 1):
        n_open = n_slice - in_broke
        log_broke = _log_ways(broke, in_broke)
        n_unflipped = n - broke - fixed
        for in_fixed in range(max(0, n_open - n_unflipped), min(fixed, n_open) + 1):
            if abs(in_broke - in_fixed - expected) >= far:
                log_rest = _log_ways(fixed, in_fixed) + _log_ways(
                    n_unflipped, n_open - in_fixed
                )
                p_value += exp(log_broke + log_rest - whole)
    return min(1.0, p_value)


def _log_ways(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _clustered_p(
    losses: Sequence[int], clusters: Sequence[str], places: Sequence[int]
) -> float | None:
    """By the difference of two ratios, linear in the clusters; None with fewer than MIN_PASSAGES
    clusters in the slice or in the rest.
    """
    inside = set(places)
    means = []
    n_clusters = []
    sides = (inside, set(range(len(losses))) - inside)
    for side in sides:
        means.append(sum(losses[i] for i in side) / len(side))
        n_clusters.append(len({clusters[i] for i in side}))
    if min(n_clusters) < MIN_PASSAGES:
        return None
    influence = dict.fromkeys(clusters, 0.0)
    for sign, side, mean in zip((1, -1), sides, means, strict=True):
        for i in side:
            influence[clusters[i]] += sign * (losses[i] - mean) / len(side)
    squares = sum(value * value for value in influence.values())
    n = len(influence)
    error = sqrt(squares * n / (n - 1))
    difference = abs(means[0] - means[1])
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return _student_p(difference / error, min(n_clusters) - 1)


def _student_p(t: float, degrees: int) -> float:
    """Two-sided p of Student's t."""
    low = 0.0
    high = 0.5
    for _ in range(40):
        middle = (low + high) / 2
        if student_quantile(1 - middle, degrees) > t:
            low = middle
        else:
            high = middle
    return 2 * high
