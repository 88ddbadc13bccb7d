"""A cache in memory that drops what was used least recently."""

import threading
from collections.abc import Callable, Hashable
from typing import Any

from sparsedash.schema.question_records import ModelAnswers
from sparsedash.stats.task_verdicts import JudgedAnswers

MAX_PASSAGES_IN_MEMORY = 80_000

MAX_RUNS = 4_000
"""Runs whose verdicts are kept in memory, each under one tolerance."""


class LruCache:
    """A thread-safe LRU cache of at least one value, and as many as weigh `budget` together."""

    def __init__(self, budget: int, weight: Callable[[Any], int]) -> None:
        self._budget = budget
        self._weight = weight
        self._lock = threading.Lock()
        self._kept: dict[Hashable, Any] = {}

    def get(self, name: Hashable) -> Any:
        """The value, or None; it counts as used."""
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
                len(self._kept) > 1
                and sum(map(self._weight, self._kept.values())) > self._budget
            ):
                del self._kept[next(iter(self._kept))]


def n_cached_passages(result: object) -> int:
    """Passages or questions of a result; a small one counts as one."""
    if isinstance(result, dict):
        return sum(map(n_cached_passages, result.values())) or 1
    if isinstance(result, JudgedAnswers):
        return sum(len(task.pair.questions) for task in result.results)
    if isinstance(result, ModelAnswers):
        return result.n_questions
    for name in ("questions", "outcomes", "indices"):
        if parts := getattr(result, name, ()):
            return len(parts)
    return 1
