"""Stored results: runs and records with a cache in memory, and the losses and verdicts of many runs."""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import msgspec

from sparsedash.schema import store_keys
from sparsedash.schema.errors import NewerError
from sparsedash.schema.records import Record, Run
from sparsedash.stats.significance import shared_outcomes
from sparsedash.stats.tolerance import Losses, Tolerance, ToleranceVerdict, judge_all, record_losses
from sparsedash.storage.store import Store

BUDGET_S = 0.1
"""How long one look at all runs may take for what is not known yet: the next one goes on from there."""

MOST_RUNS = 4_000
"""Runs whose verdicts are kept in memory, each under what is allowed."""

Verdicts = Mapping[str, ToleranceVerdict]
"""Of a run's sparse records by their keys; those that are lost, or answer other passages than dense, are left out."""


class RunCosts:
    """Verdicts on all runs of one store. Safe to share between threads.

    What each model lost is a few numbers, and is kept in the store once its answers have been read; what that says of
    what is allowed is kept in memory. Every method may raise StoreError.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._losses: dict[tuple[str, str], Losses] = {}
        self._verdicts: OrderedDict[tuple[object, ...], Verdicts] = OrderedDict()
        self._lock = threading.Lock()

    def verdicts(self, runs: Sequence[Run], tolerance: Tolerance, budget_s: float = BUDGET_S) -> dict[str, Verdicts]:
        """The verdicts on the sparse models of each run together, by the runs' keys.

        budget_s: after which the runs that are not known yet are left out, but for the first of them. So asking again
        comes to an end.
        """
        stored = set(self._store.keys(Record))
        until = self._clock() + budget_s
        found: dict[str, Verdicts] = {}
        n_new = 0
        for run in runs:
            there = tuple(key for key in run.sparse if key in stored) if run.dense in stored else ()
            name = (run.dense, there, run.n_compared, tolerance)
            known = self._known(name)
            if known is None and (not n_new or self._clock() < until):
                known, n_new = self._judge(run, there, tolerance), n_new + 1
                self._keep(name, known)
            if known is not None:
                found[run.key] = known
        return found

    def forget(self, dense: str, sparse: str) -> None:
        """Delete what is known of a sparse record beside a dense one."""
        self._losses.pop((dense, sparse), None)
        self._store.forget(store_keys.losses_note(dense, sparse))

    def _judge(self, run: Run, sparse: Sequence[str], tolerance: Tolerance) -> Verdicts:
        lost = self._lost(run.dense, sparse)
        return dict(zip(lost, judge_all(list(lost.values()), tolerance, run.n_compared), strict=True))

    def _lost(self, dense: str, sparse: Sequence[str]) -> dict[str, Losses]:
        """What each model lost, in the order of their keys. The dense answers are read once, and only if need be."""
        read: list[Record | None] = []
        found: dict[str, Losses] = {}
        for key in sparse:
            known = self._losses.get((dense, key)) or losses_from_plain(
                self._store.recall(store_keys.losses_note(dense, key))
            )
            if known is None:
                read = read or [self._record(dense)]
                known = _measured(read[0], self._record(key))
                if known is not None:
                    self._store.remember(store_keys.losses_note(dense, key), json.dumps(asdict(known)))
            if known is not None:
                self._losses[dense, key] = found[key] = known
        return found

    def _record(self, key: str) -> Record | None:
        """Read past the backend's memory, which what is looked at on a page would have to leave."""
        try:
            return self._store.get(Record, key)
        except NewerError:
            return None

    def _known(self, name: tuple[object, ...]) -> Verdicts | None:
        with self._lock:
            if name in self._verdicts:
                self._verdicts.move_to_end(name)
            return self._verdicts.get(name)

    def _keep(self, name: tuple[object, ...], found: Verdicts) -> None:
        with self._lock:
            self._verdicts[name] = found
            while len(self._verdicts) > MOST_RUNS:
                self._verdicts.popitem(last=False)


def losses_from_plain(text: str | None) -> Losses | None:
    """The losses that a note holds; None where there is none that can be read."""
    try:
        # json.loads, since losses beyond all numbers are infinite and msgspec writes them as null.
        return msgspec.convert(json.loads(text or ""), Losses)
    except (ValueError, TypeError, msgspec.ValidationError, RecursionError):
        return None


def _measured(dense: Record | None, sparse: Record | None) -> Losses | None:
    """None where one is lost, or they answer no passage in common."""
    if dense is None or sparse is None or dense.passages_key != sparse.passages_key or dense.pruned:
        return None
    return record_losses(dense, sparse) if shared_outcomes(dense, sparse) else None
