"""Stored results, cached: runs and their records, answers to tasks, and verdicts on both."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache, partial
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from sparsedash.catalog.choices import example_result, is_example
from sparsedash.catalog.model_shape import ModelShape
from sparsedash.schema import store_keys
from sparsedash.schema.errors import CorpusError, StoreError
from sparsedash.schema.find_settings import FindResult
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.schema.plain_values import digest
from sparsedash.schema.question_records import QuestionSet, pool_parts
from sparsedash.schema.records import Passages, R, Record, Run, about_artefact
from sparsedash.schema.store_keys import NoteName
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.significance import shared_outcomes
from sparsedash.stats.task_pairs import pair_answers, pair_tasks, pairs_of
from sparsedash.stats.task_verdicts import (
    JudgedAnswers,
    TaskLosses,
    is_unanswered,
    judge_losses,
    judge_run,
    judge_tasks,
    judged_together,
    task_losses,
    task_score,
)
from sparsedash.stats.tolerance import Loss, Losses, ToleranceVerdict, judge_all, record_losses
from sparsedash.storage.model_folders import swept_folder
from sparsedash.storage.sample_files import read_answers
from sparsedash.storage.store import Store

MAX_PASSAGES_IN_MEMORY = 80_000

BUDGET_S = 0.1
"""Seconds for verdicts that are not known yet; the next call continues."""

MOST_RUNS = 4_000
"""Runs whose verdicts are kept in memory, each under one tolerance."""

_NAME_LETTERS = 150
_KEY_DIGITS = 32
_TASK_RULES = 2
"""To be raised where the losses of the same answers, or which can be judged, change."""
_ANSWERS_FORMAT = b"2"
"""To be raised where a stored set of answers changes its form."""

T = TypeVar("T")

Verdicts = Mapping[str, ToleranceVerdict]
"""By the keys of a run's sparse records, without lost ones and those of other passages."""


class _Cache:
    """A thread-safe LRU cache of at least one value, and as many as weigh `budget` together."""

    def __init__(self, budget: int, weight: Callable[[Any], int]) -> None:
        self._budget = budget
        self._weight = weight
        self._lock = threading.Lock()
        self._kept: dict[Hashable, Any] = {}

    def get(self, name: Hashable) -> Any:
        with self._lock:
            if name in self._kept:
                # The last used is the last one.
                self._kept[name] = self._kept.pop(name)
            return self._kept.get(name)

    def put(self, name: Hashable, value: object | None) -> None:
        """Keep a value in place of an earlier one; None drops that."""
        with self._lock:
            self._kept.pop(name, None)
            if value is not None:
                self._kept[name] = value
            while len(self._kept) > 1 and self._total() > self._budget:
                del self._kept[next(iter(self._kept))]

    def _total(self) -> int:
        return sum(map(self._weight, self._kept.values()))


def note_derived(store: Store, note: NoteName, value: object) -> None:
    """Keep what can be computed again, unless the disk is full."""
    with suppress(StoreError):
        store.remember(note, json.dumps(value))


def recalled(store: Store, name: NoteName, kind: type[T]) -> T | None:
    """The value of this kind in a note; None where there is none or it cannot be read."""
    try:
        # json.loads, since losses can be infinite, which msgspec writes as null.
        return msgspec.convert(json.loads(store.recall(name) or ""), kind)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None


def known_shape(store: Store, identity: str) -> ModelShape | None:
    """The shape of the model with this identity; None where it has not been loaded here."""
    return recalled(store, store_keys.model_shape_note(identity), ModelShape)


def run_passages(run: Run) -> str:
    """The key of the passages of a run's records; empty before its texts were read."""
    text = run.corpora.get("evaluation")
    return store_keys.passages_key(text, run.settings.evaluation) if text is not None else ""


def joined_continuation(
    request: ContinuationSettings, stored: Callable[[ContinuationSettings], Continuation | None]
) -> Continuation | None:
    """A continuation put together from what runs had each model write; None if one is missing."""
    texts = []
    for record in (request.left, request.right, *request.others):
        continuation = stored(request.by_one(record))
        if continuation is None or continuation.stopped:
            return None
        texts.append(continuation.left)
    return Continuation(
        key=request.key(),
        prompt=request.prompt,
        left=texts[0],
        right=texts[1],
        others=tuple(texts[2:]),
    )


class ResultCache:
    """The results in one store, of all users, cached. Every method may raise StoreError.

    As many are cached as have MAX_PASSAGES_IN_MEMORY passages between them, each until it is
    written again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # Each with the time at which it was written.
        self._cache = _Cache(MAX_PASSAGES_IN_MEMORY, lambda kept: _n_passages(kept[1]))

    def get(self, kind: type[R], key: str) -> R | None:
        """The result of this kind and key, or None; of the shipped example as well."""
        if is_example(key):
            return example_result(kind, key)
        written_at = self._store.written_at(kind, key)
        cached = self._cache.get((kind, key))
        if cached is not None and cached[0] == written_at:
            return cast(R, cached[1])
        result = self._store.get(kind, key)
        self._cache.put((kind, key), (written_at, result) if result else None)
        return result

    def record(self, key: str) -> Record | None:
        """The record, or None."""
        return self.get(Record, key)

    def runs(self, only: Collection[str] | None = None) -> list[Run]:
        """Every stored run, newest first. only: of these keys."""
        runs = []
        for key in self._store.keys(Run):
            if only is None or key in only:
                run = self.get(Run, key)
                if run is not None:
                    runs.append(run)
        return sorted(runs, key=lambda run: run.started_at, reverse=True)

    def is_complete(self, key: str) -> bool:
        """Whether the run with this key has finished and all that it gives is stored."""
        run = self.get(Run, key)
        if run is None or not run.finished:
            return False
        if not all(self._store.has(Record, record) for record in run.records):
            return False
        if not self._store.has(Passages, run_passages(run)):
            return False
        if run.find and not self._store.has(FindResult, key):
            return False
        if run.answers and not run.find:
            # A task that only some of a sweep's models have answered is asked again; a search asks
            # those within alone.
            n_answered = {len(run.answers.get(record, ())) for record in run.records}
            if len(n_answered) > 1:
                return False
        sets = chain.from_iterable(run.answers.values())
        return all(self._store.has(QuestionSet, answers) for answers in sets)


class VerdictCache:
    """Verdicts on the runs of one store. Thread-safe; every method may raise StoreError.

    Losses, a few numbers a model, are stored once its answers were read; verdicts on them are
    cached in memory.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float] = time.monotonic,
        answers: "AnswerCache | None" = None,
    ) -> None:
        """answers: of the same store, with its cache."""
        self._store = store
        self._clock = clock
        self._answers = answers or AnswerCache(store)
        self._verdicts = _Cache(MOST_RUNS, lambda verdicts: 1)

    def verdicts(
        self, runs: Sequence[Run], tolerance: Tolerance, budget_s: float = BUDGET_S
    ) -> dict[str, Verdicts]:
        """The joint verdicts on the sparse models of each run, by the runs' keys.

        budget_s: after it, runs without a cached verdict are left out, except the first of them, so
        that asking again comes to an end.
        """
        records = set(self._store.keys(Record))
        sets = set[str]()
        if any(run.answers for run in runs):
            sets |= set(self._store.keys(QuestionSet))
        deadline = self._clock() + budget_s
        verdicts: dict[str, Verdicts] = {}
        n_new = 0
        for run in runs:
            stored = tuple(key for key in run.sparse if key in records and run.dense in records)
            answered = tuple(
                keys for record, keys in run.answers.items() if _is_answered(run, record, sets)
            )
            tasks = answered, run.answers.get(run.dense, ()), run.unanswered
            name = run.dense, stored, run.n_compared, tasks, run.find is None, tolerance
            judged: Verdicts | None = self._verdicts.get(name)
            if judged is None and (not n_new or self._clock() < deadline):
                losses = self._losses(run.dense, stored)
                judged = self._answers.verdicts(run, losses, tolerance)
                n_new += 1
                self._verdicts.put(name, judged)
            if judged is not None:
                verdicts[run.key] = judged
        return verdicts

    def forget(self, run: Run, sparse: str) -> None:
        """Delete the losses of a sparse record of a run against its dense one."""
        self._store.forget(store_keys.losses_note(run.dense, sparse))
        self._store.forget(_task_losses_note(run, sparse))

    def _losses(self, dense_key: str, sparse: Sequence[str]) -> dict[str, Losses]:
        """The losses of each model with comparable answers, in the order of the keys."""
        # Not through the cache, which would drop what the pages show; read once, and only if needed.
        read_dense = cache(partial(self._store.get, Record, dense_key))
        losses: dict[str, Losses] = {}
        for key in sparse:
            note = store_keys.losses_note(dense_key, key)
            known = recalled(self._store, note, Losses)
            if known is None:
                dense = read_dense()
                record = self._store.get(Record, key)
                if dense is None or record is None or dense.pruned:
                    continue
                if dense.passages_key != record.passages_key or not shared_outcomes(dense, record):
                    continue
                known = record_losses(dense, record)
                note_derived(self._store, note, asdict(known))
            losses[key] = known
        return losses


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


def _is_answered(run: Run, record: str, stored: Collection[str]) -> bool:
    """Whether the sets of a record and of the dense one are among the stored ones."""
    keys = run.answers.get(record, ())
    dense_keys = run.answers.get(run.dense, ())
    return bool(keys and dense_keys) and all(key in stored for key in (*keys, *dense_keys))


def _task_losses_note(run: Run, record: str) -> NoteName:
    answers = [run.answers.get(key, ()) for key in (run.dense, record)]
    return store_keys.task_losses_note(run.dense, record, digest([_TASK_RULES, *answers]))


class AnswerCache:
    """Answers to tasks: those of runs, and files that a page opened, kept as artefacts by hash."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cache = _Cache(MAX_PASSAGES_IN_MEMORY, _n_passages)
        # Of a few numbers each: questions shall not push them out.
        self._comparisons = _Cache(MOST_RUNS, lambda comparisons: 1)

    def keep(self, name: str, content: bytes) -> str:
        """The key of a file of this name. Raises CorpusError if it cannot be read, and StoreError."""
        last = re.split(r"[/\\]", name)[-1]
        try:
            with swept_folder(self._store.folder) as folder:
                file = folder / re.sub(r"[^\w.|:+-]+", "-", last)[-_NAME_LETTERS:]
                file.write_bytes(content)
                (answers,) = read_answers(file)
        except OSError as error:
            raise StoreError(f"The file could not be kept: {error.strerror}.") from error
        packed = msgspec.msgpack.encode(replace(answers, model=""))
        key = hashlib.sha256(_ANSWERS_FORMAT + packed).hexdigest()[:_KEY_DIGITS]
        self._store.put_artefact(_entry(key), packed, about_artefact("answers", ""))
        return key

    def get(self, key: str) -> QuestionSet | None:
        """The opened answers with this key; None where they were deleted, or are no answers."""
        entry = _entry(key)
        is_key = re.fullmatch(rf"[0-9a-f]{{{_KEY_DIGITS}}}", key)
        if not is_key or not self._store.has_entry("artefacts", entry):
            return None
        answers: QuestionSet | None = self._cache.get(key)
        if answers is None and (packed := self._store.get_artefact(entry)) is not None:
            try:
                answers = msgspec.msgpack.decode(packed, type=QuestionSet)
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
        name = (run.key, *map(self._stored, run.answers.values()), tuple(run.sparse), tolerance)
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
            if _is_answered(run, record, stored):
                losses[record] = self._task_losses(run, record, read_dense)
        n_judged = {}
        for record, tasks in losses.items():
            n_judged[record] = sum(task.not_judged is None for task in tasks)
        judged: dict[str, list[Loss | None]] = {}
        for records, alpha, n_missing in judged_together(run, n_judged):
            together = list(chain.from_iterable(losses[record] for record in records))
            judged_losses = iter(judge_losses(together, tolerance, alpha, n_missing))
            for record in records:
                judged[record] = list(islice(judged_losses, len(losses[record])))
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
        note = _task_losses_note(run, record)
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
            answers: QuestionSet | None = self._cache.get(key) or self._store.get(QuestionSet, key)
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
                comparisons[task] = _comparison(baseline_tasks.get(task), answers)
            self._comparisons.put(name, comparisons)
        return comparisons

    def _by_task(self, keys: Sequence[str]) -> dict[str, QuestionSet]:
        """The stored ones of these sets by task, without those whose parts do not fit together."""
        sets = self._sets(keys)
        tasks = dict[str, QuestionSet]()
        for task in dict.fromkeys(part.task for part in sets):
            with suppress(CorpusError):
                (tasks[task],) = pool_parts(part for part in sets if part.task == task)
        return tasks

    def judge(
        self, dense: Sequence[str], other: Sequence[str], tolerance: Tolerance
    ) -> JudgedAnswers:
        """The verdicts on opened answers. Raises CorpusError where they cannot be paired."""
        dense_sets, dense_keys = self._opened(dense)
        other_sets, other_keys = self._opened(other)
        name = dense_keys, other_keys, tolerance
        judged: JudgedAnswers | CorpusError | None = self._cache.get(name)
        if judged is None:
            try:
                pairs, notes = pair_tasks(pool_parts(dense_sets), pool_parts(other_sets))
                judged = JudgedAnswers(judge_tasks(pairs, tolerance), notes)
            except CorpusError as error:
                judged = error
            self._cache.put(name, judged)
        if isinstance(judged, CorpusError):
            raise CorpusError(judged.message, judged.advice)
        return judged

    def _opened(self, keys: Sequence[str]) -> tuple[list[QuestionSet], tuple[str, ...]]:
        """The sets with these keys that are there, and their keys."""
        sets = {}
        for key in keys:
            answers = self.get(key)
            if answers is not None:
                sets[key] = answers
        return list(sets.values()), tuple(sets)


def _comparison(baseline: QuestionSet | None, answers: QuestionSet) -> TaskComparison:
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


def _n_passages(result: object) -> int:
    """Passages or questions of a result; a small one counts as one."""
    if isinstance(result, dict):
        return sum(map(_n_passages, result.values())) or 1
    if isinstance(result, JudgedAnswers):
        return sum(len(task.pair.questions) for task in result.results)
    for name in ("questions", "outcomes", "indices"):
        if parts := getattr(result, name, ()):
            return len(parts)
    return 1
