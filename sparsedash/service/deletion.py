"""Deletion planner: what goes with runs, a model or a kind of things, what stays and why; and the deletion itself.

A plan is made of the references between things (see holdings): nothing goes that a live job or a pinned run needs, and
with a run go its records and whatever refers to them, unless another run uses them.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.errors import SettingsError, SparseDashError, StoreError
from sparsedash.schema.export_settings import EXPORTS, Export
from sparsedash.schema.pair_records import records_read
from sparsedash.schema.records import KINDS, Checked, Damage, Passages, Record, Run, Verification, VerifySettings
from sparsedash.schema.settings import FindResult
from sparsedash.service.holdings import (
    ARTEFACTS,
    HoldingKind,
    Holdings,
    References,
    job_references,
    kind_of_artefact,
    kind_of_record,
    measure_holdings,
    own_entries,
    references,
    referring_entries,
)
from sparsedash.service.request_checks import Access
from sparsedash.service.stored_results import ResultCache, RunCosts
from sparsedash.service.user_files import Exports, UserUploads
from sparsedash.storage.disk_cache import VARIABLE, bytes_of, room_of_environment
from sparsedash.storage.local_machine import folder_size
from sparsedash.storage.model_folders import drop_unpacked, is_being_written, unpacked_models
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import file_of
from sparsedash.storage.users import UserData

Why = str
"""Why a thing stays, with {them} in place of it; empty where it goes."""

NEEDED = "a job that waits or runs may need {them}"
_OTHERS = "it is somebody else's; an administrator can delete it"
_PINNED = "a pinned run uses {them}"
_OF_DAMAGE: dict[Checked, HoldingKind] = {
    "artefact": "statistics",
    "unpacked model": "models",
    "upload": "uploads",
    "export": "exports",
}
_READ = "runs here were calibrated on {them} or answered {them}"


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Runs that go, and why others stay.

    refused: why each of the others stays, by its key. records, passages: keys of what only the runs that go use.
    n_shared: records of theirs that stay, since other runs or users have them too.
    """

    runs: tuple[Run, ...]
    refused: Mapping[str, str]
    records: frozenset[str]
    passages: frozenset[str]
    n_shared: int


class Item(NamedTuple):
    """One thing to delete. name: of an entry, a folder or a log, an upload's reference, or an export's key."""

    kind: HoldingKind
    name: str
    n_bytes: int


class Staying(NamedTuple):
    """`n` things of a kind stay."""

    kind: HoldingKind
    n: int
    why: Why


@dataclass(frozen=True, kw_only=True)
class Cleanup:
    """What goes. removal: of runs; None where none were asked for. n_named: runs among them that have a name."""

    removal: Removal | None
    items: tuple[Item, ...]
    stays: tuple[Staying, ...]
    n_bytes: int
    n_named: int = 0

    @property
    def deletes(self) -> bool:
        """Whether there is anything to delete."""
        return bool(self.items) or (self.removal is not None and bool(self.removal.runs))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Things to delete, by one of these: a kind, a model's identity, keys of runs; or all that is damaged, as the last
    verification says.
    """

    kind: HoldingKind | None = None
    model: str = ""
    runs: tuple[str, ...] | None = None
    damaged: bool = False


@dataclass(frozen=True, kw_only=True)
class ArtefactRoom:
    """The limit of artefacts, in bytes. fixed: the environment sets it, and nothing here changes it."""

    n_bytes: int
    fixed: bool


class RunRemoval:
    """Deletes runs of one data folder, with the rights of one user. Every method may raise StoreError."""

    def __init__(self, store: Store, table: JobTable, results: ResultCache, costs: RunCosts, access: Access) -> None:
        self._store, self._table, self._results, self._costs = store, table, results, costs
        self._access = access

    def plan(self, keys: Collection[str]) -> Removal:
        """What deleting these runs would delete; of a run that others own too nothing is deleted."""
        live, pinned = live_jobs(self._table), pinned_runs(self._store, self._access)
        refused = {key: _OTHERS for key in keys if not self._access.may_change(key)}
        asked = [run for run in self._results.runs() if run.key in keys and run.key not in refused]
        for run in asked:
            why = "it is pinned; unpin it first" if run.key in pinned else _why_run_stays(run, live)
            refused |= {run.key: why} if why else {}
        going = tuple(run for run in asked if run.key not in refused)
        records, passages = self._of_these_alone([run for run in going if not self._access.is_shared(run.key)])
        n_shared = len({key for run in going for key in run.records} - records)
        return Removal(runs=going, refused=refused, records=records, passages=passages, n_shared=n_shared)

    def remove(self, keys: Collection[str]) -> Removal:
        """Delete these runs as far as possible, and return what went.

        The run goes first: a page never shows half of one, and what a crash leaves behind no run refers to.
        """
        plan = self.plan(keys)
        deleted = [run for run in plan.runs if not self._access.give_up(run.key)]
        records, passages = self._of_these_alone(deleted)
        for run in deleted:
            self._results.drop(Run, run.key)
            self._results.drop(FindResult, run.key)
            self._access.owners.forget(run.key)
            for sparse in run.sparse:
                if {run.dense, sparse} & records:
                    self._costs.forget(run.dense, sparse)
        for name, read in referring_entries(self._store, self._table).items() if records else ():
            if read & records:
                kind, _, key = name.partition("/")
                self._results.drop(KINDS[kind], key)
        for key in records:
            self._results.drop(Record, key)
        for key in passages:
            self._results.drop(Passages, key)
        UserData(self._store).forget_runs([run.key for run in deleted])
        return replace(plan, records=records, passages=passages)

    def _of_these_alone(self, runs: Collection[Run]) -> tuple[frozenset[str], frozenset[str]]:
        """Records and passages that these runs refer to and no other stored run does."""
        keys = {run.key for run in runs}
        gone = [references(run) for run in runs]
        left = [references(run) for run in self._results.runs() if run.key not in keys]
        records = frozenset[str]().union(*(each.records for each in gone))
        passages = frozenset[str]().union(*(each.passages for each in gone))
        return records.difference(*(each.records for each in left)), passages.difference(
            *(each.passages for each in left)
        )


class Housekeeping:
    """What the data folder holds, deletion by kind, model or run, and the limit of artefacts; for administrators.

    Every method may raise StoreError.
    """

    def __init__(
        self,
        store: Store,
        table: JobTable,
        results: ResultCache,
        removal: RunRemoval,
        files: tuple[Exports, UserUploads],
        access: Access,
    ) -> None:
        self._store, self._table, self._results, self._removal = store, table, results, removal
        self._exports, self._uploads = files
        self._access = access

    def holdings(self) -> Holdings:
        """What the data folder holds now."""
        return measure_holdings(self._store, self._table, self._results.runs(), self._own_exports())

    def room(self) -> ArtefactRoom:
        """The limit of artefacts."""
        return ArtefactRoom(n_bytes=self._store.artefact_room, fixed=room_of_environment() is not None)

    def allow(self, gigabytes: float) -> None:
        """Limit artefacts to so many GB (2**30 bytes each); what is over goes now, unless a job is live.

        Raises SettingsError out of range, or where the environment sets the limit.
        """
        if room_of_environment() is not None:
            raise SettingsError("limit", gigabytes, f"what {VARIABLE} says", "Change it there, and start again.")
        self._store.allow_artefacts(bytes_of(gigabytes, "limit"))
        if not live_jobs(self._table):
            self._store.shrink_artefacts()

    def verification(self) -> Verification | None:
        """The last verification, or None."""
        return self._store.get(Verification, VerifySettings().key())

    def plan_deletion(self, chosen: Selection) -> Cleanup:
        """What deleting this would delete; nothing is deleted yet."""
        runs = chosen.runs
        used, found = self._in_use(), list[tuple[Item, Why]]()
        if chosen.model or chosen.kind == "runs":
            every = self._results.runs()
            runs = tuple(run.key for run in every if chosen.model in ("", run.model_identity))
        if chosen.damaged:
            found = self._damaged(used)
        elif chosen.model:
            things = [*self._artefacts(), *self._things("models"), *self._things("exports")]
            found = [(item, used.why_stays(item, about)) for item, about in things if chosen.model in about.models]
        elif chosen.kind:
            found = [(item, used.why_stays(item, about)) for item, about in self._things(chosen.kind)]
        items = tuple(item for item, why in found if not why)
        stays = Counter((item.kind, why) for item, why in found if why)
        plan = Cleanup(
            removal=None,
            items=items,
            stays=tuple(Staying(kind, n, why) for (kind, why), n in stays.items()),
            n_bytes=sum(item.n_bytes for item in items),
        )
        return plan if runs is None else self._with_runs(plan, runs)

    def delete(self, chosen: Selection) -> Cleanup:
        """Delete what `plan_deletion` says as far as possible, and return what went."""
        plan = self.plan_deletion(chosen)
        removal = plan.removal and self._removal.remove([run.key for run in plan.removal.runs])
        done: list[Item] = []
        stays = list(plan.stays)
        for item in plan.items:
            try:
                self._drop(item)
                done.append(item)
            except SparseDashError as error:
                stays.append(Staying(item.kind, 1, error.message.rstrip(".")))
        if chosen.damaged:
            self._store.drop(Verification, VerifySettings().key())
        n_bytes = plan.n_bytes - sum(item.n_bytes for item in plan.items) + sum(item.n_bytes for item in done)
        return replace(plan, removal=removal, items=tuple(done), stays=tuple(stays), n_bytes=n_bytes)

    def _damaged(self, used: "_InUse") -> list[tuple[Item, Why]]:
        verification, unknown = self.verification(), References(models=frozenset([""]))
        items = dict.fromkeys(map(_damaged_item, verification.damaged if verification else ()))
        return [(item, used.why_stays(item, unknown) if item.kind == "models" else "") for item in items]

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
                _delete_log(self._store.folder / "logs" / item.name)
            case _ if item.kind in ARTEFACTS:
                self._store.drop_entry("artefacts", item.name)
            case _ if folder in KINDS:
                self._results.drop(KINDS[folder], key)
            case _:
                self._store.drop_entry("records", item.name)

    def _things(self, kind: HoldingKind) -> Iterable[tuple[Item, References]]:
        """All of one deletable kind but runs, with what each refers to."""
        match kind:
            case "texts" | "timings" | "damaged":
                records = {} if kind == "damaged" else referring_entries(self._store, self._table)
                for entry in self._store.entries("records"):
                    if kind_of_record(entry.name) == kind:
                        found = References(records=records.get(entry.name, frozenset()))
                        yield Item(kind, entry.name, entry.n_bytes), found
            case "models":
                for model in unpacked_models(self._store):
                    yield Item(kind, model.name, model.n_bytes), references(model)
            case "uploads":
                for name, n_bytes in self._uploads.kept().items():
                    yield Item(kind, name, n_bytes), References(texts=frozenset([name]))
            case "exports":
                for export in self._own_exports():
                    yield Item(kind, export.key, export.n_bytes), references(export)
                for folder in self._exports.nameless():
                    yield Item(kind, f"{EXPORTS}/{folder.name}", folder_size(folder).n_bytes), References()
            case "logs":
                # Those of workers are small, and a worker may write into its own.
                for file in sorted((self._store.folder / kind).glob("*.log")):
                    with suppress(OSError):
                        if file.stem.isdecimal():
                            yield Item(kind, file.name, file.lstat().st_size), References()
            case _:
                yield from (each for each in self._artefacts() if each[0].kind == kind)

    def _artefacts(self) -> Iterator[tuple[Item, References]]:
        for entry in self._store.entries("artefacts"):
            yield Item(kind_of_artefact(entry.tag), entry.name, entry.n_bytes), references(entry)

    def _with_runs(self, plan: Cleanup, keys: Collection[str]) -> Cleanup:
        removal = self._removal.plan(keys)
        marks = UserData(self._store, self._access.user).marks()
        names = {name for run in removal.runs for name in own_entries(run)}
        names |= {f"record/{key}" for key in removal.records} | {f"passages/{key}" for key in removal.passages}
        n_bytes = plan.n_bytes + sum(each.n_bytes for each in self._store.entries("records") if each.name in names)
        n_named = sum(bool(marks[run.key].name) for run in removal.runs if run.key in marks)
        return replace(plan, removal=removal, n_bytes=n_bytes, n_named=n_named)

    def _in_use(self) -> "_InUse":
        runs, pinned = self._results.runs(), pinned_runs(self._store, self._access)
        jobs = [(job, job_references(job, self._store, self._results)) for job in live_jobs(self._table)]
        return _InUse(self._store.folder, jobs, runs, [run for run in runs if run.key in pinned])

    def _own_exports(self) -> list[Export]:
        return [export for export in self._exports.listed() if self._exports.is_ours(export)]


class _InUse:
    """What live jobs, pinned runs and, of uploads, all runs refer to.

    jobs: live ones, each with what it refers to. folder: the data folder.
    """

    def __init__(
        self, folder: Path, jobs: Collection[tuple[Job, References]], runs: Iterable[Run], pinned: Iterable[Run]
    ) -> None:
        self._folder = folder
        self._ids = {job.id for job, _ in jobs}
        self._keys = {job.key for job, _ in jobs}
        self._models = {model for _, found in jobs for model in found.models}
        self._needed = self._files(text for _, found in jobs for text in found.texts)
        self._read = self._files(text for run in runs for text in references(run).texts)
        self._pinned = {key for run in pinned for key in run.records}
        self._pinned_sparse = {key for run in pinned for key in run.sparse}

    def why_stays(self, item: Item, found: References) -> Why:
        """Why this stays; found: what it refers to."""
        match item.kind:
            case "uploads":
                files = self._files(found.texts)
                return NEEDED if files & self._needed else _READ if files & self._read else ""
            case "logs":
                return NEEDED if int(item.name.removesuffix(".log")) in self._ids else ""
            case "exports" if item.name.startswith(f"{EXPORTS}/"):
                return NEEDED if is_being_written(self._folder / item.name) else ""
            case "texts" | "timings" | "exports":
                # A dense record alone is that of other runs as well.
                pinned = found.records & self._pinned_sparse or (found.records and found.records <= self._pinned)
                return NEEDED if item.name.rpartition("/")[2] in self._keys else _PINNED if pinned else ""
            case "damaged":
                return ""
            case _:
                # The empty name is that of any model.
                unknown = "" in self._models or (bool(self._models) and "" in found.models)
                return NEEDED if unknown or found.models & self._models else ""

    def _files(self, texts: Iterable[str]) -> set[Path]:
        """The files of texts: a slice of an upload is read from the whole."""
        return {file for text in texts if (file := file_of(text, self._folder))}


def live_jobs(table: JobTable) -> tuple[Job, ...]:
    """The jobs that run or wait."""
    return (*table.running(), *table.queue())


def pinned_runs(store: Store, access: Access) -> set[str]:
    """The keys of the runs that the user has pinned."""
    return {key for key, mark in UserData(store, access.user).marks().items() if mark.pinned}


def _why_run_stays(run: Run, live: Iterable[Job]) -> str:
    """Why a run cannot be deleted while these jobs are live; empty where it can."""
    for job in live:
        if job.key == run.key:
            return "it is under way; stop it first"
        if job.makes_run and job.state == "running" and job.settings.get("model") == run.settings.model:
            return "a run of the same model is under way, and may build on its answers; wait for that"
        if records_read(job.settings) & {run.dense, *run.sparse}:
            return f"job {job.id} works with its models; wait for that, or stop it"
    return ""


def _damaged_item(damage: Damage) -> Item:
    kind = kind_of_record(damage.name) if damage.kind == "record" else _OF_DAMAGE[damage.kind]
    return Item(kind, damage.entry or damage.name, 0)


def _delete_log(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{file} could not be deleted: {error.strerror}.") from error
