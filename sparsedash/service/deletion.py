"""Deletion planner: what goes with a run, a model or a kind of data, what stays and why, and the deletion itself.

One reference graph says what runs, exports, notes, artefacts and uploads refer to; nothing that a live job or a
pinned run needs is deleted.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema import store_keys
from sparsedash.schema.errors import NewerError, SettingsError, SparseDashError, StoreError
from sparsedash.schema.export_settings import EXPORTS, Export
from sparsedash.schema.pair_records import Choices, Prompts, Timing, records_read
from sparsedash.schema.records import (
    KINDS,
    Damage,
    Passages,
    R,
    Record,
    Run,
    Verification,
    VerifySettings,
    kind_and_model,
)
from sparsedash.schema.settings import FindResult
from sparsedash.schema.store_keys import passages_key
from sparsedash.service.holdings import (
    ARTEFACTS,
    HoldingKind,
    Holdings,
    kind_of_artefact,
    kind_of_record,
    measure_holdings,
)
from sparsedash.service.stored_results import RunCosts
from sparsedash.service.user_files import Exports
from sparsedash.storage.disk_cache import VARIABLE, CacheEntry, bytes_of, room_of_environment
from sparsedash.storage.local_machine import folder_size
from sparsedash.storage.model_folders import UnpackedModel, drop_unpacked, is_being_written, unpacked_models
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import Uploads, file_of, fingerprint, texts_read
from sparsedash.storage.users import UserData

_RUN_PINNED = "it is pinned; unpin it first"


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
        reasons = {
            run.key: _RUN_PINNED if run.key in pinned else _why_run_stays(run, live) for run in every if run.key in keys
        }
        going = tuple(run for run in every if run.key in keys and not reasons[run.key])
        staying = [run for run in every if run not in going]
        unknown = len(every) < sum(1 for _ in self._store.keys(Run))
        theirs = records_of(going)
        alone = frozenset() if unknown else theirs - records_of(staying)
        return Removal(
            runs=going,
            refused={key: why for key, why in reasons.items() if why},
            records=alone,
            passages=frozenset() if unknown else _passages_of(going) - _passages_of(staying),
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


def _why_run_stays(run: Run, live: Iterable[Job]) -> str:
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


def _passages_of(runs: Iterable[Run]) -> frozenset[str]:
    """The keys of the texts that runs answer, made again from what they are made of: no record is read for it."""
    return frozenset(
        passages_key(run.corpora["evaluation"], run.settings.evaluation) for run in runs if "evaluation" in run.corpora
    )


RecordOf = Callable[[str], Record | None]


@dataclass(frozen=True, kw_only=True)
class InUse:
    """models: identities. unknown_model: a job needs one of which nobody knows yet what is here. texts: references.

    records: of pinned runs. jobs, keys: ids of the live jobs, and the keys of what they make.
    """

    models: frozenset[str]
    unknown_model: bool
    texts: frozenset[str]
    records: frozenset[str]
    jobs: frozenset[int]
    keys: frozenset[str]

    def needs_model(self, identity: str) -> bool:
        """Whether something of this model may be needed. identity: empty where it is not known."""
        return self.unknown_model or identity in self.models or (not identity and bool(self.models))


def find_in_use(live: Sequence[Job], pinned: Sequence[Run], store: Store, record: RecordOf) -> InUse:
    """What these have a use for. live: jobs that wait or run. record: gives the record of a key."""
    models: set[str | None] = set()
    for job in live:
        if job.makes_run:
            reference = str(job.settings.get("model", ""))
            models.add(store.recall(store_keys.model_identity_note(reference, fingerprint(reference))))
        for key in records_read(job.settings):
            found = record(key)
            models.add(None if found is None else found.model_identity)
    return InUse(
        models=frozenset(each for each in models if each),
        unknown_model=None in models,
        texts=frozenset(text for job in live for text in texts_read(job.settings, record)),
        records=frozenset(key for run in pinned for key in (run.dense, *run.sparse) if key),
        jobs=frozenset(job.id for job in live),
        keys=frozenset(job.key for job in live),
    )


DELETABLE: tuple[HoldingKind, ...] = (
    "runs",
    "texts",
    "timings",
    *ARTEFACTS,
    "models",
    "uploads",
    "exports",
    "logs",
    "damaged",
)
"""The job table and short notes stay: they are small, and everything else is found by them."""

Why = str
NEEDED = "a job that waits or runs may need {them}"
NAMELESS = "no name is left to find {them} by"
_PINNED_USES = "a pinned run uses {them}"
_READ = "runs here were calibrated on {them} or answered {them}"


class Item(NamedTuple):
    """One thing to delete. name: an entry's in the store, a folder's, a reference, a key, a file's, as its kind is."""

    kind: HoldingKind
    name: str
    n_bytes: int


class Staying(NamedTuple):
    """So many of a kind stay. why: with {them} where they are spoken of."""

    kind: HoldingKind
    n: int
    why: Why


@dataclass(frozen=True, kw_only=True)
class Cleanup:
    """What goes. removal: of runs; None where none were asked for. n_named: how many runs that go have a name."""

    removal: Removal | None
    items: tuple[Item, ...]
    stays: tuple[Staying, ...]
    n_bytes: int
    n_named: int = 0

    @property
    def deletes(self) -> bool:
        """Whether there is anything to delete."""
        return bool(self.items) or (self.removal is not None and bool(self.removal.runs))


def split_items(found: Iterable[tuple[Item, Why]]) -> tuple[tuple[Item, ...], tuple[Staying, ...]]:
    """Those without a reason to stay, and how many of the others stay for which reason."""
    listed = list(found)
    reasons = Counter((item.kind, why) for item, why in listed if why)
    stays = tuple(Staying(kind, n, why) for (kind, why), n in reasons.items())
    return tuple(item for item, why in listed if not why), stays


class Candidates:
    """Looks at what there is of each kind, and says of each thing why it stays, or nothing.

    runs, exports: those that this version can read. records_of: the records behind each stored continuation and
    divergence, by the name of its entry.
    """

    def __init__(
        self,
        store: Store,
        used: InUse,
        runs: Collection[Run],
        exports: Collection[Export],
        records_of: Callable[[], dict[str, frozenset[str]]],
    ) -> None:
        self._store, self._used, self._runs, self._exports = store, used, runs, exports
        self._records_of = records_of

    def of_kind(self, kind: HoldingKind) -> Iterator[tuple[Item, Why]]:
        """All of one kind but runs."""
        match kind:
            case "texts":
                return self._texts()
            case "timings":
                return self._timings()
            case "models":
                return self._unpacked(unpacked_models(self._store))
            case "uploads":
                return self._uploads()
            case "exports":
                return self._of_exports(self._exports)
            case "logs":
                return self._logs()
            case "damaged":
                return ((Item(kind, entry.name, entry.n_bytes), "") for entry in self._of_records(kind))
            case _ if kind in ARTEFACTS:
                found = self._store.entries("artefacts")
                return self._artefacts(entry for entry in found if kind_of_artefact(entry.tag) == kind)
            case _:
                return iter(())

    def of_model(self, identity: str) -> Iterator[tuple[Item, Why]]:
        """All of one model but its runs."""
        artefacts = self._store.entries("artefacts")
        yield from self._artefacts(entry for entry in artefacts if kind_and_model(entry.tag)[1] == identity)
        yield from self._unpacked(model for model in unpacked_models(self._store) if model.identity == identity)
        yield from self._of_exports(export for export in self._exports if export.model_identity == identity)

    def _artefacts(self, found: Iterable[CacheEntry]) -> Iterator[tuple[Item, Why]]:
        for entry in found:
            why = NEEDED if self._used.needs_model(kind_and_model(entry.tag)[1]) else ""
            yield Item(kind_of_artefact(entry.tag), entry.name, entry.n_bytes), why

    def _unpacked(self, found: Iterable[UnpackedModel]) -> Iterator[tuple[Item, Why]]:
        for model in found:
            yield Item("models", model.name, model.n_bytes), NEEDED if self._used.needs_model(model.identity) else ""

    def _of_exports(self, found: Iterable[Export]) -> Iterator[tuple[Item, Why]]:
        for export in found:
            why = NEEDED if export.key in self._used.keys else ""
            why = why or (_PINNED_USES if export.settings.sparse in self._used.records else "")
            yield Item("exports", export.key, export.n_bytes), why

    def _uploads(self) -> Iterator[tuple[Item, Why]]:
        folder = self._store.folder
        read_by_jobs = {file_of(text, folder) for text in self._used.texts}
        asked = (text for run in self._runs for text in _texts_of(run))
        read_by_runs = {file_of(text, folder) for text in asked}
        for reference, n_bytes in Uploads(folder).kept().items():
            file = file_of(reference, folder)
            why = NEEDED if file in read_by_jobs else _READ if file in read_by_runs else ""
            yield Item("uploads", reference, n_bytes), why

    def _logs(self) -> Iterator[tuple[Item, Why]]:
        """Of jobs; those of workers are small, and some worker may write into its own."""
        for file in sorted((self._store.folder / "logs").glob("*.log")):
            if file.stem.isdecimal():
                with suppress(OSError):
                    n_bytes = file.lstat().st_size
                    yield Item("logs", file.name, n_bytes), NEEDED if int(file.stem) in self._used.jobs else ""

    def _timings(self) -> Iterator[tuple[Item, Why]]:
        for entry in self._of_records("timings"):
            found = None
            with suppress(NewerError):
                found = self._store.get(Timing, _key(entry))
            yield self._of_pair(entry, {found.dense, found.sparse} if found else set())

    def _texts(self) -> Iterator[tuple[Item, Why]]:
        records_of = self._records_of()
        for entry in self._of_records("texts"):
            yield self._of_pair(entry, records_of.get(entry.name) or self._named_in(entry))

    def _named_in(self, entry: CacheEntry) -> set[str]:
        """The records that prompts and blind choices name."""
        with suppress(NewerError):
            match entry.name.partition("/")[0]:
                case "prompts":
                    prompts = self._store.get(Prompts, _key(entry))
                    return {key for asked in prompts.asked for key in (asked.left, asked.right)} if prompts else set()
                case "choices":
                    choices = self._store.get(Choices, _key(entry))
                    return set(choices.better.values()) - {""} if choices else set()
        return set()

    def _of_pair(self, entry: CacheEntry, records: Collection[str]) -> tuple[Item, Why]:
        why = NEEDED if _key(entry) in self._used.keys else ""
        why = why or (_PINNED_USES if set(records) & self._used.records else "")
        return Item(kind_of_record(entry.name), entry.name, entry.n_bytes), why

    def _of_records(self, kind: HoldingKind) -> list[CacheEntry]:
        return [entry for entry in self._store.entries("records") if kind_of_record(entry.name) == kind]


def _key(entry: CacheEntry) -> str:
    return entry.name.partition("/")[2]


def _texts_of(run: Run) -> tuple[str, str]:
    return run.settings.calibration.corpus, run.settings.evaluation.corpus


@dataclass(frozen=True, kw_only=True)
class ArtefactRoom:
    """How much room calibration may take, in bytes. fixed: the environment says so, and nothing here changes it."""

    n_bytes: int
    fixed: bool


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What the house is kept by: how runs, records and exports are read, and how single things are deleted."""

    runs: Callable[[], list[Run]]
    record: Callable[[str], Record | None]
    exports: Exports
    removal: RunRemoval
    drop_upload: Callable[[str], None]
    dropped: Callable[[type, str], None]


class Housekeeping:
    """What pages ask to keep house. Every method may raise StoreError."""

    def __init__(self, store: Store, table: JobTable, reads: Reads) -> None:
        self._store, self._table, self._reads = store, table, reads

    def holdings(self) -> Holdings:
        """What the data folder holds now."""
        return measure_holdings(self._store, self._table, self._reads.runs(), self._own_exports())

    def room(self) -> ArtefactRoom:
        """How much room calibration may take."""
        return ArtefactRoom(n_bytes=self._store.artefact_room, fixed=room_of_environment() is not None)

    def allow(self, gigabytes: float) -> None:
        """Let calibration take so many GB (2**30 bytes each) from now on; what is over goes now, unless a job is live.

        Raises SettingsError out of range, or where the environment says how much.
        """
        if room_of_environment() is not None:
            raise SettingsError("limit", gigabytes, f"what {VARIABLE} says", "Change it there, and start again.")
        self._store.allow_artefacts(bytes_of(gigabytes, "limit"))
        if not self._live():
            self._store.shrink_artefacts()

    def verification(self) -> Verification | None:
        """What was found when everything was read the last time, or None."""
        with suppress(NewerError):
            return self._store.get(Verification, VerifySettings().key())
        return None

    def plan_kind(self, kind: HoldingKind) -> Cleanup:
        """What deleting all of a kind would delete. Nothing is deleted yet; as below."""
        if kind == "runs":
            return self.plan_runs([run.key for run in self._reads.runs()])
        found = list(self._weighing().of_kind(kind)) if kind in DELETABLE else []
        if kind == "exports":
            found += [
                (
                    Item(kind, f"{EXPORTS}/{folder.name}", folder_size(folder).n_bytes),
                    NEEDED if is_being_written(folder) else "",
                )
                for folder in self._reads.exports.nameless()
            ]
        return _cleanup(None, *split_items(found))

    def plan_model(self, identity: str) -> Cleanup:
        """What deleting all of a model would delete: its runs, what its calibrations left, its files."""
        runs = [run for run in self._reads.runs() if run.model_identity == identity]
        removal = self._reads.removal.plan([run.key for run in runs])
        return self._with_runs(removal, *split_items(self._weighing().of_model(identity)))

    def plan_runs(self, keys: Collection[str]) -> Cleanup:
        """What deleting these runs would delete."""
        return self._with_runs(self._reads.removal.plan(keys), (), ())

    def plan_damaged(self) -> Cleanup:
        """What deleting everything would delete that the last verification found damaged."""
        found = self.verification()
        used, damaged = self._in_use(), found.damaged if found else ()
        return _cleanup(None, *split_items(dict.fromkeys(_damaged(each, used) for each in damaged)))

    def remove_kind(self, kind: HoldingKind) -> Cleanup:
        """Delete all of a kind as far as it may go, and return what went; as below."""
        return self._carry_out(self.plan_kind(kind))

    def remove_model(self, identity: str) -> Cleanup:
        """Delete all of a model."""
        return self._carry_out(self.plan_model(identity))

    def remove_runs(self, keys: Collection[str]) -> Cleanup:
        """Delete these runs."""
        return self._carry_out(self.plan_runs(keys))

    def remove_damaged(self) -> Cleanup:
        """Delete what the last verification found damaged, and forget what it found: it says nothing any more."""
        done = self._carry_out(self.plan_damaged())
        self._store.drop(Verification, VerifySettings().key())
        return done

    def _carry_out(self, plan: Cleanup) -> Cleanup:
        """Delete what a plan says; what cannot be deleted after all is told with the reason."""
        removal = plan.removal
        if removal is not None and removal.runs:
            removal = self._reads.removal.remove([run.key for run in removal.runs])
        done: list[Item] = []
        stays = list(plan.stays)
        for item in plan.items:
            try:
                self._drop(item)
                done.append(item)
            except SparseDashError as error:
                stays.append(Staying(item.kind, 1, error.message.rstrip(".")))
        return Cleanup(
            removal=removal,
            items=tuple(done),
            stays=tuple(stays),
            n_bytes=plan.n_bytes - sum(item.n_bytes for item in plan.items) + sum(item.n_bytes for item in done),
            n_named=plan.n_named,
        )

    def _drop(self, item: Item) -> None:
        match item.kind:
            case "models":
                drop_unpacked(item.name, self._store)
            case "uploads":
                self._reads.drop_upload(item.name)
            case "exports" if item.name.startswith(f"{EXPORTS}/"):
                self._reads.exports.drop_nameless(item.name.removeprefix(f"{EXPORTS}/"))
            case "exports" if not item.name.startswith("export/"):
                self._reads.exports.drop(item.name)
            case "logs":
                _delete_log(self._store.folder / "logs" / item.name)
            case _ if item.kind in ARTEFACTS:
                self._store.drop_entry("artefacts", item.name)
            case _:
                self._store.drop_entry("records", item.name)
                kind, _, key = item.name.partition("/")
                if kind in KINDS:
                    self._reads.dropped(KINDS[kind], key)

    def _with_runs(self, removal: Removal, items: tuple[Item, ...], stays: tuple[Staying, ...]) -> Cleanup:
        """With the bytes of the runs that go, and how many of them somebody gave a name."""
        marks = UserData(self._store).marks()
        names = {f"{kind}/{run.key}" for run in removal.runs for kind in ("run", "findresult")}
        names |= {f"record/{key}" for key in removal.records} | {f"passages/{key}" for key in removal.passages}
        of_runs = sum(entry.n_bytes for entry in self._store.entries("records") if entry.name in names)
        n_named = sum(bool(marks[run.key].name) for run in removal.runs if run.key in marks)
        return _cleanup(removal, items, stays, of_runs, n_named)

    def _weighing(self) -> Candidates:
        return Candidates(
            self._store, self._in_use(), self._reads.runs(), self._own_exports(), lambda: pair_texts(self._table)
        )

    def _in_use(self) -> InUse:
        marks = UserData(self._store).marks()
        pinned = [run for run in self._reads.runs() if run.key in marks and marks[run.key].pinned]
        return find_in_use(self._live(), pinned, self._store, self._reads.record)

    def _live(self) -> list[Job]:
        return [*self._table.running(), *self._table.queue()]

    def _own_exports(self) -> list[Export]:
        return [export for export in self._reads.exports.listed() if self._reads.exports.is_ours(export)]


def _delete_log(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{file} could not be deleted: {error.strerror}.") from error


def _cleanup(
    removal: Removal | None, items: tuple[Item, ...], stays: tuple[Staying, ...], of_runs: int = 0, n_named: int = 0
) -> Cleanup:
    n_bytes = of_runs + sum(item.n_bytes for item in items)
    return Cleanup(removal=removal, items=items, stays=stays, n_bytes=n_bytes, n_named=n_named)


def _damaged(damage: Damage, used: InUse) -> tuple[Item, Why]:
    match damage.kind:
        case "record":
            return Item(kind_of_record(damage.name), damage.name, 0), "" if damage.name else NAMELESS
        case "artefact":
            return Item("unlabelled", damage.name, 0), "" if damage.name else NAMELESS
        case "unpacked model":
            return Item("models", damage.entry, 0), NEEDED if used.needs_model("") else ""
        case "upload":
            return Item("uploads", damage.entry, 0), ""
        case "export":
            return Item("exports", damage.entry, 0), ""
