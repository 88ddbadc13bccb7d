"""Stored results: runs, records and what belongs to them, answers of other programs, and verdicts
on them.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
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
"""How long one look at all runs may take for verdicts that are not known yet; the next look
continues.
"""

MOST_RUNS = 4_000
"""Runs whose verdicts are kept in memory, each under one tolerance."""

_NAME_LETTERS, _KEY_DIGITS = 150, 32
_TASK_RULES = 2
"""Raise it where the losses of the same answers, or which of them can be judged, become others."""
_ANSWERS_FORMAT = b"2"
"""Raise it when a stored set of answers changes its form."""

T = TypeVar("T")

Verdicts = Mapping[str, ToleranceVerdict]
"""Of a run's sparse records by their keys, without those that are lost or answer other passages
than dense.
"""


class _Cache:
    """The values used last, as many as weigh `budget` together, and at least one. Safe to share
    between threads.
    """

    def __init__(self, budget: int, weight: Callable[[Any], int]) -> None:
        self._budget, self._weight, self._lock = budget, weight, threading.Lock()
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
            while (
                len(self._kept) > 1 and sum(map(self._weight, self._kept.values())) > self._budget
            ):
                del self._kept[next(iter(self._kept))]


def note_derived(store: Store, note: NoteName, value: object) -> None:
    """Keep what can be computed again; a full disk takes no note, and shows everything all the
    same.
    """
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
    """The key of the passages of a run's records; no record is read for it. Empty before its texts
    were read.
    """
    evaluation = run.corpora.get("evaluation")
    return (
        "" if evaluation is None else store_keys.passages_key(evaluation, run.settings.evaluation)
    )


def joined(
    asked: ContinuationSettings, alone: Callable[[ContinuationSettings], Continuation | None]
) -> Continuation | None:
    """A continuation put together from what runs had each model write alone; None where one of them
    is missing.
    """
    found = [alone(asked.by_one(record)) for record in (asked.left, asked.right, *asked.others)]
    texts = [each.left for each in found if each is not None and not each.stopped]
    if len(texts) < len(found):
        return None
    left, right, *others = texts
    return Continuation(
        key=asked.key(), prompt=asked.prompt, left=left, right=right, others=tuple(others)
    )


class ResultCache:
    """The results in one store, whoever owns them, the last ones cached. Every method may raise
    StoreError.

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
        written = self._store.written_at(kind, key)
        known = self._cache.get((kind, key))
        if known is not None and known[0] == written:
            return cast(R, known[1])
        found = self._store.get(kind, key)
        self._cache.put((kind, key), (written, found) if found else None)
        return found

    def record(self, key: str) -> Record | None:
        """The record, or None."""
        return self.get(Record, key)

    def runs(self, only: Collection[str] | None = None) -> list[Run]:
        """Every stored run, newest first. only: of these keys."""
        found = [self.get(Run, key) for key in self._store.keys(Run) if only is None or key in only]
        return sorted((run for run in found if run), key=lambda run: run.started_at, reverse=True)

    def is_whole(self, key: str) -> bool:
        """Whether the run with this key has finished and everything is stored that it gives, and
        can be made again.
        """
        run = self.get(Run, key)
        if (
            run is None
            or not run.finished
            or not all(self._store.has(Record, each) for each in run.records)
        ):
            return False
        if not self._store.has(Passages, run_passages(run)) or (
            run.find and not self._store.has(FindResult, key)
        ):
            return False
        # A task that only some of a sweep's models have answered is asked again; a search asks
        # those within alone.
        answered = (
            [len(run.answers.get(each, ())) for each in run.records]
            if run.answers and not run.find
            else []
        )
        sets = (each for keys in run.answers.values() for each in keys)
        return len(set(answered)) < 2 and all(self._store.has(QuestionSet, each) for each in sets)


class VerdictCache:
    """Verdicts on the runs of one store. Safe to share between threads; every method may raise
    StoreError.

    Losses, a few numbers a model, are stored once its answers were read; verdicts on them are
    cached in memory.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float] = time.monotonic,
        answers: "OpenedAnswers | None" = None,
    ) -> None:
        """answers: of the same store, with its cache."""
        self._store, self._clock, self._answers = store, clock, answers or OpenedAnswers(store)
        self._verdicts = _Cache(MOST_RUNS, lambda verdicts: 1)

    def verdicts(
        self, runs: Sequence[Run], tolerance: Tolerance, budget_s: float = BUDGET_S
    ) -> dict[str, Verdicts]:
        """The joint verdicts on the sparse models of each run, by the runs' keys.

        budget_s: after it, runs without a cached verdict are left out, except the first of them, so
        that asking again comes to an end.
        """
        stored, sets = set(self._store.keys(Record)), set[str]()
        if any(run.answers for run in runs):
            sets |= set(self._store.keys(QuestionSet))
        until = self._clock() + budget_s
        found: dict[str, Verdicts] = {}
        n_new = 0
        for run in runs:
            there = tuple(key for key in run.sparse if key in stored) if run.dense in stored else ()
            answered = tuple(
                keys for each, keys in run.answers.items() if _is_answered(run, each, sets)
            )
            asked = (answered, run.answers.get(run.dense, ()), run.unanswered)
            name = (run.dense, there, run.n_compared, asked, run.find is None, tolerance)
            known: Verdicts | None = self._verdicts.get(name)
            if known is None and (not n_new or self._clock() < until):
                losses = self._losses(run.dense, there)
                known = self._answers.verdicts(run, losses, tolerance)
                n_new += 1
                self._verdicts.put(name, known)
            if known is not None:
                found[run.key] = known
        return found

    def forget(self, run: Run, sparse: str) -> None:
        """Delete the losses of a sparse record of a run against its dense one."""
        self._store.forget(store_keys.losses_note(run.dense, sparse))
        self._store.forget(_task_losses_note(run, sparse))

    def _losses(self, dense: str, sparse: Sequence[str]) -> dict[str, Losses]:
        """The losses of each model, in the order of the keys. The dense record is read once, and
        only if needed.
        """
        read: list[Record | None] = []
        found: dict[str, Losses] = {}
        for key in sparse:
            note = store_keys.losses_note(dense, key)
            known = recalled(self._store, note, Losses)
            if known is None:
                # Not through the cache, which would drop what the pages show.
                read = read or [self._store.get(Record, dense)]
                before, after = read[0], self._store.get(Record, key)
                if (
                    not before
                    or not after
                    or before.passages_key != after.passages_key
                    or before.pruned
                ):
                    continue
                if not shared_outcomes(before, after):
                    continue
                known = record_losses(before, after)
                note_derived(self._store, note, asdict(known))
            found[key] = known
        return found


class AnswersBeside(NamedTuple):
    """One model's answers to a task, and what it lost against a baseline, without the questions.

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
    keys, asked = run.answers.get(record, ()), run.answers.get(run.dense, ())
    return bool(keys and asked) and all(key in stored for key in (*keys, *asked))


def _task_losses_note(run: Run, record: str) -> NoteName:
    answers = [run.answers.get(each, ()) for each in (run.dense, record)]
    return store_keys.task_losses_note(run.dense, record, digest([_TASK_RULES, *answers]))


class OpenedAnswers:
    """Files of answers that a page opened, as artefacts, by keys that hash them, and the answers of
    runs.

    The last ones are cached in memory.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cache = _Cache(MAX_PASSAGES_IN_MEMORY, _n_passages)
        # Of a few numbers each: questions that come shall not push them out.
        self._beside = _Cache(MOST_RUNS, lambda answers: 1)

    def keep(self, name: str, content: bytes) -> str:
        """The key of a file of this name. Raises CorpusError where it cannot be read, and
        StoreError.
        """
        try:
            with swept_folder(self._store.folder) as folder:
                last = re.split(r"[/\\]", name)[-1]
                file = folder / re.sub(r"[^\w.|:+-]+", "-", last)[-_NAME_LETTERS:]
                file.write_bytes(content)
                (found,) = read_answers(file)
        except OSError as error:
            raise StoreError(f"The file could not be kept: {error.strerror}.") from error
        packed = msgspec.msgpack.encode(replace(found, model=""))
        key = hashlib.sha256(_ANSWERS_FORMAT + packed).hexdigest()[:_KEY_DIGITS]
        self._store.put_artefact(_entry(key), packed, about_artefact("answers", ""))
        return key

    def get(self, key: str) -> QuestionSet | None:
        """The answers with this key; None where they were deleted, or are no answers."""
        if not re.fullmatch(rf"[0-9a-f]{{{_KEY_DIGITS}}}", key) or not self._store.has_entry(
            "artefacts", _entry(key)
        ):
            return None
        known: QuestionSet | None = self._cache.get(key)
        if known is None and (packed := self._store.get_artefact(_entry(key))) is not None:
            try:
                known = msgspec.msgpack.decode(packed, type=QuestionSet)
            except (msgspec.MsgspecError, CorpusError):
                # So that it is not read again.
                self._store.drop_entry("artefacts", _entry(key))
                return None
            self._cache.put(key, known)
        return known

    def of_run(self, run: Run, tolerance: Tolerance) -> dict[str, JudgedAnswers]:
        """`judge_run` of this run, as far as it is; empty where it has no tasks."""
        if not run.answers:
            return {}
        name = (run.key, *map(self._stored, run.answers.values()), tuple(run.sparse), tolerance)
        known: dict[str, JudgedAnswers] | None = self._cache.get(name)
        if known is None:
            known = judge_run(run, partial(self._store.get, QuestionSet), tolerance)
            self._cache.put(name, known)
        return known

    def verdicts(self, run: Run, losses: Mapping[str, Losses], tolerance: Tolerance) -> Verdicts:
        """The joint verdicts on a run's sparse models, by their passages and its tasks.

        losses: on the passages, by record. Those on tasks are read once and stored.
        """
        judged = judge_all(list(losses.values()), tolerance, run.n_compared)
        verdicts = dict(zip(losses, judged, strict=True))
        if not run.answers.get(run.dense) and not run.unanswered:
            return verdicts
        dense: list[QuestionSet] = []
        stored = {key for keys in run.answers.values() for key in self._stored(keys)}
        losses_on_tasks = {
            record: self._lost_on_tasks(run, record, dense)
            for record in run.sparse
            if _is_answered(run, record, stored)
        }
        judged_tasks: dict[str, list[Loss | None]] = {}
        n_tasks = {
            record: sum(task.not_judged is None for task in tasks)
            for record, tasks in losses_on_tasks.items()
        }
        for records, alpha, n_lost in judged_together(run, n_tasks):
            pooled = list(chain.from_iterable(losses_on_tasks[record] for record in records))
            judged_losses = iter(judge_losses(pooled, tolerance, alpha, n_lost))
            for record in records:
                judged_tasks[record] = list(islice(judged_losses, len(losses_on_tasks[record])))
        return {
            record: replace(
                verdict,
                tasks=tuple(filter(None, judged_tasks.get(record, ()))),
                unjudged=tuple(
                    task.task for task in losses_on_tasks.get(record, ()) if task.not_judged
                ),
                unanswered=is_unanswered(run, record, judged_tasks),
            )
            for record, verdict in verdicts.items()
        }

    def _lost_on_tasks(self, run: Run, record: str, dense: list[QuestionSet]) -> list[TaskLosses]:
        """The losses of a sparse record on the run's tasks. dense: the dense model's sets, filled
        in once needed.
        """
        note = _task_losses_note(run, record)
        known = recalled(self._store, note, list[TaskLosses])
        if known is None:
            dense += [] if dense else self._sets(run.answers[run.dense])
            known = [
                task_losses(pair) for pair in pairs_of(dense, self._sets(run.answers[record]))[0]
            ]
            note_derived(self._store, note, [asdict(each) for each in known])
        return known

    def _stored(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Those of which there are answers: part of what is cached by, since a run makes lost ones
        again.
        """
        return tuple(key for key in keys if self._store.has(QuestionSet, key))

    def _sets(self, keys: Iterable[str]) -> list[QuestionSet]:
        return [found for key in keys if (found := self._set(key)) is not None]

    def beside(self, baseline: Sequence[str], model: Sequence[str]) -> Mapping[str, AnswersBeside]:
        """What a model answered to each task beside a baseline, by the task. baseline, model: keys
        of answers of runs.

        Questions are read only where these two were not compared before.
        """
        known: dict[str, AnswersBeside] | None = self._beside.get(
            name := (self._stored(baseline), self._stored(model))
        )
        if known is None:
            others = self._by_task(baseline) if name[0] != name[1] else {}
            known = {
                task: _beside(others.get(task), own) for task, own in self._by_task(model).items()
            }
            self._beside.put(name, known)
        return known

    def _by_task(self, keys: Sequence[str]) -> dict[str, QuestionSet]:
        """The stored ones of these sets of a run by their tasks; one whose parts do not belong
        together is left out.
        """
        sets = self._sets(keys)
        tasks = dict[str, QuestionSet]()
        for task in dict.fromkeys(each.task for each in sets):
            with suppress(CorpusError):
                (tasks[task],) = pool_parts(each for each in sets if each.task == task)
        return tasks

    def _set(self, key: str) -> QuestionSet | None:
        found: QuestionSet | None = self._cache.get(key) or self._store.get(QuestionSet, key)
        self._cache.put(key, found)
        return found

    def judge(
        self, dense: Sequence[str], other: Sequence[str], tolerance: Tolerance
    ) -> JudgedAnswers:
        """The verdicts on the answers with these keys. Raises CorpusError where they cannot be
        paired.
        """
        sides = tuple(
            tuple(key for key in dict.fromkeys(keys) if self.get(key) is not None)
            for keys in (dense, other)
        )
        known: JudgedAnswers | CorpusError | None = self._cache.get(name := (sides, tolerance))
        if known is None:
            try:
                pairs, notes = pair_tasks(
                    *(pool_parts(filter(None, map(self.get, keys))) for keys in sides)
                )
                known = JudgedAnswers(judge_tasks(pairs, tolerance), notes)
            except CorpusError as error:
                known = error
            self._cache.put(name, known)
        if isinstance(known, CorpusError):
            raise CorpusError(known.message, known.advice)
        return known


def _beside(baseline: QuestionSet | None, own: QuestionSet) -> AnswersBeside:
    losses, why = None, ""
    try:
        losses = task_losses(pair_answers(baseline, own)) if baseline else None
    except CorpusError as error:
        why = error.message
    return AnswersBeside(
        task_score(own.questions), len(own.questions), own.kind == "rolling", losses, why
    )


def _entry(key: str) -> str:
    """The name of the artefact with a set of answers."""
    return f"answers/{key}"


def _n_passages(result: object) -> int:
    """Passages or questions of a result; a small one counts as one."""
    if isinstance(result, dict):
        return sum(map(_n_passages, result.values())) or 1
    if isinstance(result, JudgedAnswers):
        return sum(len(each.pair.questions) for each in result.results)
    return (
        len(getattr(result, "questions", ()))
        or len(getattr(result, "outcomes", ()))
        or len(getattr(result, "indices", ()))
        or 1
    )
