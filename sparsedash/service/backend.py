"""The one object that the pages talk to: it submits runs, follows jobs and returns stored results. Knows no engine."""

import logging
import threading
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import asdict
from pathlib import Path

import sparsedash
from sparsedash.catalog import choices
from sparsedash.catalog.model_shape import Dimensions, ModelShape, shape_from_plain
from sparsedash.jobs.cluster_parts import ClusterView
from sparsedash.jobs.job import Job, JobKind, Move, Priority
from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.local_runner import LocalRunner, last_log_lines
from sparsedash.schema import store_keys
from sparsedash.schema.errors import AccessError, NewerError, StoreError
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.pair_records import (
    Continuation,
    ContinuationSettings,
    Divergence,
    DivergenceSettings,
    Timing,
    TimingSettings,
)
from sparsedash.schema.progress import Stage
from sparsedash.schema.records import Passages, R, Record, Run, VerifySettings
from sparsedash.schema.settings import (
    FindResult,
    FindSettings,
    RunSettings,
    planned_run,
    run_or_find_settings,
    settings_from_plain,
)
from sparsedash.service import preflight, request_checks
from sparsedash.service.cluster_plan import cluster_runner
from sparsedash.service.deletion import Housekeeping, Reads, RunRemoval
from sparsedash.service.model_lookup import NamedModel, fetch_config, named_model
from sparsedash.service.own_things import OwnExports, OwnRemoval, OwnTransfer, OwnUploads
from sparsedash.service.preflight import Cached, Forecast, Preflight
from sparsedash.service.request_checks import Access, Problem, ReferenceField
from sparsedash.service.stored_results import RunCosts
from sparsedash.service.time_forecast import START_S, MachineSpeed, expected_seconds
from sparsedash.service.user_files import Exports, RunTransfer
from sparsedash.storage.local_machine import absolute_data_folder, data_folder, require_job_room
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import Uploads, fingerprints, texts_read
from sparsedash.storage.users import Serving, UserData

__all__ = ["Backend", "Cached", "Preflight", "default_data_dir"]

log = logging.getLogger(__name__)

default_data_dir = data_folder

_Small = ContinuationSettings | DivergenceSettings | TimingSettings | ExportSettings | VerifySettings

MAX_PASSAGES_IN_MEMORY = 80_000

_LOOKED_AT, _LAST_STARTS = 50, 3
"""Jobs that are looked at for how long a start takes, and starts that count."""
_COLD_S = 1.0
"""A start that took less found the engine loaded."""


class Backend:
    """One data folder with its results, its job table and its workers. Safe to share between threads.

    data_dir: made when it is not there. Every method may raise StoreError while the folder cannot be used.
    user_data: what those who use the pages leave there. uploads: the text files among it. exports: models in files.
    costs: the verdicts on all runs. removal: deletes runs. transfer: runs as files. What it gives and does is
    everybody's; see `seen_by`.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = absolute_data_folder(data_dir)
        self._store = Store(self.data_dir)
        self.user_data = UserData(self._store)
        self.uploads: Uploads | OwnUploads = Uploads(self.data_dir)
        self.exports: Exports | OwnExports = Exports(self._store)
        self._table = JobTable(self.data_dir / "jobs.sqlite")
        self._access = Access(self._table.owners, self._any_run, self._any_record)
        self._cluster = cluster_runner(self.data_dir, self._table, self._store)
        elsewhere = self._cluster.takes if self._cluster else _nowhere_else
        self._runner = LocalRunner(self.data_dir, self._table, elsewhere=elsewhere)
        self._speed = MachineSpeed(self._store)
        self._recent = _Recent(MAX_PASSAGES_IN_MEMORY)
        self._left_alone: dict[tuple[type, str], NewerError] = {}
        self.costs = RunCosts(self._store)
        removal = RunRemoval(self._store, self._table, self.costs, self.runs, self._recent.drop)
        self.removal: RunRemoval | OwnRemoval = removal
        self.transfer: RunTransfer | OwnTransfer = RunTransfer(self._store, self.run)
        self._housekeeping = Housekeeping(
            self._store,
            self._table,
            Reads(
                runs=self.runs,
                record=self.record,
                exports=self.exports,
                removal=removal,
                drop_upload=self.drop_upload,
                dropped=self._recent.drop,
            ),
        )
        self._try_to_reconcile()
        if self._cluster is not None:
            self._cluster.start()

    def seen_by(self, visitor: str, rules: Serving) -> "Backend":
        """The same backend for one visitor where others are served: it gives and does what `Access` allows.

        To be asked of the one for everybody. visitor: as `visitor_name` gives it.
        """
        assert isinstance(self.uploads, Uploads)
        assert isinstance(self.exports, Exports)
        assert isinstance(self.removal, RunRemoval)
        theirs = copy(self)
        theirs._access = Access(self._table.owners, self._any_run, self._any_record, visitor=visitor, rules=rules)
        theirs.user_data = UserData(self._store, visitor)
        theirs.exports = OwnExports(self.exports, self.uploads, theirs._access, self._live)
        theirs.uploads = OwnUploads(self.uploads, theirs.exports, theirs._access)
        theirs.removal = OwnRemoval(self.removal, theirs._access)
        theirs.transfer = OwnTransfer(RunTransfer(self._store, theirs.run), theirs._access)
        return theirs

    def submit(self, settings: RunSettings | FindSettings) -> Job:
        """The job for these settings: one that is done and whose results are stored, the live one, or a new one.

        Raises AccessError for what the visitor may not read, and JobError beyond their quota; likewise below.
        """
        self._access.require_references(settings)
        kind: JobKind = "find" if isinstance(settings, FindSettings) else "run"
        key = settings.key(fingerprints(settings))
        newest = self._table.newest(key)
        if newest is not None and newest.state == "done" and self._is_whole(key):
            self._access.owners.add(key, self._access.visitor)
            return newest
        job = self._table.submit(kind, key, asdict(settings), self._access.visitor, self._access.most_jobs)
        if job.state == "queued":
            self._store.remember(store_keys.forecast_note(key), self.preflight(settings).forecast.plain())
        self._try_to_reconcile()
        return job

    def submit_continuation(self, settings: ContinuationSettings) -> Job:
        """As `submit`, for a prompt that two models continue."""
        self._access.require_records(settings.left, settings.right, *settings.others)
        stored = self._store.has(Continuation, settings.key())
        return self._submit_small("continuation", settings, stored)

    def submit_divergence(self, settings: DivergenceSettings) -> Job:
        """As `submit`, for a text over which two models are compared."""
        self._access.require_records(settings.left, settings.right)
        stored = self._store.has(Divergence, settings.key())
        return self._submit_small("divergence", settings, stored)

    def submit_timing(self, settings: TimingSettings) -> Job:
        """As `submit`, for the speed of a sparse model beside its dense one."""
        self._access.require_records(settings.dense, settings.sparse)
        return self._submit_small("timing", settings, self._store.has(Timing, settings.key()))

    def submit_export(self, settings: ExportSettings) -> Job:
        """As `submit`, for the files of one sparse model."""
        self._access.require_records(settings.dense, settings.sparse)
        self._access.require_run(settings.run)
        if settings.dense_gguf:
            self._access.require_path(settings.dense_gguf)
        with self._room_for(settings):
            return self._submit_small("export", settings, self.exports.is_whole(settings.key()))

    @property
    def keeps_house(self) -> bool:
        """Whether the data folder is this visitor's to look into and to tidy."""
        return self._access.unlimited

    @property
    def housekeeping(self) -> Housekeeping:
        """What there is, and how it is deleted by kind, model or run. Raises AccessError unless `keeps_house`."""
        if not self.keeps_house:
            raise AccessError("Only an administrator looks into the data folder.", "Your own runs are on their page.")
        return self._housekeeping

    def submit_verification(self) -> Job:
        """The live job that reads everything that carries a checksum, or a new one. Raises AccessError likewise."""
        assert self.housekeeping
        return self._submit_small("verify", VerifySettings(), stored=False)

    def job(self, job_id: int) -> Job:
        """The job as it is now. Raises JobError when there is none."""
        self._try_to_reconcile()
        job = self._table.get(job_id)
        self._access.require_job(job)
        return job

    def jobs(self, limit: int = 50) -> tuple[Job, ...]:
        """The newest jobs as they are now, newest first."""
        self._try_to_reconcile()
        return self._table.list(limit, "" if self._access.sees_all else self._access.visitor)

    def cancel(self, job_id: int) -> Job:
        """Ask a job to stop. One that waits is cancelled at once; one that has ended stays as it is."""
        self._access.require_to_stop(self._table.get(job_id))
        job = self._table.request_cancel(job_id)
        self._try_to_reconcile()
        return job

    def retry(self, job_id: int) -> Job:
        """Queue a job that ended early again. Returns another job when one with these settings is live, or when a file
        that it reads has changed since.

        Raises JobError when the job is done.
        """
        job = self._table.get(job_id)
        self._access.require_job(job)
        if job.makes_run and not job.live and job.state != "done":
            settings = run_or_find_settings(job.kind, job.settings)
            self._access.require_references(settings)
            if settings.key(fingerprints(settings)) != job.key:
                return self.submit(settings)
        with self._room_for(settings_from_plain(ExportSettings, job.settings) if job.kind == "export" else None):
            job = self._table.retry(job_id, self._access.visitor, self._access.most_jobs)
        self._try_to_reconcile()
        return job

    def move(self, job_id: int, to: Move) -> Job:
        """Put a waiting job elsewhere in the queue. Raises JobError when it does not wait (any more)."""
        self._access.require_order(self._table.get(job_id), to)
        return self._table.move(job_id, to)

    def prioritise(self, job_id: int, priority: Priority) -> Job:
        """Make a waiting run more or less urgent. Raises JobError when it does not wait (any more), or is a prompt."""
        self._access.require_order(self._table.get(job_id), priority)
        return self._table.prioritise(job_id, priority)

    def orders_queue(self) -> bool:
        """Whether the visitor may put jobs before those of others."""
        return self._access.unlimited

    def queue_position(self, job_id: int) -> int | None:
        """1 for the job that is taken next; None when it does not wait."""
        return self._table.position(job_id)

    def queue(self) -> tuple[Job, ...]:
        """The jobs that wait, in the order in which they will be taken."""
        return tuple(job for job in self._table.queue() if self._access.sees_job(job))

    def log_tail(self, job_id: int, n: int = 40) -> str:
        """The last n lines of the job's log."""
        job = self._table.get(job_id)
        self._access.require_job(job)
        return "\n".join(last_log_lines(Path(job.log_path), n))

    def runs(self) -> list[Run]:
        """Every run that has a result, newest first."""
        asked = None if self._access.sees_all else self._access.owners.things(self._access.visitor)
        runs = [self._any_run(key) for key in self._store.keys(Run) if asked is None or key in asked]
        return sorted((run for run in runs if run), key=lambda run: run.started_at, reverse=True)

    def run(self, key: str) -> Run | None:
        """The run as far as it is, or None."""
        return self._any_run(key) if self._access.sees(key) else None

    def example(self) -> Run | None:
        """The finished run that ships with the program; `runs` does not name it."""
        return choices.example_result(Run, choices.EXAMPLE)

    def search(self, key: str) -> FindResult | None:
        """What a search has found as far as it is, or None. key: of its run."""
        return self._kept(FindResult, key) if self._access.sees(key) else None

    def record(self, key: str) -> Record | None:
        """The record, or None."""
        return self._kept(Record, key) if self._access.sees_records(key) else None

    def why_missing(self, key: str, kind: type[Record] | type[Run] = Record) -> str:
        """Why there is no such record, or run, as the end of a sentence."""
        sees = self._access.sees if kind is Run else self._access.sees_records
        return self._store.why_missing(kind, key) if sees(key) else "is no longer stored"  # type: ignore[type-var]

    def damaged_runs(self) -> list[str]:
        """The keys of runs whose own entries were damaged and set aside, so that `runs` does not name them."""
        return [key for key in self._store.damaged_keys(Run) if self._access.sees(key)]

    def passages(self, key: str) -> Passages | None:
        """The texts that records answer, or None."""
        return self._kept(Passages, key) if self._access.sees_passages(key) else None

    def continuation(self, key: str) -> Continuation | None:
        """What two models wrote, or None."""
        return self._kept(Continuation, key) if self._access.sees(key) else None

    def divergence(self, key: str) -> Divergence | None:
        """How far two models are apart over a text, or None."""
        return self._kept(Divergence, key) if self._access.sees(key) else None

    def timing(self, key: str) -> Timing | None:
        """How fast a sparse model is beside its dense one, or None."""
        return self._kept(Timing, key) if self._access.sees(key) else None

    def model_shape(self, identity: str) -> ModelShape | None:
        """The sizes of the dense model with this identity; None where it was not loaded since they are noted."""
        return shape_from_plain(self._store.recall(store_keys.model_shape_note(identity)) or "")

    def newest_job(self, key: str) -> Job | None:
        """The newest job with this key as it is now, or None."""
        self._try_to_reconcile()
        job = self._table.newest(key)
        return job if job is not None and self._access.sees_job(job) else None

    def cached(self, settings: RunSettings) -> Cached:
        """Which parts of this run are stored and need not be computed again."""
        return preflight.stored_parts(settings, self._store)

    def reference_problem(self, field: ReferenceField, reference: str) -> Problem | None:
        """Why what this field of a form names cannot be used, or None; cheap, since it looks at no result."""
        refused = self._access.reference_problem(field, reference)
        return refused or request_checks.reference_problem(field, reference, self.data_dir)

    def preflight(self, asked: RunSettings | FindSettings) -> Preflight:
        """What the run or the search will take, about, and why it cannot start if it cannot."""
        settings = planned_run(asked)
        if refused := self._access.reference_problems(settings):
            # What may not be read is not looked at either.
            return preflight.refused_preflight(settings, refused)
        stored, counted = self.cached(settings), self._counted(settings)
        memory = preflight.expected_memory(settings, self._store, counted)
        return Preflight(
            stored=stored,
            duration=preflight.expected_duration(
                settings,
                stored,
                self.runs(),
                self.record,
                self._speed.known(),
                start_s=self._start_s(ready=True),
                counted=counted,
            ),
            memory=memory,
            disk=preflight.expected_disk(settings, self._store, counted, memory),
            problems=request_checks.run_problems(settings, self.data_dir),
        )

    def forecast(self, job: Job) -> Forecast | None:
        """What a run was expected to take when it was asked for; None where that was not kept."""
        return preflight.forecast_from_plain(self._store.recall(store_keys.forecast_note(job.key)))

    def expected_seconds(self, settings: RunSettings) -> dict[Stage, float | None]:
        """Seconds of each stage of a run, for one model, as measured here or counted; None where neither can be.

        start: of a worker that has to load the engine first.
        """
        speeds, counted = self._speed.known(), self._counted(settings)
        found = expected_seconds(settings, self.runs(), self.record, speeds, counted=counted)
        return {"start": self._start_s(), **found}

    def drop_upload(self, reference: str) -> None:
        """Delete an uploaded text. Raises CorpusError while a job that waits or runs reads it."""
        self.uploads.drop(reference, {t for j in self._live() for t in texts_read(j.settings, self._any_record)})

    def left_alone(self) -> tuple[NewerError, ...]:
        """What was asked for and is there, but in a newer version's form: it is shown nowhere and stays as it is."""
        return tuple(self._left_alone.values())

    def reconcile(self) -> None:
        """Reconcile the job table: mark crashed jobs, stop cancelled ones, start workers.

        Cheap; to be called about once a second.
        """
        self._runner.reconcile()

    def cluster(self) -> ClusterView | None:
        """The scheduler and its machines as they were a moment ago; None where no scheduler is named.

        None as well for who may not see whatever runs there.
        """
        return None if self._cluster is None or not self._access.unlimited else self._cluster.view()

    def worker_trouble(self) -> str:
        """Which worker of this machine may hang although jobs wait, and what to do; empty where none does.

        For administrators: others cannot do it.
        """
        return self._runner.trouble() if self._access.unlimited else ""

    def expect_work(self) -> None:
        """Have a worker ready by the time that a visitor, who is about to, starts something. Returns at once."""
        self._runner.prepare()

    def health(self) -> dict[str, object]:
        """Plain facts for a monitor. Raises StoreError when results or jobs cannot be read, or the disk has no room."""
        require_job_room(self.data_dir)
        self._store.recall(store_keys.health_note())
        return {
            "status": "ok",
            "version": sparsedash.__version__,
            "running": len(self._table.running()),
            "queued": len(self._table.queue()),
        }

    def close(self) -> None:
        """Close the files and leave the workers to themselves."""
        self._runner.let_go()
        if self._cluster is not None:
            self._cluster.let_go()
        self._speed.close()
        self._table.close()
        self._store.close()

    def is_measuring(self) -> bool:
        """Whether it is being measured how fast this machine is, so that more will be known of a run's time soon."""
        return self._speed.is_measuring()

    def named_model(self, reference: str) -> NamedModel | None:
        """Family and sizes of a model as soon as it is named; None where nothing of it is on this machine."""
        if self._access.reference_problem("model", reference):
            return None
        return named_model(reference, self._store)

    def fetch_config(self, reference: str) -> None:
        """Ask the hub for a model's config, so that `named_model` knows its sizes. Raises ModelError, AccessError."""
        self._access.require_reference("model", reference)
        fetch_config(reference, with_token=self._access.unlimited)

    def _counted(self, settings: RunSettings) -> Dimensions | None:
        named = self.named_model(settings.model)
        return None if named is None else named.counted

    def _start_s(self, *, ready: bool = False) -> float:
        """Seconds until a worker has the engine, as the last ones took. ready: nothing where there is a worker."""
        if ready and self._runner.has_worker():
            return 0.0
        taken = [job.taken[0] for job in self._table.list(_LOOKED_AT) if job.taken]
        started = [first.seconds for first in taken if first.stage == "start" and first.seconds >= _COLD_S]
        return max(started[:_LAST_STARTS], default=START_S)

    def _try_to_reconcile(self) -> None:
        """What was asked for is done or shown all the same; the server tries again in a second, and says why not."""
        try:
            self.reconcile()
        except StoreError as error:
            log.warning("Jobs cannot be reconciled: %s", error)

    def _live(self) -> tuple[Job, ...]:
        return (*self._table.running(), *self._table.queue())

    def _room_for(self, asked: ExportSettings | None) -> AbstractContextManager[None]:
        """Held while an export is put into the queue, where the visitor has a quota. asked: None for another job."""
        return self.exports.room_for(asked) if asked and isinstance(self.exports, OwnExports) else nullcontext()

    def _submit_small(self, kind: JobKind, settings: _Small, stored: bool) -> Job:
        newest = self._table.newest(settings.key())
        if newest is not None and newest.state == "done" and stored:
            self._access.owners.add(settings.key(), self._access.visitor)
            return newest
        job = self._table.submit(kind, settings.key(), asdict(settings), self._access.visitor, self._access.most_jobs)
        self._try_to_reconcile()
        return job

    def _is_whole(self, key: str) -> bool:
        run = self._any_run(key)
        return (
            run is not None and run.finished and all(self._store.has(Record, each) for each in (run.dense, *run.sparse))
        )

    def _any_run(self, key: str) -> Run | None:
        return self._kept(Run, key)

    def _any_record(self, key: str) -> Record | None:
        return self._kept(Record, key)

    def _kept(self, kind: type[R], key: str) -> R | None:
        if choices.is_example(key):
            return choices.example_result(kind, key)
        known = self._recent.get((kind, key))
        if isinstance(known, kind):
            return known
        try:
            found = self._store.get(kind, key)
        except NewerError as error:
            self._left_alone[kind, key] = error
            return None
        if found is not None and _is_final(found):
            self._recent.put((kind, key), found)
        return found


class _Recent:
    """The records read last, as many as have `budget` passages between them. They never change once they are whole."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[tuple[type, str], object] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, name: tuple[type, str]) -> object:
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def drop(self, kind: type, key: str) -> None:
        with self._lock:
            self._weight -= _weight(self._kept.pop((kind, key), None))

    def put(self, name: tuple[type, str], value: object) -> None:
        with self._lock:
            self._weight += _weight(value) - _weight(self._kept.pop(name, None))
            self._kept[name] = value
            while self._weight > self._budget and len(self._kept) > 1:
                self._weight -= _weight(self._kept.popitem(last=False)[1])


def _nowhere_else(_job: Job) -> bool:
    return False


def _is_final(found: object) -> bool:
    """Whether this will never be replaced under its key: runs grow, and what was stopped may be written again."""
    match found:
        case Run() | FindResult():
            return found.finished
        case Continuation():
            return not found.stopped
        case _:
            return True


def _weight(value: object) -> int:
    match value:
        case None:
            return 0
        case Record():
            return len(value.outcomes)
        case Passages():
            return len(value.indices)
        case _:
            return 1
