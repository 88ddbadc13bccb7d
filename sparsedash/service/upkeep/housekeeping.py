"""Keeps house in one data folder: says what it holds, deletes what nobody needs, and sets how much there may be.

Whatever the pages delete by kind, by model or by run goes through this object, so that one place can ask who may.
"""

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sparsedash.jobs.table import Job, JobTable
from sparsedash.schema.errors import NewerError, SettingsError, SparseDashError, StoreError
from sparsedash.schema.exports import EXPORTS, Export
from sparsedash.schema.hosting.upkeep import Damage, Verification, VerifySettings
from sparsedash.schema.records import KINDS, Record, Run
from sparsedash.service.exports import Exports
from sparsedash.service.run_removal import Removal, RunRemoval, pair_texts
from sparsedash.service.upkeep.cleanup import (
    DELETABLE,
    NAMELESS,
    NEEDED,
    Cleanup,
    Item,
    Staying,
    Weighing,
    Why,
    of_items,
)
from sparsedash.service.upkeep.holdings import ARTEFACTS, HoldingKind, Holdings, holdings, kind_of_record
from sparsedash.service.upkeep.in_use import InUse, in_use
from sparsedash.storage.export_folders import is_written
from sparsedash.storage.store import Store
from sparsedash.storage.upkeep.artefact_room import VARIABLE, bytes_of, room_of_environment
from sparsedash.storage.upkeep.folder_sizes import folder_size
from sparsedash.storage.upkeep.unpacked import drop_unpacked
from sparsedash.storage.user_data import UserData


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
        return holdings(self._store, self._table, self._reads.runs(), self._own_exports())

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
                    NEEDED if is_written(folder) else "",
                )
                for folder in self._reads.exports.nameless()
            ]
        return _cleanup(None, *of_items(found))

    def plan_model(self, identity: str) -> Cleanup:
        """What deleting all of a model would delete: its runs, what its calibrations left, its files."""
        runs = [run for run in self._reads.runs() if run.model_identity == identity]
        removal = self._reads.removal.plan([run.key for run in runs])
        return self._with_runs(removal, *of_items(self._weighing().of_model(identity)))

    def plan_runs(self, keys: Collection[str]) -> Cleanup:
        """What deleting these runs would delete."""
        return self._with_runs(self._reads.removal.plan(keys), (), ())

    def plan_damaged(self) -> Cleanup:
        """What deleting everything would delete that the last verification found damaged."""
        found = self.verification()
        used, damaged = self._in_use(), found.damaged if found else ()
        return _cleanup(None, *of_items(dict.fromkeys(_damaged(each, used) for each in damaged)))

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

    def _weighing(self) -> Weighing:
        return Weighing(
            self._store, self._in_use(), self._reads.runs(), self._own_exports(), lambda: pair_texts(self._table)
        )

    def _in_use(self) -> InUse:
        marks = UserData(self._store).marks()
        pinned = [run for run in self._reads.runs() if run.key in marks and marks[run.key].pinned]
        return in_use(self._live(), pinned, self._store, self._reads.record)

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
