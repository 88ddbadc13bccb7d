"""Stored results, cached: runs and their records, and verdicts on them."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from itertools import chain
from typing import cast

from sparsedash.catalog.choices import example_result, is_example
from sparsedash.schema import store_keys
from sparsedash.schema.find_settings import FindResult
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.records import Passages, R, Record, Run
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.answer_cache import (
    AnswerCache,
    Verdicts,
    is_answered,
    task_losses_note,
)
from sparsedash.service.lru_cache import (
    MAX_PASSAGES_IN_MEMORY,
    MAX_RUNS,
    LruCache,
    n_cached_passages,
)
from sparsedash.stats.significance import shared_outcomes
from sparsedash.stats.tolerance import Losses, record_losses
from sparsedash.storage.derived_notes import note_derived, recalled
from sparsedash.storage.store import Store

BUDGET_S = 0.1
"""Seconds for verdicts that are not known yet; the next call continues."""


def run_passages(run: Run) -> str:
    """The key of the passages of a run's records; empty before its texts were read."""
    text = run.corpora.get("evaluation")
    return (
        store_keys.passages_key(text, run.settings.evaluation)
        if text is not None
        else ""
    )


def joined_continuation(
    request: ContinuationSettings,
    stored: Callable[[ContinuationSettings], Continuation | None],
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


@dataclass(frozen=True)
class StoredResults:
    """Records and searches of an open store, without a backend."""

    store: Store

    def record(self, key: str) -> Record | None:
        """The record with this key."""
        return self.store.get(Record, key)

    def search(self, key: str) -> FindResult | None:
        """Result of the search behind the run with this key."""
        return self.store.get(FindResult, key)

    @cached_property
    def answers(self) -> AnswerCache:
        """The answers to tasks."""
        return AnswerCache(self.store)

    def continuation(self, settings: ContinuationSettings) -> Continuation | None:
        """Continuations by these models in runs, or None."""
        return joined_continuation(
            settings, lambda request: self.store.get(Continuation, request.key())
        )

    def why_missing(self, key: str) -> str:
        """The reason there is no record with this key, as the end of a sentence."""
        return self.store.why_missing(Record, key)

    def written_at(self, key: str) -> float | None:
        """Time at which the record with this key was written; None if there is none."""
        return self.store.written_at(Record, key)


class ResultCache:
    """The results in one store, of all users, cached. Every method may raise StoreError.

    As many are cached as have MAX_PASSAGES_IN_MEMORY passages between them, each until it is
    written again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # Each with the time at which it was written.
        self._cache = LruCache(
            MAX_PASSAGES_IN_MEMORY, lambda kept: n_cached_passages(kept[1])
        )

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
        answers: AnswerCache | None = None,
    ) -> None:
        """answers: of the same store, with its cache."""
        self._store = store
        self._clock = clock
        self._answers = answers or AnswerCache(store)
        self._verdicts = LruCache(MAX_RUNS, lambda verdicts: 1)

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
            stored = tuple(
                key for key in run.sparse if key in records and run.dense in records
            )
            answered = tuple(
                keys
                for record, keys in run.answers.items()
                if is_answered(run, record, sets)
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
        self._store.forget(task_losses_note(run, sparse))

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
                if dense.passages_key != record.passages_key or not shared_outcomes(
                    dense, record
                ):
                    continue
                known = record_losses(dense, record)
                note_derived(self._store, note, asdict(known))
            losses[key] = known
        return losses
