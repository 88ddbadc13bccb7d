"""Deletion planner: what goes with runs, a model or a kind of things, what stays and why.

Nothing goes that a live job or a pinned run refers to; with a run go its records and all that
refers to them, unless another run does (see holdings).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.errors import SettingsError, SparseDashError, StoreError
from sparsedash.schema.export_settings import EXPORTS
from sparsedash.schema.pair_records import records_read
from sparsedash.schema.records import KINDS, Checked, Run, Verification, VerifySettings
from sparsedash.schema.store_keys import healed_key
from sparsedash.service import holdings
from sparsedash.service.holdings import HoldingKind, Holdings, Item
from sparsedash.service.request_checks import Access
from sparsedash.service.stored_results import ResultCache, VerdictCache
from sparsedash.service.user_files import Exports, UserUploads
from sparsedash.storage.disk_cache import VARIABLE, CacheEntry, bytes_of, room_of_environment
from sparsedash.storage.model_folders import drop_unpacked, is_being_written
from sparsedash.storage.store import Store
from sparsedash.storage.users import UserData

_DELETABLE = tuple(kind for kind in holdings.DELETABLE if kind != "runs")
"""Kinds of single items that can be deleted."""

NEEDED = "a job that waits or runs may need {them}"
_PINNED_ELSEWHERE = "another user has pinned it"
_OTHERS = "it belongs to another user; an administrator can delete it"
_PINNED = "a pinned run uses {them}"
_HEALED = "healed models of runs here have {them}; delete the runs"
_READ = "runs were calibrated or evaluated on {them}"
_OF_DAMAGE: dict[Checked, HoldingKind] = {
    "artefact": "statistics",
    "unpacked model": "models",
    "upload": "uploads",
    "export": "exports",
}


class Staying(NamedTuple):
    """`n` things of a kind stay. why: with {them} in place of them."""

    kind: HoldingKind
    n: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Cleanup:
    """What goes, and why the rest stays.

    runs: those that go; refused: why others stay, by their keys. entries: names of what goes with
    the runs alone.
    n_shared: records of theirs that stay, since other runs or users have them too. n_named: runs
    that have a name.
    items: other things that go.
    """

    runs: tuple[Run, ...]
    refused: Mapping[str, str]
    entries: frozenset[str]
    n_shared: int
    n_named: int
    items: tuple[Item, ...]
    stays: tuple[Staying, ...]
    n_bytes: int

    @property
    def deletes(self) -> bool:
        """Whether there is anything to delete."""
        return bool(self.items or self.runs)

    @property
    def n_records(self) -> int:
        """Models whose answers go."""
        return sum(name.startswith("record/") for name in self.entries)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Things to delete: a kind, or a model by its identity, or runs by their keys, or all damage of
    the last check.
    """

    kind: HoldingKind | None = None
    model: str = ""
    runs: tuple[str, ...] | None = None
    damaged: bool = False


class Housekeeping:
    """What the data folder holds, deletion by kind, model or run, and the limit of artefacts.

    Each user may delete runs of their own; all else is for administrators. Every method may raise
    StoreError.
    """

    def __init__(
        self,
        store: Store,
        table: JobTable,
        results: ResultCache,
        costs: VerdictCache,
        files: tuple[Exports, UserUploads],
        access: Access,
    ) -> None:
        self._store, self._table, self._results, self._costs = store, table, results, costs
        self._exports, self._uploads = files
        self._access = access

    def holdings(self) -> Holdings:
        """What the data folder holds now."""
        self._access.require_house()
        exports = holdings.own_exports(self._exports)
        runs, record = self._results.runs(), self._results.record
        return holdings.measure_holdings(self._items(), runs, exports, self._store, record)

    def allow(self, gigabytes: float) -> None:
        """Limit artefacts to so many GB; the rest goes, unless a job is live. Raises
        SettingsError.
        """
        self._access.require_house()
        if room_of_environment() is not None:
            raise SettingsError(
                "limit", gigabytes, f"what {VARIABLE} says", "Change it there and restart."
            )
        self._store.allow_artefacts(bytes_of(gigabytes, "limit"))
        if not live_jobs(self._table):
            self._store.shrink_artefacts()

    def verification(self) -> Verification | None:
        """The last verification, or None."""
        self._access.require_house()
        return self._store.get(Verification, VerifySettings().key())

    def plan(self, chosen: Selection) -> Cleanup:
        """What deleting this would delete; nothing is deleted yet."""
        every, keys, found = self._results.runs(), chosen.runs or (), list[Item]()
        if chosen.runs is None:
            self._access.require_house()
            if chosen.damaged:
                found = self._damaged()
            elif chosen.model or chosen.kind:
                of_model = holdings.named("model", chosen.model) if chosen.model else frozenset()
                wanted = (
                    item for item in self._items() if item.n and chosen.kind in (None, item.kind)
                )
                found = [
                    item
                    for item in wanted
                    if item.kind in _DELETABLE and of_model <= item.references
                ]
            if chosen.model or chosen.kind == "runs":
                keys = tuple(run.key for run in every if chosen.model in ("", run.model_identity))
        own = UserData(self._store, self._access.user)
        marks = own.marks()
        mine = {run for run, mark in marks.items() if mark.pinned}
        # Whoever may delete the runs of others leaves those that they have pinned.
        keep = own.pinned_by_anybody() if self._access.unlimited else mine
        pinned = {run.key: run for run in every if run.key in keep}
        refused = {key: _OTHERS for key in keys if not self._access.may_change(key)}
        asked, live = (
            [run for run in every if run.key in keys and run.key not in refused],
            live_jobs(self._table),
        )
        reasons = {run.key: _why_run_stays(run, live, run.key in mine) for run in asked}
        reasons |= {key: _PINNED_ELSEWHERE for key in pinned if reasons.get(key) == ""}
        refused |= {key: why for key, why in reasons.items() if why}
        going = tuple(run for run in asked if run.key not in refused)
        alone = [run for run in going if not self._access.is_shared(run.key)]
        entries, healed = holdings.entries_alone(alone, every), self._healed_alone(alone)
        records = self._store.entries("records") if going else []
        going_bytes = sum(e.n_bytes for e in (*healed, *(e for e in records if e.name in entries)))
        used = _InUse(self._store, self._table, self._results, pinned.values())
        # What is damaged is of no use to anybody, but for a model in whose folder a job may read.
        kinds = ("models",) if chosen.damaged else _DELETABLE
        with_runs = {entry.name for entry in healed}
        found = [item for item in found if item.name not in with_runs]
        whys = [(item, used.why_stays(item) if item.kind in kinds else "") for item in found]
        items = tuple(item for item, why in whys if not why)
        stays = Counter((item.kind, why) for item, why in whys if why)
        return Cleanup(
            runs=going,
            refused=refused,
            entries=entries,
            n_shared=len(
                holdings.named("record", *(key for run in going for key in run.records)) - entries
            ),
            n_named=sum(bool(marks[run.key].name) for run in going if run.key in marks),
            items=items,
            stays=tuple(Staying(kind, n, why) for (kind, why), n in stays.items()),
            n_bytes=sum(item.n_bytes for item in items) + going_bytes,
        )

    def delete(self, chosen: Selection) -> Cleanup:
        """Delete what `plan` says as far as possible, and return what went."""
        plan = self.plan(chosen)
        entries = self._drop_runs(plan.runs)
        done, stays = list[Item](), list(plan.stays)
        for item in plan.items:
            try:
                self._drop(item)
                done.append(item)
            except SparseDashError as error:
                stays.append(Staying(item.kind, 1, error.message.rstrip(".")))
        if chosen.damaged:
            self._store.drop(Verification, VerifySettings().key())
        n_bytes = (
            plan.n_bytes
            - sum(item.n_bytes for item in plan.items)
            + sum(item.n_bytes for item in done)
        )
        return replace(
            plan, entries=entries, items=tuple(done), stays=tuple(stays), n_bytes=n_bytes
        )

    def _items(self) -> Iterable[Item]:
        return holdings.stored_items(
            self._store, self._table, self._results.runs(), self._exports, self._uploads
        )

    def _damaged(self) -> list[Item]:
        found = self.verification()
        return [
            # Which model it was of is not known.
            Item(
                _OF_DAMAGE.get(kind) or holdings.kind_of_record(name),
                name,
                0,
                references=holdings.named("model", ""),
            )
            for kind, name in dict.fromkeys(
                (d.kind, d.entry or d.name) for d in (found.damaged if found else ())
            )
        ]

    def _drop_runs(self, runs: Iterable[Run]) -> frozenset[str]:
        """Delete runs and what only they have; one that others own too is only taken from the user.

        The run goes first: a page never shows half of one, and what a crash leaves behind no run
        refers to.
        """
        deleted = [run for run in runs if not self._access.give_up(run.key)]
        entries = holdings.entries_alone(deleted, self._results.runs())
        healed = self._healed_alone(deleted)
        referring = holdings.referring_entries(self._store, self._table).items() if deleted else ()
        for run in deleted:
            self._store.drop(Run, run.key)
            self._access.owners.forget(run.key)
            for sparse in run.sparse:
                self._costs.forget(run, sparse)
        for name in [*(name for name, found in referring if found & entries), *entries]:
            self._drop_record(name)
        for entry in healed:
            self._store.drop_entry("artefacts", entry.name)
        if deleted:
            UserData(self._store).forget_runs([run.key for run in deleted])
        return entries

    def _healed_alone(self, runs: Collection[Run]) -> list[CacheEntry]:
        """The parts of healed models that only these runs of all runs have."""
        keys, record = {run.key for run in runs}, self._results.record
        others = (run for run in self._results.runs() if run.key not in keys)
        alone = holdings.healed_weights(runs, record)
        alone -= holdings.healed_weights(others, record) if alone else frozenset()
        return (
            [entry for entry in self._store.entries("artefacts") if healed_key(entry.name) in alone]
            if alone
            else []
        )

    def _drop_record(self, name: str) -> None:
        folder, _, key = name.partition("/")
        if folder in KINDS:
            self._store.drop(KINDS[folder], key)
        else:
            self._store.drop_entry("records", name)

    def _drop(self, item: Item) -> None:
        folder, _, key = item.name.partition("/")
        match item.kind:
            case "models":
                drop_unpacked(item.name, self._store)
            case "uploads":
                self._uploads.drop(item.name)
            case "exports" if folder == EXPORTS:
                self._exports.drop_nameless(key)
            case "exports" if not key:
                self._exports.drop(item.name)
            case "logs":
                file = self._store.folder / "logs" / item.name
                try:
                    file.unlink(missing_ok=True)
                except OSError as error:
                    raise StoreError(f"{file} could not be deleted: {error.strerror}.") from error
            case _ if item.kind in (*holdings.ARTEFACTS, "healed") and folder not in KINDS:
                self._store.drop_entry("artefacts", item.name)
            case _:
                self._drop_record(item.name)


class _InUse:
    """What live jobs, pinned runs and, of uploads, all runs refer to."""

    def __init__(
        self, store: Store, table: JobTable, results: ResultCache, pinned: Iterable[Run]
    ) -> None:
        self._folder, jobs = store.folder, live_jobs(table)
        self._ids, self._keys = {job.id for job in jobs}, {job.key for job in jobs}
        self._needed = frozenset[str]().union(
            *(holdings.job_references(job, store, results) for job in jobs)
        )
        self._read = frozenset[str]().union(*map(holdings.references, results.runs()))
        self._healed = holdings.healed_weights(results.runs(), results.record)
        self._pinned = {name for run in pinned for name in holdings.named("record", *run.records)}
        self._pinned_sparse = {
            name for run in pinned for name in holdings.named("record", *run.sparse)
        }

    def why_stays(self, item: Item) -> str:
        """Why this stays, with {them} in place of it; empty where it goes."""
        key, found = item.name.rpartition("/")[2], item.references
        match item.kind:
            case "uploads":
                return NEEDED if found & self._needed else _READ if found & self._read else ""
            case "logs":
                return NEEDED if int(key.removesuffix(".log")) in self._ids else ""
            case "exports" if item.name.startswith(f"{EXPORTS}/"):
                return NEEDED if is_being_written(self._folder / item.name) else ""
            case "texts" | "timings" | "exports":
                records = {name for name in found if name.startswith("record/")}
                # A dense record alone is that of other runs as well.
                pinned = records & self._pinned_sparse or (records and records <= self._pinned)
                return NEEDED if key in self._keys else _PINNED if pinned else ""
            case "healed" if healed_key(item.name) in self._healed:
                return _HEALED
            case "damaged":
                return ""
            case _:
                # The empty name is that of any model.
                models = {name for name in self._needed if name.startswith("model/")}
                return NEEDED if models and ("model/" in models | found or found & models) else ""


def live_jobs(table: JobTable) -> tuple[Job, ...]:
    """The jobs that run or wait."""
    return (*table.running(), *table.queue())


def _why_run_stays(run: Run, live: Iterable[Job], pinned: bool) -> str:
    """Why a run cannot be deleted while these jobs are live; empty where it can."""
    if pinned:
        return "it is pinned; unpin it first"
    for job in live:
        if job.key == run.key:
            return "it is under way; cancel it first"
        if (
            job.makes_run
            and job.state == "running"
            and job.settings.get("model") == run.settings.model
        ):
            return "a live run of the same model may reuse its answers; wait for that"
        if records_read(job.settings) & {run.dense, *run.sparse}:
            return "a job that runs or waits uses its models; wait for it, or cancel it"
    return ""
