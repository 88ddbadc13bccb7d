"""Answers to tasks, cached: those of runs and of opened files, and the verdicts on them."""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache, partial
from itertools import chain
from typing import NamedTuple

import msgspec

from sparsedash.schema import store_keys
from sparsedash.schema.errors import CorpusError, StoreError
from sparsedash.schema.plain_values import digest
from sparsedash.schema.question_records import ModelAnswers, QuestionSet, pool_parts
from sparsedash.schema.records import Run, about_artefact
from sparsedash.schema.store_keys import NoteName
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.lru_cache import (
    MAX_PASSAGES_IN_MEMORY,
    MAX_RUNS,
    LruCache,
    n_cached_passages,
)
from sparsedash.stats.judged_models import judge_models
from sparsedash.stats.task_pairs import pair_answers, pairs_of
from sparsedash.stats.task_verdicts import (
    JudgedAnswers,
    TaskLosses,
    is_unanswered,
    judge_losses,
    judge_run,
    judge_together,
    task_losses,
    task_score,
)
from sparsedash.stats.tolerance import Losses, ToleranceVerdict, judge_all
from sparsedash.storage.answers.answer_files import read_models, unpack_answers
from sparsedash.storage.derived_notes import note_derived, recalled
from sparsedash.storage.model_folders import swept_folder
from sparsedash.storage.store import Store

_NAME_LETTERS = 150
_KEY_DIGITS = 32
_TASK_RULES = 3
"""To be raised where the losses of the same answers, or which can be judged, change."""
_ANSWERS_FORMAT = b"5"
"""To be raised where a stored set of answers changes its form."""

Verdicts = Mapping[str, ToleranceVerdict]
"""By the keys of a run's sparse records, without lost ones and those of other passages."""


class TaskComparison(NamedTuple):
    """One model's score in a task, and what it lost against a baseline.

    score: of all n questions: see `task_score`. rolling: whether they are documents. losses: on the
    questions that both answered; None where these cannot be paired: why says the reason, empty
    where the baseline did not answer the task.
    """

    score: float
    n: int
    rolling: bool
    losses: TaskLosses | None
    why: str = ""


def is_answered(run: Run, record: str, stored: Collection[str]) -> bool:
    """Whether the sets of a record and of the dense one are among the stored ones."""
    keys = run.answers.get(record, ())
    dense_keys = run.answers.get(run.dense, ())
    return bool(keys and dense_keys) and all(
        key in stored for key in (*keys, *dense_keys)
    )


def task_losses_note(run: Run, record: str) -> NoteName:
    """The note with the losses of a sparse record on the run's tasks."""
    answers = [run.answers.get(key, ()) for key in (run.dense, record)]
    return store_keys.task_losses_note(
        run.dense, record, digest([_TASK_RULES, *answers])
    )


class AnswerCache:
    """Answers to tasks: those of runs, and files that a page opened, kept as artefacts by hash."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cache = LruCache(MAX_PASSAGES_IN_MEMORY, n_cached_passages)
        # Of a few numbers each: questions shall not push them out.
        self._comparisons = LruCache(MAX_RUNS, lambda comparisons: 1)

    def keep(self, name: str, content: bytes) -> list[str]:
        """The keys of the models in a file of this name, or a zip of one model's folder. Raises
        CorpusError if it cannot be read, and StoreError.
        """
        last = re.split(r"[/\\]", name)[-1]
        stem = last.rpartition(".")[0] or last
        try:
            with swept_folder(self._store.folder) as folder:
                file = folder / re.sub(r"[^\w.|:+-]+", "-", last)[-_NAME_LETTERS:]
                file.write_bytes(content)
                path = file
                if file.suffix.lower() == ".zip":
                    path = folder / "unpacked"
                    path.mkdir()
                    unpack_answers(file, path)
                models = read_models(path)
                unnamed = {folder.name, path.name}
        except OSError as error:
            raise StoreError(
                f"The file could not be kept: {error.strerror}."
            ) from error
        keys = []
        for model, sets in models.items():
            kept = ModelAnswers(
                # A single file lies in no folder that is named after the model.
                name=stem if model in unnamed else model,
                sets=tuple(replace(answers, model="") for answers in sets),
            )
            packed = msgspec.msgpack.encode(kept)
            key = hashlib.sha256(_ANSWERS_FORMAT + packed).hexdigest()[:_KEY_DIGITS]
            self._store.put_artefact(_entry(key), packed, about_artefact("answers", ""))
            keys.append(key)
        return keys

    def get(self, key: str) -> ModelAnswers | None:
        """The opened answers with this key; None where they were deleted, or are no answers."""
        entry = _entry(key)
        is_key = re.fullmatch(rf"[0-9a-f]{{{_KEY_DIGITS}}}", key)
        if not is_key or not self._store.has_entry("artefacts", entry):
            return None
        answers: ModelAnswers | None = self._cache.get(key)
        if answers is None and (packed := self._store.get_artefact(entry)) is not None:
            try:
                answers = msgspec.msgpack.decode(packed, type=ModelAnswers)
            except (msgspec.MsgspecError, CorpusError):
                # So that it is not read again.
                self._store.drop_entry("artefacts", entry)
                return None
            self._cache.put(key, answers)
        return answers

    def of_run(self, run: Run, tolerance: Tolerance) -> dict[str, JudgedAnswers]:
        """`judge_run` of this run so far; empty where it has no tasks."""
        if not run.answers:
            return {}
        name = (
            run.key,
            *map(self._stored, run.answers.values()),
            tuple(run.sparse),
            tolerance,
        )
        judged: dict[str, JudgedAnswers] | None = self._cache.get(name)
        if judged is None:
            judged = judge_run(run, partial(self._store.get, QuestionSet), tolerance)
            self._cache.put(name, judged)
        return judged

    def verdicts(
        self, run: Run, passage_losses: Mapping[str, Losses], tolerance: Tolerance
    ) -> Verdicts:
        """The joint verdicts on a run's sparse models, by their passages and its tasks.

        passage_losses: by record. Those on tasks are stored once they are known.
        """
        joint = judge_all(list(passage_losses.values()), tolerance, run.n_compared)
        verdicts = dict(zip(passage_losses, joint, strict=True))
        if not run.answers.get(run.dense) and not run.unanswered:
            return verdicts
        stored = set(chain.from_iterable(map(self._stored, run.answers.values())))
        read_dense = cache(lambda: self._sets(run.answers[run.dense]))
        losses: dict[str, list[TaskLosses]] = {}
        for record in run.sparse:
            if is_answered(run, record, stored):
                losses[record] = self._task_losses(run, record, read_dense)
        n_judged = []
        for tasks in losses.values():
            n_judged.append(sum(task.not_judged is None for task in tasks))
        judged = judge_together(
            run,
            losses,
            n_judged,
            lambda together, alpha, n_missing: judge_losses(
                together, tolerance, alpha, n_missing
            ),
        )
        with_tasks = {}
        for record, verdict in verdicts.items():
            tasks = losses.get(record, [])
            with_tasks[record] = replace(
                verdict,
                tasks=tuple(filter(None, judged.get(record, ()))),
                unjudged=tuple(task.task for task in tasks if task.not_judged),
                unanswered=is_unanswered(run, record, judged),
            )
        return with_tasks

    def _task_losses(
        self, run: Run, record: str, read_dense: Callable[[], list[QuestionSet]]
    ) -> list[TaskLosses]:
        """The losses of a sparse record on the run's tasks. read_dense: the dense model's sets."""
        note = task_losses_note(run, record)
        losses = recalled(self._store, note, list[TaskLosses])
        if losses is None:
            pairs, _ = pairs_of(read_dense(), self._sets(run.answers[record]))
            losses = [task_losses(pair) for pair in pairs]
            note_derived(self._store, note, [asdict(task) for task in losses])
        return losses

    def _stored(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Those that are stored; part of a cache key, since lost answers are computed again."""
        return tuple(key for key in keys if self._store.has(QuestionSet, key))

    def _sets(self, keys: Iterable[str]) -> list[QuestionSet]:
        """The stored ones of these sets of a run."""
        sets = []
        for key in keys:
            answers: QuestionSet | None = self._cache.get(key) or self._store.get(
                QuestionSet, key
            )
            self._cache.put(key, answers)
            if answers is not None:
                sets.append(answers)
        return sets

    def compared(
        self, baseline: Sequence[str], model: Sequence[str]
    ) -> Mapping[str, TaskComparison]:
        """Per-task results of a model against a baseline. Arguments: keys of a run's answers.

        Questions are read only where these two were not compared before.
        """
        name = self._stored(baseline), self._stored(model)
        comparisons: dict[str, TaskComparison] | None = self._comparisons.get(name)
        if comparisons is None:
            comparisons = {}
            baseline_tasks = self._by_task(baseline) if name[0] != name[1] else {}
            for task, answers in self._by_task(model).items():
                comparisons[task] = compare_answers(baseline_tasks.get(task), answers)
            self._comparisons.put(name, comparisons)
        return comparisons

    def _by_task(self, keys: Sequence[str]) -> dict[str, QuestionSet]:
        """The stored ones of these sets by task, without those whose parts do not fit together."""
        sets = self._sets(keys)
        tasks = {}
        for task in dict.fromkeys(part.task for part in sets):
            with suppress(CorpusError):
                (tasks[task],) = pool_parts(part for part in sets if part.task == task)
        return tasks

    def judge(
        self, models: Mapping[str, ModelAnswers], tolerance: Tolerance
    ) -> dict[str, JudgedAnswers]:
        """The verdicts on opened answers by key, against the first of them. Raises CorpusError
        where they cannot be paired.
        """
        baseline, *others = models
        name = (*models, tolerance)
        judged: dict[str, JudgedAnswers] | CorpusError | None = self._cache.get(name)
        if judged is None:
            try:
                judged = judge_models(
                    models[baseline].sets,
                    {key: models[key].sets for key in others},
                    tolerance,
                )
            except CorpusError as error:
                judged = error
            self._cache.put(name, judged)
        if isinstance(judged, CorpusError):
            raise CorpusError(judged.message, judged.advice)
        return judged


def compare_answers(
    baseline: QuestionSet | None, answers: QuestionSet
) -> TaskComparison:
    """A model's answers to one task against the baseline's; None: the baseline has none."""
    losses = None
    why = ""
    if baseline is not None:
        try:
            losses = task_losses(pair_answers(baseline, answers))
        except CorpusError as error:
            why = error.message
    return TaskComparison(
        score=task_score(answers.questions),
        n=len(answers.questions),
        rolling=answers.kind == "rolling",
        losses=losses,
        why=why,
    )


def _entry(key: str) -> str:
    """The name of the artefact with a set of answers."""
    return f"answers/{key}"
