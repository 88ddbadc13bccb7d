"""How runs are deleted: with what only they use, and never one that is pinned, under way or that other work reads."""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from sparsedash.jobs.table import Job, JobTable
from sparsedash.schema.cache_keys import passages_key
from sparsedash.schema.errors import NewerError
from sparsedash.schema.pair_records import Timing
from sparsedash.schema.pair_settings import records_read
from sparsedash.schema.records import KINDS, Passages, R, Record, Run
from sparsedash.schema.searches import FindResult
from sparsedash.service.run_costs import RunCosts
from sparsedash.storage.store import Store
from sparsedash.storage.user_data import UserData

_PINNED = "it is pinned; unpin it first"


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What is deleted of the runs that somebody wants to be rid of.

    runs: those that go. refused: why each of the others stays, by its key. records, passages: keys of what only the
    runs that go use. n_shared: records of theirs that stay, since other runs use them or may do so.
    unknown: whether there are runs here that this version cannot read, so that all records stay.
    """

    runs: tuple[Run, ...]
    refused: Mapping[str, str]
    records: frozenset[str]
    passages: frozenset[str]
    n_shared: int
    unknown: bool = False


class RunRemoval:
    """Deletes runs of one data folder. Every method may raise StoreError.

    runs: reads those that this version can read. dropped: is told of everything that is deleted.
    """

    def __init__(
        self,
        store: Store,
        table: JobTable,
        costs: RunCosts,
        runs: Callable[[], list[Run]],
        dropped: Callable[[type, str], None],
    ) -> None:
        self._store, self._table, self._costs = store, table, costs
        self._runs, self._dropped = runs, dropped

    def plan(self, keys: Collection[str]) -> Removal:
        """What deleting these runs would delete; nothing is deleted yet."""
        every = self._runs()
        live = (*self._table.running(), *self._table.queue())
        marks = UserData(self._store).marks()
        pinned = {key for key, mark in marks.items() if mark.pinned}
        reasons = {run.key: _PINNED if run.key in pinned else _in_use(run, live) for run in every if run.key in keys}
        going = tuple(run for run in every if run.key in keys and not reasons[run.key])
        staying = [run for run in every if run not in going]
        unknown = len(every) < sum(1 for _ in self._store.keys(Run))
        theirs = records_of(going)
        alone = frozenset() if unknown else theirs - records_of(staying)
        return Removal(
            runs=going,
            refused={key: why for key, why in reasons.items() if why},
            records=alone,
            passages=frozenset() if unknown else _passages(going) - _passages(staying),
            n_shared=len(theirs - alone),
            unknown=unknown,
        )

    def remove(self, keys: Collection[str]) -> Removal:
        """Delete these runs, as far as they can be, and return what went.

        The run goes first: a page never shows half of one. What a crash leaves behind no run names any more.
        """
        plan = self.plan(keys)
        for run in plan.runs:
            self._drop(Run, run.key)
            self._drop(FindResult, run.key)
            for sparse in run.sparse:
                if sparse in plan.records or run.dense in plan.records:
                    self._costs.forget(run.dense, sparse)
        self._drop_timings(plan.records)
        for key in plan.records:
            self._drop(Record, key)
        for key in plan.passages:
            self._drop(Passages, key)
        self._drop_pair_texts(plan.records)
        visitors = UserData(self._store)
        visitors.forget_runs([run.key for run in plan.runs])
        visitors.forget_records(plan.records)
        return plan

    def _drop_timings(self, records: Collection[str]) -> None:
        for key in list(self._store.keys(Timing)):
            with suppress(NewerError):
                found = self._store.get(Timing, key)
                if found is not None and (found.dense in records or found.sparse in records):
                    self._drop(Timing, key)

    def _drop_pair_texts(self, records: Collection[str]) -> None:
        """What was written or compared by one of these records' models: no page leads to it any more."""
        for name, read in pair_texts(self._table).items() if records else ():
            if read & set(records):
                kind, _, key = name.partition("/")
                self._drop(KINDS[kind], key)  # type: ignore[type-var]

    def _drop(self, kind: type[R], key: str) -> None:
        self._store.drop(kind, key)
        self._dropped(kind, key)


def _in_use(run: Run, live: Iterable[Job]) -> str:
    """Why a run cannot be deleted now; empty where it can."""
    for job in live:
        if job.key == run.key:
            return "it is under way; stop it first"
        if job.makes_run and job.state == "running" and job.settings.get("model") == run.settings.model:
            return "a run of the same model is under way, and may build on its answers; wait for that"
        if records_read(job.settings) & {run.dense, *run.sparse}:
            return f"job {job.id} works with its models; wait for that, or stop it"
    return ""


def pair_texts(table: JobTable) -> dict[str, frozenset[str]]:
    """The records behind every continuation and divergence that was ever asked for, by the name of its entry.

    The job table knows them; what is stored does not name its records.
    """
    jobs = table.of_kinds("continuation", "divergence")
    return {f"{job.kind}/{job.key}": records_read(job.settings) for job in jobs}


def records_of(runs: Iterable[Run]) -> frozenset[str]:
    """The keys of the records of these runs."""
    return frozenset(key for run in runs for key in (run.dense, *run.sparse) if key)


def _passages(runs: Iterable[Run]) -> frozenset[str]:
    """The keys of the texts that runs answer, made again from what they are made of: no record is read for it."""
    return frozenset(
        passages_key(run.corpora["evaluation"], run.settings.evaluation) for run in runs if "evaluation" in run.corpora
    )
