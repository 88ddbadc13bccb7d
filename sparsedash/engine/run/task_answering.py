"""Answers of a run's models to its tasks, each kept under a key of its own, so that no task is
answered twice.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

from sparsedash.engine.models.decoder_blocks import Applied
from sparsedash.engine.models.sparse_models import SparseModel
from sparsedash.engine.run.run_context import Point, RunContext, Task
from sparsedash.engine.tasks.builtin_questions import BuiltinQuestions
from sparsedash.engine.tasks.shared_answers import SharedAnswers
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.progress import Step
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.records import TASKS_CACHED
from sparsedash.schema.sparse_spec import DENSE
from sparsedash.stats.significance import wilson_interval

_RULES_OF_WRITING = (
    *(
        "repetition_penalty",
        "encoder_repetition_penalty",
        "no_repeat_ngram_size",
        "min_length",
        "min_new_tokens",
    ),
    *(
        "bad_words_ids",
        "sequence_bias",
        "suppress_tokens",
        "begin_suppress_tokens",
        "forced_bos_token_id",
    ),
)

_CAN_DO = 0.1
"""A task of which the dense model is shown to know less than this share is not asked."""

Answering = tuple[Point, Callable[[], SparseModel] | None]
"""A model that answers, and how it is made where it is a sparse one."""


def point_label(point: Point) -> str:
    """The model in words: "dense", "20 % sparse, Q8_0"."""
    if point is None:
        return "dense"
    kind, name = point[0].quantise, f"{point[1] / 10:g} % sparse"
    return f"{name if point[1] else 'dense'}, {kind.upper()}" if kind else name


def answer_tasks(run: RunContext, models: Sequence[Answering]) -> None:
    """Answer every task of the run that one of these models has not answered; note the keys in the
    run.

    Models whose weights are streamed answer side by side. Tasks that are stored are not asked
    again. One that fails is a warning, and is asked no more; so is a built-in one that the dense
    model cannot do.
    """
    for task in list(run.tasks):
        keys = [_key(run, task, point) for point, _ in models]
        left = [i for i, key in enumerate(keys) if not run.store.has(QuestionSet, key)]
        if len(left) < len(models):
            run.log.note_cached(TASKS_CACHED)
        try:
            if left:
                _answer(run, task, [models[i] for i in left], [keys[i] for i in left])
        except CorpusError as error:
            run.log.warn(f"{task.name} was not answered. {error}")
            run.tasks.remove(task)
            run.unanswered.append(task.name)
            continue
        if isinstance(task, BuiltinQuestions) and (problem := _beyond_dense(run, task)):
            run.log.warn(problem)
            run.tasks.remove(task)
            continue
        for (point, _), key in zip(models, keys, strict=True):
            record = run.record_key(point)
            run.answers[record] = (
                *(known for known in run.answers.get(record, ()) if known != key),
                key,
            )


def _beyond_dense(run: RunContext, task: BuiltinQuestions) -> str:
    """Why there is nothing to lose in a task: the dense model cannot do it. Empty where it can, or
    is not known.
    """
    answers = run.store.get(QuestionSet, _key(run, task, None))
    if answers is None:
        return ""
    n_asked = len(answers.questions)
    n_right = sum(question.right is True for question in answers.questions)
    if wilson_interval(n_right, n_asked)[1] >= _CAN_DO:
        return ""
    return f"builtin:{task.name} was left out: the dense model has {n_right} of {n_asked} answers right."


def has_answered(run: RunContext, point: Point) -> bool:
    """Whether the model's answers to all tasks are stored."""
    return all(run.store.has(QuestionSet, _key(run, task, point)) for task in run.tasks)


def _key(run: RunContext, task: Task, point: Point) -> str:
    return run.keys.answers(point or DENSE, task.identity)


def _unheeded_rules(run: RunContext) -> list[str]:
    """What the model's files ask for that changes its first choices."""
    asked = run.loaded.model.generation_config
    rules = {name: getattr(asked, name, None) for name in _RULES_OF_WRITING}
    return [f"{name} = {value}" for name, value in rules.items() if value not in (None, 0, 1, [])]


def _answer(run: RunContext, task: Task, models: Sequence[Answering], keys: Sequence[str]) -> None:
    first, n_all = models[0][0], len(models) * task.n_requests
    beside = f" and {len(models) - 1} more side by side" if len(models) > 1 else ""
    step = Step(
        "answer",
        0,
        task.n_questions * len(models),
        unit="questions",
        message=f"{task.name}: {point_label(first)}{beside}",
    )

    def on_answered(n: int) -> None:
        run.log.on_step(replace(step, done=min(step.total, n * step.total // n_all)))

    made: list[Applied] = [make().applied if make else nullcontext for _, make in models]
    with run.log.timed("answer"):
        on_answered(0)
        answering = SharedAnswers(run.loaded, made, on_answered)
        for number, key in enumerate(keys):
            run.store.put(key, replace(task.asked_of(answering, number), key=key))
    if task.n_written and (rules := _unheeded_rules(run)):
        why = "which the model's generation_config.json asks for, and which lm-evaluation-harness would heed"
        run.log.warn(f"{task.name}: texts are written without {', '.join(rules)}, {why}.")
    if n := answering.n_cut:
        were = "1 prompt exceeds" if n == 1 else f"{n:,} prompts exceed"
        run.log.warn(
            f"{task.name}: {were} the model's context; what is too long was dropped from the front."
        )
