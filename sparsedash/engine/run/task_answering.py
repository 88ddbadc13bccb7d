"""Answers of a run's models to its tasks, each stored under its own key."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from sparsedash.engine.models.checkpoint_reading import read_config
from sparsedash.engine.models.loading import max_length
from sparsedash.engine.run.model_making import RunModel
from sparsedash.engine.run.run_context import RunContext, model_label
from sparsedash.engine.tasks.builtin_questions import BuiltinQuestions, load_builtin
from sparsedash.engine.tasks.harness import HarnessTask, load_tasks
from sparsedash.engine.tasks.shared_answers import SharedAnswers
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.progress import Step
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.records import TASKS_CACHED, Run
from sparsedash.schema.sparse_spec import DENSE, SparseSpec
from sparsedash.stats.significance import wilson_interval

_RULES_OF_WRITING = (
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "min_length",
    "min_new_tokens",
    "bad_words_ids",
    "sequence_bias",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
)

_CAN_DO = 0.1
"""A task of which the dense model is shown to know less than this share is not asked."""

Task = BuiltinQuestions | HarnessTask


class TaskAnswers:
    """Answers of a run's models to its tasks, by their keys.

    A task that cannot be answered is a warning, and is asked no more; so is a built-in one that the
    dense model cannot do.
    """

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._keys: dict[str, tuple[str, ...]] = {}
        self._unanswered: list[str] = []

    @cached_property
    def tasks(self) -> list[Task]:
        """The tasks that are still asked. Raises CorpusError for one that cannot be."""
        return _load_tasks(self._run)

    def noted_in(self, run: Run) -> Run:
        """The run with the keys of its models' answers so far."""
        return replace(
            run, answers=dict(self._keys), unanswered=tuple(self._unanswered)
        )

    def are_stored(self, spec: SparseSpec) -> bool:
        """Whether the model's answers to all tasks are stored."""
        store = self._run.store
        return all(
            store.has(QuestionSet, _key(self._run, task, spec)) for task in self.tasks
        )

    def answer(self, models: Sequence[RunModel]) -> None:
        """Answer every task that one of these models has not answered.

        Models whose weights are streamed answer side by side.
        """
        for task in list(self.tasks):
            try:
                keys = _answer_missing(self._run, task, models)
            except CorpusError as error:
                self._run.log.warn(f"{task.name} was not answered. {error}")
                self.tasks.remove(task)
                self._unanswered.append(task.name)
                continue
            if problem := _beyond_dense(self._run, task):
                self._run.log.warn(problem)
                self.tasks.remove(task)
                continue
            for model, key in zip(models, keys, strict=True):
                others = [
                    known for known in self._keys.get(model.key, ()) if known != key
                ]
                self._keys[model.key] = (*others, key)


def _load_tasks(run: RunContext) -> list[Task]:
    evaluation = run.settings.evaluation
    if not evaluation.tasks:
        return []
    with run.log.timed("text"):
        run.log.on_step(
            Step("text", 0, 1, message=f"Preparing {', '.join(evaluation.tasks)}")
        )
        builtin, references = load_builtin(evaluation.tasks, evaluation.task_limit)
        tasks: list[Task] = [*builtin]
        if references:
            tasks += load_tasks(
                references,
                evaluation.task_limit,
                evaluation.task_shots,
                run.settings.revisions,
            )
    for name, n in Counter(task.name for task in tasks).items():
        if n > 1:
            raise CorpusError(f"{name} is named twice.", "Name each task once.")
    most = max_length(read_config(run.source.folder, run.source.reference))
    for task in tasks:
        if task.n_written >= most:
            raise CorpusError(
                f"{task.name} asks for {task.n_written:,} written tokens; the model has {most:,}."
            )
    return tasks


def _answer_missing(
    run: RunContext, task: Task, models: Sequence[RunModel]
) -> list[str]:
    """Answer a task with the models whose answers are not stored; the keys of all."""
    keys = [_key(run, task, model.spec) for model in models]
    missing = [i for i, key in enumerate(keys) if not run.store.has(QuestionSet, key)]
    if len(missing) < len(models):
        run.log.note_cached(TASKS_CACHED)
    if missing:
        _answer(run, task, [models[i] for i in missing], [keys[i] for i in missing])
    return keys


def _beyond_dense(run: RunContext, task: Task) -> str:
    """Reason to drop a built-in task: the dense model cannot do it. Empty otherwise."""
    if not isinstance(task, BuiltinQuestions):
        return ""
    answers = run.store.get(QuestionSet, _key(run, task, DENSE))
    if answers is None:
        return ""
    n_asked = len(answers.questions)
    n_right = sum(question.right is True for question in answers.questions)
    if wilson_interval(n_right, n_asked)[1] >= _CAN_DO:
        return ""
    return f"builtin:{task.name} was left out: the dense model has {n_right} of {n_asked} answers right."


def _key(run: RunContext, task: Task, spec: SparseSpec) -> str:
    return run.keys.answers(spec, task.identity)


def _unheeded_rules(run: RunContext) -> list[str]:
    """Generation settings in the model's files that change its first choices."""
    config = run.loaded.model.generation_config
    rules = {name: getattr(config, name, None) for name in _RULES_OF_WRITING}
    return [
        f"{name} = {value}"
        for name, value in rules.items()
        if value not in (None, 0, 1, [])
    ]


def _answer(
    run: RunContext, task: Task, models: Sequence[RunModel], keys: Sequence[str]
) -> None:
    n_requests = len(models) * task.n_requests
    more = f" and {len(models) - 1} more side by side" if len(models) > 1 else ""
    step = Step(
        "answer",
        0,
        task.n_questions * len(models),
        unit="questions",
        message=f"{task.name}: {model_label(models[0].spec)}{more}",
    )

    def on_answered(n: int) -> None:
        run.log.on_step(
            replace(step, done=min(step.total, n * step.total // n_requests))
        )

    # Made before the clock of the answers starts.
    applied = [model.applied for model in models]
    with run.log.timed("answer"):
        on_answered(0)
        answering = SharedAnswers(run.loaded, applied, on_answered)
        for number, key in enumerate(keys):
            run.store.put(key, replace(task.answer(answering, number), key=key))
    if task.n_written and (rules := _unheeded_rules(run)):
        why = "which the model's generation_config.json asks for, and which lm-evaluation-harness would heed"
        run.log.warn(
            f"{task.name}: texts are written without {', '.join(rules)}, {why}."
        )
    if n := answering.n_cut:
        were = "1 prompt exceeds" if n == 1 else f"{n:,} prompts exceed"
        run.log.warn(
            f"{task.name}: {were} the model's context; what is too long was dropped from the front."
        )
