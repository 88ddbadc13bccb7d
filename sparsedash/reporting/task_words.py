"""The verdict over tasks as a sentence, a table and a document."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import chain
from math import isfinite
from typing import Any

from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.reporting.verdicts import (
    VERDICT_SIGNS,
    level_words,
    loss_interval,
    loss_value,
    loss_with_limit,
)
from sparsedash.reporting.wording import (
    and_join,
    first_upper,
    p_number,
    percent,
    plural,
    quantity,
    round_up,
)
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.task_verdicts import TaskResult, TaskVerdict, overall_verdict
from sparsedash.stats.tolerance import MIN_PASSAGES, MIN_RIGHT

JUDGE_FORMAT = "sparsedash.judge/1"
_HEAD = (
    "task",
    "verdict",
    "measure",
    "questions",
    "dense",
    "other",
    "change",
    "interval",
    "level",
)
_MANY_MORE = 20
"""So many times the questions that were asked nobody has: what needs more is not settled by
asking.
"""
_FLIPS = ("broke", "fixed", "still wrong", "p", "KL")


def tasks_sentence(name: str, results: Sequence[TaskResult]) -> str:
    """On which tasks a model is beyond the limit, within it or undecided. name: its own."""
    within = _on("within the limit", _with("within", results))
    undecided = _on("too close to call", _with("undecided", results))
    match overall_verdict(results):
        case "beyond":
            losses = [result.loss for result in _with("beyond", results) if result.loss]
            sentence = (
                f"{name} costs too much: {', '.join(map(loss_with_limit, losses))}."
            )
            others = first_upper("; ".join(filter(None, (within, undecided))))
            return f"{sentence} {others}." if others else sentence
        case "within":
            return f"{name} stays {within}."
        case "undecided":
            return f"{name} is {'; '.join(filter(None, (undecided, within)))}."
        case _:
            return "Nothing can be judged."


def _on(words: str, results: Sequence[TaskResult]) -> str:
    tasks = and_join([result.task for result in results])
    return f"{words} on {tasks}" if tasks else ""


def task_remarks(results: Sequence[TaskResult]) -> str:
    """Whether all answers are the same, what would settle the undecided tasks, and why others are
    not judged; empty where there is nothing to say.
    """
    remarks = list[str]()
    questions = list(chain.from_iterable(result.pair.questions for result in results))
    if questions and all(before == after for before, after in questions):
        remarks.append(
            f"All {quantity(len(questions), 'answer')} are the same as the baseline's"
        )
    undecided = _with("undecided", results)
    remarks += [_needed(result) for result in undecided]
    near = [
        result.task
        for result in undecided
        if not _needed(result) and _is_near_limit(result)
    ]
    if near:
        verb = "is" if len(near) == 1 else "are"
        settled = "too close to the limit to be settled by more questions"
        remarks.append(f"{and_join(near)} {verb} {settled}")
    remarks += [_why_not(result) for result in _with("not judged", results)]
    limits: dict[float, list[str]] = {}
    for result in results:
        if result.own_limit:
            limits.setdefault(result.own_limit, []).append(result.task)
    remarks += [limit_on(tasks, limit) for limit, tasks in limits.items()]
    return " ".join(f"{remark}." for remark in remarks if remark)


def idle_limits(results: Iterable[TaskResult], tolerance: Tolerance) -> list[str]:
    """Sentences on limits of tasks that nobody answered, as of a name with a slip, or that have no
    right answers.
    """
    known = {result.task: result.pair.dense.kind for result in results}
    answered = and_join(list(known)) or "no task"
    idle = and_join([task for task, _ in tolerance.tasks if task not in known])
    rolling = and_join(
        [task for task, _ in tolerance.tasks if known.get(task) == "rolling"]
    )
    notes = []
    if idle:
        notes.append(f"Limits name {idle}, but the answers are of {answered}.")
    if rolling:
        notes.append(
            f"No answer of {rolling} is right or wrong: the limit of word perplexity holds."
        )
    return notes


def limit_on(tasks: Sequence[str], points: float) -> str:
    """The limit of these tasks' own, without a full stop."""
    return f"Limit on {and_join(list(tasks))}: {points:g} {plural(points, 'point')}"


def _with(verdict: TaskVerdict, results: Sequence[TaskResult]) -> list[TaskResult]:
    return [result for result in results if result.verdict == verdict]


def _needed(result: TaskResult) -> str:
    n = len(result.pair.questions)
    needed = result.loss.needed if result.loss else None
    if result.n_clusters is not None and result.n_clusters < MIN_PASSAGES:
        return (
            f"The questions of {result.task} lie in {quantity(result.n_clusters, 'cluster')}, such as passages; "
            f"fewer than {MIN_PASSAGES} never decide"
        )
    if n < MIN_PASSAGES:
        return f"Fewer than {MIN_PASSAGES} questions can never confirm a model: {result.task} has {n}"
    if needed is None or _is_near_limit(result):
        return ""
    return f"About {round_up(needed):,} questions of {result.task} would settle it"


def _is_near_limit(result: TaskResult) -> bool:
    """Whether it would take more questions than the task has at most."""
    n = len(result.pair.questions)
    needed = result.loss.needed if result.loss else None
    return needed is not None and needed > most_times(result.task, n) * n


def most_times(task: str, n_asked: int) -> float:
    """How many times the questions asked a task has at most."""
    built_in = BUILTIN_TASKS.get(f"builtin:{task}")
    return built_in.n_questions / n_asked if built_in else _MANY_MORE


def _why_not(result: TaskResult) -> str:
    if result.not_judged == "chance":
        return f"{result.task} is not judged: dense is not shown to do better than guessing"
    right = sum(one.right is True for one, _ in result.pair.questions)
    answers = f"{right or 'no'} right {plural(right, 'answer')}"
    return f"{result.task} is not judged: dense has {answers}, fewer than {MIN_RIGHT}"


def task_rows(results: Sequence[TaskResult]) -> list[list[str]]:
    """The table: its head, then a row a task. Documents change in word perplexity."""
    rows = [[*_HEAD, *_FLIPS]]
    for result in results:
        loss = result.loss
        n_flips = (result.broke, result.fixed, result.moved)
        scores = [percent(score) for score in (result.dense, result.other)]
        flips = [f"{n:,}" for n in n_flips]
        if result.pair.dense.kind == "rolling":
            scores = [f"{score:.3f}" for score in (result.dense, result.other)]
            flips = [""] * len(n_flips)
        verdict = "not judged"
        change = ["", "", ""]
        if loss is not None:
            verdict = VERDICT_SIGNS[loss.verdict]
            change = [loss_value(loss), loss_interval(loss), level_words(loss.level)]
        p = "" if result.p_value is None else p_number(result.p_value)
        divergence = "" if result.divergence is None else f"{result.divergence:.3f}"
        n_questions = f"{len(result.pair.questions):,}"
        row = [result.task, verdict, result.pair.dense.measure_label, n_questions]
        rows.append([*row, *scores, *change, *flips, p, divergence])
    return rows


def judge_document(
    name: str, results: Sequence[TaskResult], tolerance: Tolerance
) -> dict[str, Any]:
    """Everything as plain values for JSON; numbers that are not finite are null."""
    return {
        "format": JUDGE_FORMAT,
        "sentence": tasks_sentence(name, results),
        "remarks": task_remarks(results),
        "verdict": overall_verdict(results),
        "tolerance": tolerance.as_document(),
        "tasks": [task_document(result) for result in results],
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not isfinite(value) else value
        for key, value in values.items()
    }


def task_document(result: TaskResult) -> dict[str, Any]:
    """A result as plain values for JSON; numbers that are not finite are null."""
    dense = result.pair.dense
    loss = None
    if result.loss is not None:
        loss = _finite(
            {
                key: value
                for key, value in asdict(result.loss).items()
                if key not in ("verdict", "task")
            }
        )
    document = {
        **{
            name: getattr(dense, name)
            for name in ("task", "version", "kind", "measure", "inverted", "filter")
        },
        "n_questions": len(result.pair.questions),
        "n_clusters": result.n_clusters,
        **{
            name: getattr(result, name)
            for name in ("dense", "other", "broke", "fixed", "moved")
        },
        "p_adjusted": result.p_value,
        "divergence": result.divergence,
        "verdict": result.verdict,
        "not_judged": result.not_judged,
        "loss": loss,
    }
    return _finite(document)
