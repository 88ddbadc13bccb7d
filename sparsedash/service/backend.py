"""The backend of the pages: jobs and stored results with the rights of one user; no engine."""

import logging
from collections.abc import Callable
from copy import copy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sparsedash.catalog.choices import example_key, is_example
from sparsedash.catalog.cost_model import Workload
from sparsedash.catalog.model_sizes import listed_shape
from sparsedash.jobs.cluster_parts import ClusterView
from sparsedash.jobs.job import CLUSTER, Job, JobKind, Move, Priority
from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.local_runner import LocalRunner, log_tail
from sparsedash.schema import __version__, pair_records, store_keys
from sparsedash.schema.errors import AccessError, JobError, StoreError
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.find_settings import (
    FindResult,
    FindSettings,
    planned_run,
    run_or_find_settings,
)
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.records import Passages, R, Record, Run, VerifySettings
from sparsedash.schema.settings import Dtype, RunSettings, settings_from_plain
from sparsedash.service import estimates, preflight, request_checks, run_checks
from sparsedash.service.answer_cache import AnswerCache
from sparsedash.service.cluster_runner import cluster_runner
from sparsedash.service.deletion import Housekeeping, live_jobs
from sparsedash.service.estimates import START_S, Cached, RunPart
from sparsedash.service.hub_revisions import newer_revisions, pinned
from sparsedash.service.machine_speed import MachineSpeed
from sparsedash.service.model_lookup import (
    NamedModel,
    fetch_config,
    inspect_config,
    named_model,
)
from sparsedash.service.preflight import Preflight
from sparsedash.service.request_checks import Access, ReferenceField
from sparsedash.service.run_checks import RequestRules
from sparsedash.service.stored_results import (
    ResultCache,
    VerdictCache,
    joined_continuation,
)
from sparsedash.service.user_files import Exports, UserUploads
from sparsedash.storage.derived_notes import note_derived, recalled
from sparsedash.storage.file_hashes import file_hashes_of
from sparsedash.storage.hub_reach import HubReach
from sparsedash.storage.local_machine import (
    is_overloaded,
    local_path,
    multiplies_bfloat16,
    path_kind,
    require_job_room,
)
from sparsedash.storage.model_folders import gguf_path
from sparsedash.storage.run_files import keep_run, read_run_file, run_file
from sparsedash.storage.serving import LOCAL, Serving
from sparsedash.storage.shape_notes import known_shape
from sparsedash.storage.store import WORK_LOCK_TIMEOUT_S, Store
from sparsedash.storage.text_files import Uploads, texts_read
from sparsedash.storage.users import UserData

log = logging.getLogger(__name__)

Request = (
    RunSettings
    | FindSettings
    | pair_records.ContinuationSettings
    | pair_records.DivergenceSettings
    | pair_records.TimingSettings
    | ExportSettings
    | VerifySettings
)
"""Settings of a job of any kind."""

_KINDS: dict[type[Request], tuple[JobKind, type[Any] | None]] = {
    RunSettings: ("run", None),
    FindSettings: ("find", None),
    pair_records.ContinuationSettings: ("continuation", pair_records.Continuation),
    pair_records.DivergenceSettings: ("divergence", pair_records.Divergence),
    pair_records.TimingSettings: ("timing", pair_records.Timing),
    ExportSettings: ("export", None),
    VerifySettings: ("verify", None),
}
"""The kind of job of each kind of settings, and the class of its result where one entry is all."""

_LOOKED_AT = 50
_LAST_STARTS = 3
"""Jobs that are looked at for how long a start takes, and starts that count."""
_COLD_S = 1.0
"""A start that took less found the engine loaded."""
_FASTER = 1.5
"""Speed-up of matrix products from which bfloat16 is used for a first look."""


class Backend:
    """One data folder with its results, its job table and its workers. Thread-safe.

    data_dir: made when it is not there. Every method may raise StoreError while it cannot be used.
    A new backend has the rights of the local user; `seen_by` gives one those of a server's user.
    user_data: prompts, choices and run names. verdict_cache, answers, exports, uploads,
    housekeeping: see their classes.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = local_path(data_dir).absolute()
        self._store = Store(self.data_dir)
        self._store.tidy()
        self._table = JobTable(self.data_dir / "jobs.sqlite")
        self._results = ResultCache(self._store)
        self.answers = AnswerCache(self._store)
        self.verdict_cache = VerdictCache(self._store, answers=self.answers)
        # What its machines send is kept while a connection is in use: not that of the pages.
        self._cluster_table = JobTable(
            self.data_dir / "jobs.sqlite", WORK_LOCK_TIMEOUT_S
        )
        self._cluster = cluster_runner(self.data_dir, self._cluster_table, self._store)
        elsewhere = self._cluster.takes if self._cluster else lambda job: False
        self._runner = LocalRunner(self.data_dir, self._table, elsewhere=elsewhere)
        self._speed = MachineSpeed(self._store, self._works_here)
        self._hub = HubReach()
        self._all_uploads = Uploads(self.data_dir)
        self._set_user(LOCAL, None)
        if self._cluster is not None:
            # Before a worker of this machine takes a run that waits for the cluster.
            self._cluster.start()
        self._try_to_reconcile()

    def _works_here(self) -> bool:
        return any(job.worker != CLUSTER for job in self._table.running())

    def seen_by(self, user: str, rules: Serving) -> "Backend":
        """The same backend with the rights of one user of a server, see `Access`."""
        backend = copy(self)
        backend._set_user(user, rules)
        return backend

    def _set_user(self, user: str, rules: Serving | None) -> None:
        store = self._store
        table = self._table
        access = Access(table.owners, self._results, user, rules)
        self._access = access
        self.user_data = UserData(store, user)
        self.exports = Exports(
            store, self._all_uploads, access, lambda: live_jobs(table)
        )
        self.uploads = UserUploads(
            self._all_uploads, self.exports, access, self._texts_in_use
        )
        self.housekeeping = Housekeeping(
            store,
            table,
            self._results,
            self.verdict_cache,
            (self.exports, self.uploads),
            access,
        )

    def submit(self, request: Request) -> Job:
        """The job for these settings: a done one whose results are stored, the live one, or a new one.

        Raises AccessError for what the user may not read or do, and JobError beyond their quota,
        likewise below; and for a run that cannot start.
        """
        self._require(request)
        forecast = None
        if isinstance(request, RunSettings | FindSettings):
            forecast = self.preflight(request)
            if forecast.problems:
                raise JobError(forecast.problems[0])
            request = pinned(
                request, self._store, self._hub, with_token=self._access.unlimited
            )
        kind, _ = _KINDS[type(request)]
        key = self._key(request)
        with self.exports.room_for(request):
            newest = self._table.newest(key)
            if (
                newest is not None
                and newest.state == "done"
                and self._is_stored(request, key)
            ):
                self._access.owners.add(key, self._access.user)
                return newest
            job = self._table.submit(
                kind, key, asdict(request), self._access.user, self._access.most_jobs
            )
        if forecast is not None and job.state == "queued":
            note_derived(self._store, store_keys.forecast_note(key), asdict(forecast))
        self._try_to_reconcile()
        return job

    def retry(self, job_id: int) -> Job:
        """Queue a job that ended early again, and return it.

        Instead the live job with these settings where there is one, and a new one where a file
        that the job reads has changed. Raises JobError when the job is done.
        """
        job = self.job(job_id)
        request: Request | None = None
        if job.makes_run and not job.live and job.state != "done":
            request = run_or_find_settings(job.kind, job.settings)
            self._require(request)
            if self._key(request) != job.key:
                return self.submit(request)
        elif job.kind == "export":
            request = settings_from_plain(ExportSettings, job.settings)
            self._require(request)
        elif job.kind == "verify":
            self._access.require_folder_access()
        with self.exports.room_for(request):
            job = self._table.retry(job_id, self._access.user, self._access.most_jobs)
        self._try_to_reconcile()
        return job

    def may_stop(self, job: Job) -> bool:
        """Whether the user may cancel the job, move it and change its priority."""
        return self._access.may_stop(job)

    def cancel(self, job_id: int) -> Job:
        """Ask a job to stop; a waiting one is cancelled at once. One that has ended stays as it is."""
        self._access.require_to_stop(self._table.get(job_id))
        job = self._table.request_cancel(job_id)
        self._try_to_reconcile()
        return job

    def move(self, job_id: int, to: Move) -> Job:
        """Move a waiting job in the queue. Raises JobError when it does not wait (any more)."""
        self._access.require_order(self._table.get(job_id), to)
        return self._table.move(job_id, to)

    def prioritise(self, job_id: int, priority: Priority) -> Job:
        """Change the priority of a waiting run. Raises JobError for a prompt, or if it does not wait."""
        self._access.require_order(self._table.get(job_id), priority)
        return self._table.prioritise(job_id, priority)

    def job(self, job_id: int) -> Job:
        """The job as it is now. Raises JobError when there is none."""
        self._try_to_reconcile()
        job = self._table.get(job_id)
        self._access.require_job(job)
        return job

    def jobs(self, limit: int = 50) -> tuple[Job, ...]:
        """The newest jobs as they are now, newest first."""
        self._try_to_reconcile()
        owner = "" if self._access.sees_all else self._access.user
        return tuple(
            filter(self._access.sees_job, self._table.newest_jobs(limit, owner))
        )

    def newest_job(self, key: str) -> Job | None:
        """The newest job with this key as it is now, or None."""
        self._try_to_reconcile()
        job = self._table.newest(key)
        return job if job is not None and self._access.sees_job(job) else None

    def queue(self) -> tuple[Job, ...]:
        """The waiting jobs, in the order in which they will be taken."""
        return tuple(filter(self._access.sees_job, self._table.queue()))

    def queue_position(self, job_id: int) -> int | None:
        """1 for the job that is taken next; None when it does not wait."""
        return self._table.position(job_id)

    def log_tail(self, job_id: int, n: int = 40) -> str:
        """The last n lines of the job's log."""
        job = self._table.get(job_id)
        self._access.require_job(job)
        return log_tail(Path(job.log_path), n)

    def result(self, kind: type[R], key: str) -> R | None:
        """The result of this kind with the key of its job, or None."""
        return self._results.get(kind, key) if self._access.sees(key) else None

    def runs(self) -> list[Run]:
        """Every run that has a result, newest first."""
        return self._results.runs(
            None if self._access.sees_all else self._access.owned()
        )

    def run(self, key: str) -> Run | None:
        """The run so far, or None; also the shipped EXAMPLE, which `runs` does not list."""
        return self.result(Run, key)

    def search(self, key: str) -> FindResult | None:
        """Result of a search so far, or None. key: of its run."""
        return self.result(FindResult, key)

    def record(self, key: str) -> Record | None:
        """The record, or None."""
        return self._results.record(key) if self._access.sees_results(key) else None

    def passages(self, key: str) -> Passages | None:
        """The texts that records answer, or None."""
        return (
            self._results.get(Passages, key) if self._access.sees_results(key) else None
        )

    def continuation(
        self, request: pair_records.ContinuationSettings
    ) -> pair_records.Continuation | None:
        """Continuations by these models, on request or in their runs, or None."""
        requested = self.result(pair_records.Continuation, request.key())
        records = request.left, request.right, *request.others
        if requested is not None or not self._access.sees_results(*records):
            return requested
        return joined_continuation(request, self._written_in_run)

    def first_texts(
        self, key: str, settings: RunSettings
    ) -> tuple[pair_records.PromptTexts, ...]:
        """Continuations by dense and the first sparse model of a run, as soon as they are made.

        key: of the run.
        """
        return (
            preflight.first_texts(settings, self._store)
            if self._access.sees(key)
            else ()
        )

    def _written_in_run(
        self, request: pair_records.ContinuationSettings
    ) -> pair_records.Continuation | None:
        key = request.key()
        if is_example(request.left):
            key = example_key(key)
        return self._results.get(pair_records.Continuation, key)

    def why_missing(self, key: str, kind: type[Record] | type[Run] = Record) -> str:
        """The reason there is no such record, or run, as the end of a sentence."""
        sees = self._access.sees if kind is Run else self._access.sees_results
        return (
            self._store.why_missing(kind, key) if sees(key) else "is no longer stored"
        )

    def written_at(self, key: str) -> float | None:
        """Time at which the record with this key was written; None if the user sees none."""
        return (
            self._store.written_at(Record, key)
            if self._access.sees_results(key)
            else None
        )

    def pack_run(self, key: str) -> bytes:
        """A finished run as a file. Raises JobError where it has not finished, or was deleted."""
        run = self.run(key)
        if run is None or not run.finished:
            raise JobError(
                "This run has not finished.", "Wait for it, or start it again."
            )
        return run_file(run, self._store)

    def open_run(self, data: bytes) -> Run:
        """Store the run of such a file and return it; a stored run is not replaced.

        For administrators: made-up results would be everybody's. Raises StoreError for another or a
        changed file.
        """
        self._access.require_administrator(
            "opens files of runs", "Ask for the run yourself."
        )
        return keep_run(read_run_file(data), self._store)

    def offered_tasks(self) -> list[str]:
        """Tasks that the form suggests; none where lm-evaluation-harness is not installed."""
        return self._access.offered_tasks()

    def open_answers(self, name: str, content: bytes) -> list[str]:
        """The keys of the models in a file of answers, kept for `answers`. For administrators.

        Raises CorpusError and StoreError.
        """
        self._access.require_administrator(
            "opens files of answers", "Ask for their address."
        )
        return self.answers.keep(name, content)

    def damaged_runs(self) -> list[str]:
        """The keys of runs that `runs` does not list, since their entries were damaged."""
        return [key for key in self._store.damaged_keys(Run) if self._access.sees(key)]

    def model_shape(self, record: Record) -> ModelShape | None:
        """The sizes of a record's dense model; None where it is neither known nor in the catalog."""
        return known_shape(self._store, record.model_identity) or listed_shape(
            record.model
        )

    def source_bytes(self, run: Run) -> int:
        """Bytes of the quantised GGUF file that a run's model was unpacked from; 0 where it comes
        from none, or the file is gone.
        """
        file = gguf_path(run.settings.model) if run.source_type else None
        if file is None or path_kind(file) != "file":
            return 0
        return file.stat().st_size

    @property
    def sees_all(self) -> bool:
        """Whether the user sees what others asked for."""
        return self._access.sees_all

    @property
    def administers(self) -> bool:
        """Whether the user may look into the data folder, and put jobs before those of others."""
        return self._access.unlimited

    def cached(self, settings: RunSettings) -> Cached:
        """Which parts of this run are stored and need not be computed again."""
        return preflight.stored_parts(settings, self._store)

    def reference_problem(self, field: ReferenceField, reference: str) -> str:
        """The reason a reference in this field of a form cannot be used, or nothing."""
        refused = self._access.reference_problem(field, reference)
        return refused or request_checks.reference_problem(
            field, reference, self.data_dir
        )

    def lacks_text(self, reference: str) -> bool:
        """Whether this text of the hub was never read here, while the hub does not answer."""
        return run_checks.lacks_text(reference, self._store, self._hub)

    @property
    def request_rules(self) -> RequestRules:
        """The rules for the user's requests."""
        return RequestRules(
            lacks=self.lacks_text,
            n_passages=self._count_passages,
            problems=self._request_problems,
        )

    def _count_passages(self, reference: str) -> int | None:
        """As `count_passages`; 0 of what the user may not read."""
        if self._access.reference_problem("evaluation text", reference):
            return 0
        return run_checks.count_passages(reference, self.data_dir)

    def _refusals(self, settings: RunSettings) -> tuple[str, ...]:
        """The reasons the user may not use references in a run's settings."""
        references = self._access.reference_problems(
            *run_checks.named_references(settings)
        )
        return *references, *self._access.tasks_problems(settings.evaluation.tasks)

    def _request_problems(self, request: RunSettings | FindSettings) -> tuple[str, ...]:
        """The reasons a run or a search cannot start, without estimates."""
        settings = planned_run(request)
        return self._refusals(settings) or run_checks.run_problems(
            request, self.data_dir, self.named_model(settings.model)
        )

    def preflight(self, request: RunSettings | FindSettings) -> Preflight:
        """Time, memory and disk of a run or a search, and why it cannot start if it cannot."""
        settings = planned_run(request)
        if refusals := self._refusals(settings):
            # What may not be read is not looked at either.
            return Preflight(problems=refusals)
        stored = self.cached(settings)
        named = self.named_model(settings.model)
        shape = named.shape if named else None
        memory, disk = preflight.expected_room(settings, self._store, shape)
        problems = run_checks.run_problems(request, self.data_dir, named)
        unstored = [
            spec
            for place, spec in enumerate(settings.points)
            if place not in stored.points
        ]
        too_large = run_checks.room_problem(
            settings, unstored, shape, self._store.artefact_room
        )
        return Preflight(
            stored=stored,
            duration=estimates.run_duration(
                self._parts(settings, stored, is_ready=True)
            ),
            memory=memory,
            disk=disk,
            problems=(*problems, too_large) if too_large else problems,
        )

    def forecast(self, job: Job) -> Preflight | None:
        """What a run was expected to take when it was asked for; None where that was not kept."""
        return recalled(self._store, store_keys.forecast_note(job.key), Preflight)

    def expected_parts(self, settings: RunSettings, stored: Cached) -> list[RunPart]:
        """The parts of a run that are not stored, in order, begun by a worker without an engine."""
        return self._parts(settings, stored, is_ready=False)

    def healing_steps(self, minutes: float, settings: RunSettings) -> int:
        """Steps of healing that take about so many minutes here. Raises JobError where that is not
        known yet.
        """
        return estimates.healing_steps(
            minutes, settings, self.runs(), self._workloads(settings)
        )

    def is_busy(self) -> bool:
        """Whether the machine has more to do than it can, so that a run takes longer."""
        return is_overloaded()

    def is_measuring(self) -> bool:
        """Whether the speed of this machine is being measured, so that estimates come soon."""
        return self._speed.is_measuring()

    def named_model(self, reference: str) -> NamedModel | None:
        """Family and sizes of a named model; None where nothing of it is on this machine."""
        if self._access.reference_problem("model", reference):
            return None
        return named_model(reference, self._store)

    def fetch_config(self, reference: str) -> None:
        """Fetch a hub model's config for `named_model`. Raises ModelError, AccessError."""
        self._access.require_allowed(("model", reference))
        fetch_config(reference, with_token=self._access.unlimited)

    def inspect_config(self, reference: str) -> None:
        """Find out the structure of a model whose config is here, for `named_model`; some seconds."""
        if not self._access.reference_problem("model", reference):
            inspect_config(reference, self._store)

    def newer_revisions(self, run: Run) -> dict[str, str]:
        """The names on the hub that a run read and that have moved since, with the new commit."""
        return newer_revisions(run, self._store)

    def cluster(self) -> ClusterView | None:
        """The scheduler and its machines a moment ago; None without one, or for other users."""
        return (
            None
            if self._cluster is None or not self._access.unlimited
            else self._cluster.view()
        )

    def reconcile(self) -> bool:
        """Mark crashed jobs, stop cancelled ones, start workers. Cheap: call it once a second.

        Returns False without doing so while another call does.
        """
        return self._runner.reconcile()

    def fastest_dtype(self) -> Dtype:
        """bfloat16 where this machine multiplies clearly faster in it, as measured, or until then by
        its processor; else float32.
        """
        speeds = self._speed.known()
        if speeds is None:
            return "bfloat16" if multiplies_bfloat16() else "float32"
        return "bfloat16" if speeds.bfloat16 > _FASTER * speeds.float32 else "float32"

    def expect_work(self) -> None:
        """Have a worker ready by the time that the user starts something. Returns at once."""
        self._runner.prepare()

    def health(self) -> dict[str, object]:
        """Plain facts for a monitor. Raises StoreError where the data folder cannot be used."""
        require_job_room(self.data_dir)
        self._store.recall(store_keys.health_note())
        return {
            "status": "ok",
            "version": __version__,
            "running": len(self._table.running()),
            "queued": len(self._table.queue()),
        }

    def close(self) -> None:
        """Close the files and leave the workers to themselves."""
        self._runner.close()
        if self._cluster is not None:
            self._cluster.close()
        self._speed.close()
        self._cluster_table.close()
        self._table.close()
        self._store.close()

    def _require(self, request: Request) -> None:
        """Raises AccessError for what the user may not read or do."""
        match request:
            case RunSettings() | FindSettings():
                self._access.require_allowed(*run_checks.named_references(request))
                for problem in self._access.tasks_problems(request.evaluation.tasks):
                    raise AccessError(problem)
            case VerifySettings():
                self._access.require_folder_access()
            case ExportSettings():
                self._access.require_records(
                    request.dense, request.sparse, run=request.run
                )
                if request.dense_gguf:
                    self._access.require_path(request.dense_gguf)
            case _:
                self._access.require_records(
                    *pair_records.records_read(asdict(request))
                )

    def _key(self, request: Request) -> str:
        """The name of a request. Local files that have changed are read for it."""
        if isinstance(request, RunSettings | FindSettings):
            return request.key(file_hashes_of(request, self._store))
        return request.key()

    def _is_stored(self, request: Request, key: str) -> bool:
        """Whether the result of a job with this key is stored."""
        kind, result = _KINDS[type(request)]
        if result is not None:
            return self._store.has(result, key)
        if kind == "export":
            return self.exports.is_whole(key)
        return kind != "verify" and self._results.is_complete(key)

    def _texts_in_use(self) -> set[str]:
        texts = set[str]()
        for job in live_jobs(self._table):
            texts.update(texts_read(job.settings, self._results.record))
        return texts

    def _parts(
        self, settings: RunSettings, stored: Cached, *, is_ready: bool
    ) -> list[RunPart]:
        """is_ready: a waiting worker counts, which has the engine already."""
        start_s = 0.0 if is_ready and self._runner.has_worker() else self._start_s()
        workloads = self._workloads(settings)
        return estimates.expected_parts(
            settings, stored, self.runs(), workloads, start_s
        )

    def _workloads(
        self, settings: RunSettings
    ) -> Callable[[RunSettings], Workload | None]:
        """Describes the work of runs of this model on this machine."""
        named = self.named_model(settings.model)
        return partial(
            estimates.run_workload,
            shape=named.shape if named else None,
            speeds=self._speed.known(),
            data_dir=self.data_dir,
        )

    def _start_s(self) -> float:
        """Seconds until a worker has the engine, as the last ones took."""
        starts = []
        for job in self._table.newest_jobs(_LOOKED_AT):
            if job.progress.stage_times:
                stage, _, seconds = job.progress.stage_times[0]
                if stage == "start" and seconds >= _COLD_S:
                    starts.append(seconds)
        return max(starts[:_LAST_STARTS], default=START_S)

    def _try_to_reconcile(self) -> None:
        """As `reconcile`; on an error the server tries again in a second, and says why."""
        try:
            self.reconcile()
        except StoreError as error:
            log.warning("Jobs cannot be reconciled: %s", error)
