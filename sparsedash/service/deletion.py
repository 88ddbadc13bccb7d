"""Deletion in the data folder: runs with the data only they use, the cache, one file at a time.

What a live job may need stays, and so do pinned runs.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from sparsedash.jobs.job import Job, JobKind
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.errors import SettingsError, StoreError
from sparsedash.schema.export_settings import EXPORTS
from sparsedash.schema.pair_records import records_read
from sparsedash.schema.records import Run, Verification, VerifySettings
from sparsedash.schema.user_records import RunMark
from sparsedash.service import holdings
from sparsedash.service.holdings import CacheContents, CacheItem, Holdings, StoredFile
from sparsedash.service.request_checks import Access
from sparsedash.service.stored_results import ResultCache, VerdictCache
from sparsedash.service.user_files import Exports, UserUploads
from sparsedash.storage.disk_cache import (
    DAMAGED,
    VARIABLE,
    bytes_of,
    room_of_environment,
)
from sparsedash.storage.model_folders import (
    drop_unpacked,
    is_being_written,
    unpacked_models,
)
from sparsedash.storage.store import Store
from sparsedash.storage.users import UserData

_PINNED_ELSEWHERE = "another user has pinned it"
_OTHERS = "it belongs to another user; an administrator can delete it"


@dataclass(frozen=True, kw_only=True)
class RunDeletion:
    """Runs that can be deleted, with what goes and what stays.

    refused: why other runs stay, by key. entries: names of what only these runs have.
    """

    runs: tuple[Run, ...]
    refused: Mapping[str, str]
    entries: frozenset[str]
    n_bytes: int

    @property
    def n_records(self) -> int:
        """Models whose answers go."""
        return sum(name.startswith("record/") for name in self.entries)


class Housekeeping:
    """Contents of the data folder, their deletion, and the limit of the artefacts.

    Users may delete their own runs; all else is for administrators. Every method may raise
    StoreError, and AccessError.
    """

    def __init__(
        self,
        store: Store,
        table: JobTable,
        results: ResultCache,
        verdicts: VerdictCache,
        files: tuple[Exports, UserUploads],
        access: Access,
    ) -> None:
        self._store = store
        self._table = table
        self._results = results
        self._verdicts = verdicts
        self._exports, self._uploads = files
        self._access = access

    def holdings(self) -> Holdings:
        """Contents of the data folder now."""
        cache = self.cache()
        files = holdings.stored_files(self._store, self._exports, self._uploads)
        return holdings.measure_holdings(self._store, self._results, cache, files)

    def allow(self, gigabytes: float) -> None:
        """Limit the artefacts to this size; the oldest beyond it go, unless a job is live.

        Raises SettingsError.
        """
        self._access.require_folder_access()
        if room_of_environment() is not None:
            raise SettingsError(
                "limit",
                gigabytes,
                f"what {VARIABLE} says",
                "Change it there and restart.",
            )
        self._store.allow_artefacts(bytes_of(gigabytes, "limit"))
        if not live_jobs(self._table):
            self._store.shrink_artefacts()

    def verification(self) -> Verification | None:
        """The last verification, without what was deleted here since; None before the first."""
        self._access.require_folder_access()
        return self._store.get(Verification, VerifySettings().key())

    def plan_deletion(self, keys: Collection[str]) -> RunDeletion:
        """Plan of deleting these runs; nothing is deleted yet."""
        user_data = UserData(self._store, self._access.user)
        marks = user_data.marks()
        jobs = live_jobs(self._table)
        refused = {key: _OTHERS for key in keys if not self._access.may_change(key)}
        # Administrators may delete the runs of others, but not those that they have pinned.
        pinned = (
            user_data.pinned_by_anybody()
            if self._access.unlimited
            else frozenset[str]()
        )
        deletable = []
        for run in self._results.runs():
            if run.key not in keys or run.key in refused:
                continue
            reason = _why_run_stays(run, jobs, marks.get(run.key, RunMark()).pinned)
            if not reason and run.key in pinned:
                reason = _PINNED_ELSEWHERE
            if reason:
                refused[run.key] = reason
            else:
                deletable.append(run)
        unshared = [run for run in deletable if not self._access.is_shared(run.key)]
        entries = holdings.only_of(unshared, self._results)
        n_bytes = 0
        for entry in (
            *self._store.entries("records"),
            *self._store.entries("artefacts"),
        ):
            if holdings.entry_name(entry.name) in entries:
                n_bytes += entry.n_bytes
        return RunDeletion(
            runs=tuple(deletable),
            refused=refused,
            entries=entries,
            n_bytes=n_bytes,
        )

    def delete_runs(self, keys: Collection[str]) -> RunDeletion:
        """Delete these runs and what only they have; of one that others own, take it from the user.

        Returns what went. The run goes first: a page never shows half of one.
        """
        plan = self.plan_deletion(keys)
        deleted = [run for run in plan.runs if not self._access.give_up(run.key)]
        if not deleted:
            return replace(plan, entries=frozenset())
        entries = holdings.only_of(deleted, self._results)
        dropped = set(entries)
        for name, records in holdings.referring_entries(
            self._store, self._table
        ).items():
            if records & entries:
                dropped.add(name)
        for run in deleted:
            self._store.drop(Run, run.key)
            self._access.owners.forget(run.key)
            for sparse in run.sparse:
                self._verdicts.forget(run, sparse)
        for name in dropped:
            self._store.drop_entry("records", name)
        for entry in self._store.entries("artefacts"):
            if holdings.entry_name(entry.name) in entries:
                self._store.drop_entry("artefacts", entry.name)
        UserData(self._store).forget_runs([run.key for run in deleted])
        self._drop_logs(dropped)
        self._forget_damage(dropped)
        return replace(plan, entries=entries)

    def cache(self) -> CacheContents:
        """Plan of emptying the cache: the entries to delete and to spare."""
        self._access.require_folder_access()
        verification = self.verification()
        damaged = (
            {damage.name for damage in verification.damaged} if verification else set()
        )
        items = []
        spared = []
        jobs = live_jobs(self._table)
        needed = holdings.needed_models(jobs, self._store, self._results)
        keys = {job.key for job in jobs}
        for item in holdings.cache_items(
            self._store, self._results, self._exports, damaged
        ):
            if self._is_needed(item, needed, keys):
                spared.append(item)
            else:
                items.append(item)
        return CacheContents(items=tuple(items), spared=tuple(spared))

    def empty_cache(self) -> CacheContents:
        """Delete what `cache` says, and return it."""
        cache = self.cache()
        for item in cache.items:
            if item.shelf == "exports":
                self._exports.drop_unrecorded(item.name)
            else:
                self._store.drop_entry(item.shelf, item.name)
        names = {item.name.removeprefix(DAMAGED) for item in cache.items}
        self._drop_logs(names)
        self._forget_damage(names)
        return cache

    def delete_file(self, file: StoredFile) -> None:
        """Delete an export, an upload or a converted model.

        Raises ExportError, CorpusError or StoreError while a live job needs it.
        """
        match file.kind:
            case "exports":
                self._exports.drop(file.name)
                self._drop_logs({f"export/{file.name}"})
            case "uploads":
                self._uploads.drop(file.name)
            case "models":
                self._access.require_folder_access()
                needed = holdings.needed_models(
                    live_jobs(self._table), self._store, self._results
                )
                models = {
                    model.name: model.identity for model in unpacked_models(self._store)
                }
                if _reads(needed, models.get(file.name, "")):
                    raise StoreError(
                        f"{file.name} stays: a waiting or running job may need it.",
                        "Wait until that is done, or cancel it.",
                    )
                drop_unpacked(file.name, self._store)
        self._forget_damage([file.name])

    def _forget_damage(self, names: Collection[str]) -> None:
        """Leave these deleted entries and files out of the last verification."""
        verification = self._store.get(Verification, VerifySettings().key())
        if verification is None:
            return
        damaged = tuple(
            damage
            for damage in verification.damaged
            if (damage.entry or damage.name) not in names
        )
        n_damaged = verification.n_damaged - len(verification.damaged) + len(damaged)
        verification = replace(
            verification,
            damaged=damaged,
            n_damaged=n_damaged,
        )
        self._store.put(verification.key, verification)

    def _is_needed(
        self, item: CacheItem, needed: Collection[str], live_keys: Collection[str]
    ) -> bool:
        """Whether a live job may need this. needed: as `needed_models` has them."""
        match item.part:
            case "damaged":
                return False
            case "timings":
                return item.name.partition("/")[2] in live_keys
            case "exports":
                return is_being_written(self._store.folder / EXPORTS / item.name)
            case _:
                return _reads(needed, item.model)

    def _drop_logs(self, names: Collection[str]) -> None:
        """Delete the logs of the jobs whose results had these names."""
        for job in self._table.of_kinds(*get_args(JobKind)):
            kind = "run" if job.makes_run else job.kind
            if f"{kind}/{job.key}" in names:
                with suppress(OSError):
                    Path(job.log_path).unlink()


def live_jobs(table: JobTable) -> tuple[Job, ...]:
    """The jobs that run or wait."""
    return (*table.running(), *table.queue())


def _reads(needed: Collection[str], model: str) -> bool:
    """Whether a live job may read data of this model; of an unknown one on either side it may."""
    return bool(needed) and ("" in needed or not model or model in needed)


def _why_run_stays(run: Run, live: Iterable[Job], pinned: bool) -> str:
    """The reason a run cannot be deleted while these jobs are live; empty if it can."""
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
