"""Verdict over tasks: does a model lose more than is allowed on any of them, against dense on the same questions?

The loss of a task is the share of right answers lost; of rolling documents that of word perplexity, in nats a word,
which is their bits a byte in another unit. Of one true loss only one of *within* and *beyond* can be wrong, so each
interval is that of level 1 - 2 alpha: the chance that a verdict is wrong is at most alpha, 5 %, for all tasks that are
judged together, of one model or several, by Holm's steps. Why: see docs/adr/0049.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log
from typing import Literal

from sparsedash.schema.errors import CorpusError
from sparsedash.schema.question_records import AnsweredQuestion, QuestionSet
from sparsedash.stats.mean_intervals import Moments, mean_interval, moments
from sparsedash.stats.races import mean_p_value
from sparsedash.stats.significance import holm, mcnemar, wilson_interval
from sparsedash.stats.tolerance import (
    ALPHA,
    FEWEST_PASSAGES,
    FEWEST_RIGHT,
    Loss,
    LossMeasure,
    Tolerance,
    Verdict,
    flip_moments,
    judge_in_steps,
    loss_of,
    lost_share_interval,
)

NotJudged = Literal["few right", "chance"]
TaskVerdict = Verdict | Literal["not judged"]
"""not judged: dense has fewer than FEWEST_RIGHT right answers, or not shown more than guessing gives."""


@dataclass(frozen=True, kw_only=True)
class TaskPair:
    """Two models' answers to one task. questions: those that both answered, the dense model's first."""

    dense: QuestionSet
    other: QuestionSet
    questions: tuple[tuple[AnsweredQuestion, AnsweredQuestion], ...]


@dataclass(frozen=True, kw_only=True)
class TaskLosses:
    """What a model lost on a task, before a verdict. broke, fixed, not_judged: as in TaskResult.

    of: moments of the loss over the questions that both answered, in the unit of `Loss`. least: the limit that comes
    with the task, which holds where the tolerance is narrower and does not name it.
    """

    task: str
    measure: LossMeasure
    broke: int
    fixed: int
    of: Moments
    not_judged: NotJudged | None
    least: float


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The verdict on one task, or why there is none, and what changed.

    dense, other: shares of right answers, or bits a byte. loss: None where it is not judged, for the reason not_judged.
    broke, fixed: right answers that are wrong now, and the reverse. moved: wrong ones that are wrong otherwise.
    p_value: of no difference, after Holm over the tasks that are judged: exact McNemar; of documents by the interval.
    None where it is not judged.
    divergence: mean KL(dense || other) of the choices, in nats; None where there is nothing to choose from.
    own_limit: in points, where it is another than that of all tasks.
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

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.pair.dense.task

    @property
    def verdict(self) -> TaskVerdict:
        """The verdict."""
        return "not judged" if self.loss is None else self.loss.verdict


def pair_answers(dense: QuestionSet, other: QuestionSet) -> TaskPair:
    """The questions that both answered. Raises CorpusError where the two were asked or judged differently."""
    task = dense.task
    for what, left, right in (
        ("versions", dense.version, other.version),
        ("measures", dense.measure, other.measure),
        ("filters", dense.filter, other.filter),
    ):
        if left and right and left != right:
            raise CorpusError(f"{task} was judged by different {what}: {left} and {right}.")
    # A file may have any name, so that of its only part says nothing.
    in_parts = any(len({question.part for question in each.questions}) > 1 for each in (dense, other))
    asked, known = (_by_document(each, in_parts) for each in (dense, other))
    pairs = [(one, known[key]) for key, one in asked.items() if key in known]
    if not pairs:
        raise CorpusError(f"The two have no question of {task} in common.")
    for unequal, n in (
        ("were asked differently: another prompt", sum(one.prompt_hash != two.prompt_hash for one, two in pairs)),
        ("expect different answers", sum(one.target_hash != two.target_hash for one, two in pairs)),
        ("were answered in different ways", sum(_form(one) != _form(two) for one, two in pairs)),
        ("were asked differently: other choices", sum(_texts(one) != _texts(two) for one, two in pairs)),
    ):
        if n:
            raise CorpusError(
                f"{n:,} of {len(pairs):,} questions of {task} {unequal}.",
                "Ask both models with the same program, examples and template.",
            )
    return TaskPair(dense=dense, other=other, questions=tuple(pairs))


def _by_document(answers: QuestionSet, in_parts: bool) -> dict[tuple[str, str, int], AnsweredQuestion]:
    """Questions by part, hash of the document, and how many with these came before."""
    seen, found = Counter[tuple[str, str]](), {}
    for question in answers.questions:
        name = (question.part if in_parts else "", question.doc_hash)
        found[*name, seen[name]] = question
        seen[name] += 1
    return found


def _form(question: AnsweredQuestion) -> tuple[object, ...]:
    return question.kind, question.n_bytes, question.n_words


def _texts(question: AnsweredQuestion) -> list[str]:
    return [each.text for each in question.choices]


def pair_tasks(dense: Sequence[QuestionSet], other: Sequence[QuestionSet]) -> tuple[list[TaskPair], list[str]]:
    """The tasks that both answered, and sentences on what only one did. Raises CorpusError where there are none.

    Two files of one task each are that task, whatever their names.
    """
    if len(dense) == len(other) == 1:
        pairs = [pair_answers(dense[0], other[0])]
    else:
        known = {each.task: each for each in other}
        pairs = [pair_answers(each, known[each.task]) for each in dense if each.task in known]
    judged = {id(each) for pair in pairs for each in (pair.dense, pair.other)}
    alone = [f"Only one model answered {each.task}." for each in (*dense, *other) if id(each) not in judged]
    if not pairs:
        raise CorpusError("The two have no task in common.", " ".join(alone))
    for pair in pairs:
        n, most = len(pair.questions), max(len(each.questions) for each in (pair.dense, pair.other))
        if n < most:
            alone.append(f"{n:,} of {most:,} questions of {pair.dense.task} were answered by both; they are judged.")
    return pairs, alone


def judge_tasks(pairs: Sequence[TaskPair], tolerance: Tolerance) -> list[TaskResult]:
    """The verdicts on all tasks, of one model or several, together; in the order given."""
    measured = [task_losses(pair) for pair in pairs]
    losses = judge_losses(measured, tolerance)
    # Those that are not judged claim nothing, so they take nothing of the chance of error.
    judged = [i for i, loss in enumerate(losses) if loss is not None]
    adjusted = dict(zip(judged, holm([_p_value(measured[i]) for i in judged]), strict=True))
    return [
        TaskResult(
            pair=pair,
            dense=task_score([one for one, _ in pair.questions]),
            other=task_score([two for _, two in pair.questions]),
            broke=measured[i].broke,
            fixed=measured[i].fixed,
            moved=sum(_moved(one, two) for one, two in pair.questions),
            p_value=adjusted.get(i),
            divergence=_divergence(pair),
            loss=losses[i],
            not_judged=measured[i].not_judged,
            own_limit=own_limit(measured[i], tolerance) if i in adjusted else None,
        )
        for i, pair in enumerate(pairs)
    ]


def own_limit(task: TaskLosses, tolerance: Tolerance) -> float | None:
    """Points that may be lost on a task, where they are others than on all tasks."""
    share = tolerance.share_of(task.task, task.least)
    return round(100 * share, 6) if task.measure == "accuracy" and share != tolerance.most("accuracy") else None


def task_losses(pair: TaskPair) -> TaskLosses:
    """The losses of a pair."""
    broke, fixed = _flips(pair)
    return TaskLosses(
        task=pair.dense.task,
        measure="word perplexity" if pair.dense.kind == "rolling" else "accuracy",
        broke=broke,
        fixed=fixed,
        of=_loss_moments(pair),
        not_judged=_not_judged(pair),
        least=pair.dense.points / 100,
    )


def judge_losses(tasks: Sequence[TaskLosses], tolerance: Tolerance) -> list[Loss | None]:
    """The losses of all tasks judged together, in the order given; None where one is not judged."""

    def judge(i: int, share: float) -> Loss:
        task, alpha = tasks[i], 2 * share
        of, measure = task.of, task.measure
        share_lost = measure == "accuracy"
        interval = lost_share_interval(task.broke, task.fixed, of.n, alpha) if share_lost else mean_interval(of, alpha)
        most = tolerance.share_of(task.task, task.least) if share_lost else tolerance.most(measure)
        loss = loss_of(measure, of, interval, alpha, most)
        # Of few flips, or none, it is not known how many questions would do.
        return replace(loss, needed=None) if loss.needed and loss.needed <= of.n else loss

    found = judge_in_steps([i for i, task in enumerate(tasks) if task.not_judged is None], ALPHA, judge)
    return [found.get(i) for i in range(len(tasks))]


def overall_verdict(results: Sequence[TaskResult]) -> TaskVerdict:
    """The verdict on one model: beyond where any task is, within where every task is that can be judged."""
    verdicts = {result.verdict for result in results} - {"not judged"}
    if not verdicts:
        return "not judged"
    return "beyond" if "beyond" in verdicts else "within" if verdicts == {"within"} else "undecided"


def _flips(pair: TaskPair) -> tuple[int, int]:
    """How many answers broke, and how many were fixed."""
    broke = sum(bool(one.right) and not two.right for one, two in pair.questions)
    return broke, sum(bool(two.right) and not one.right for one, two in pair.questions)


def _moved(one: AnsweredQuestion, two: AnsweredQuestion) -> bool:
    if one.right is not False or two.right is not False:
        return False
    return one.chosen != two.chosen if len(one.choices) > 1 else one.answer != two.answer


def task_score(questions: Sequence[AnsweredQuestion]) -> float:
    """The share of right answers; of documents bits a byte."""
    if questions[0].right is not None:
        return sum(question.right is True for question in questions) / len(questions)
    nats = -sum(question.log_likelihood or 0.0 for question in questions)
    return nats / log(2) / sum(question.n_bytes for question in questions)


def _loss_moments(pair: TaskPair) -> Moments:
    """Moments of the loss over questions; of documents those of a ratio of sums, by Cochran's linear form of it."""
    n = len(pair.questions)
    if pair.dense.kind != "rolling":
        return flip_moments(*_flips(pair), n)
    falls = [((one.log_likelihood or 0.0) - (two.log_likelihood or 0.0), one.n_words) for one, two in pair.questions]
    n_words = sum(words for _, words in falls)
    mean = sum(fall for fall, _ in falls) / n_words
    of = moments([mean + (fall - mean * words) * n / n_words for fall, words in falls])
    # Few documents, or all with the same change, do not say how much others differ.
    return of if n >= FEWEST_PASSAGES and (of.deviation > 0 or of.mean == 0) else replace(of, deviation=inf)


def _not_judged(pair: TaskPair) -> NotJudged | None:
    if pair.dense.kind == "rolling":
        return None
    n, n_right = len(pair.questions), sum(one.right is True for one, _ in pair.questions)
    if n_right < FEWEST_RIGHT:
        return "few right"
    chance = sum(1 / len(one.choices) for one, _ in pair.questions if len(one.choices) > 1) / n
    return "chance" if wilson_interval(n_right, n)[0] <= chance else None


def _p_value(task: TaskLosses) -> float:
    return mcnemar(task.broke, task.fixed) if task.measure == "accuracy" else mean_p_value(task.of)


def _divergence(pair: TaskPair) -> float | None:
    terms = [
        sum(exp(p) * (p - q) for p, q in zip(choice_logs(one), choice_logs(two), strict=True))
        for one, two in pair.questions
        if len(one.choices) > 1
    ]
    return max(0.0, sum(terms) / len(terms)) if terms else None


def choice_logs(question: AnsweredQuestion) -> list[float]:
    """Logarithms of the choices' probabilities: the softmax of their log-likelihoods."""
    logs = [each.log_likelihood for each in question.choices]
    highest = max(logs)
    whole = highest + log(sum(exp(each - highest) for each in logs))
    return [each - whole for each in logs]
