"""A backend of plain dictionaries, with the verbs the pages use and nothing behind them."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from sparsedash.catalog.families import FORMS, form_problem
from sparsedash.catalog.model_shape import ModelShape, shipped_shape
from sparsedash.jobs.cluster_parts import ClusterView
from sparsedash.jobs.job import Job, JobState, Move, Priority, queue_order
from sparsedash.schema.errors import JobError, ModelError
from sparsedash.schema.export_settings import Export, ExportSettings, Form
from sparsedash.schema.pair_records import (
    Continuation,
    ContinuationSettings,
    Divergence,
    DivergenceSettings,
    Timing,
    TimingSettings,
)
from sparsedash.schema.progress import STAGE_TITLES
from sparsedash.schema.records import Passages, Record, Run, Verification, VerifySettings
from sparsedash.schema.settings import FindResult, FindSettings, RunSettings
from sparsedash.service.deletion import ArtefactRoom, Cleanup, RunRemoval, Selection
from sparsedash.service.holdings import Holdings
from sparsedash.service.model_lookup import NamedModel
from sparsedash.service.preflight import Cached, Duration, Forecast, Memory, Preflight
from sparsedash.service.request_checks import Access, Problem, ReferenceField
from sparsedash.service.stored_results import ResultCache, RunCosts
from sparsedash.service.user_files import RunTransfer, UserUploads
from sparsedash.storage.text_files import Uploads
from sparsedash.storage.users import UserData
from tests.ui import specimens

KNOWN = Cached(calibration=True, dense=True, sparse=1, n_sparse=3)
BEFORE = Preflight(
    stored=KNOWN, duration=Duration(seconds=245.0), memory=Memory(measured_bytes=1_240_000_000), problems=()
)


KINDS = {
    RunSettings: "run",
    FindSettings: "find",
    ContinuationSettings: "continuation",
    DivergenceSettings: "divergence",
    TimingSettings: "timing",
    ExportSettings: "export",
    VerifySettings: "verify",
}
Asked = (
    RunSettings
    | FindSettings
    | ContinuationSettings
    | DivergenceSettings
    | TimingSettings
    | ExportSettings
    | VerifySettings
)


def job(settings: Asked, state: JobState = "running", **changes: object) -> Job:
    """A job half-way through its evaluation."""
    made = Job(
        id=1,
        kind=KINDS[type(settings)],
        key=settings.key(),
        settings=asdict(settings),
        state=state,
        stage="evaluate",
        done=1234,
        total=2880,
        unit="tokens",
        rate=412.3,
        message="20 % sparse",
        attempt=1,
        created_at=1_764_000_000.0,
        queued_at=1_764_000_000.0,
        started_at=None if state == "queued" else 1_764_000_001.0,
        finished_at=None if state in ("queued", "running") else 1_764_000_263.0,
        heartbeat_at=None,
        pid=4242,
        exit_code=None,
        cancel_requested_at=None,
        error_kind="",
        error_text="",
        error_advice="",
        worker="slot-0",
        log_path="",
    )
    return replace(made, **changes)


class FakeStore(dict):
    """The store under a backend: runs, records and texts as the test has put them there, and in its own rows the rest.

    Changed as the real store changes them.
    """

    def __init__(self, backend: "FakeBackend") -> None:
        super().__init__()
        self._backend = backend

    def get(self, kind, key):
        return self._rows(kind).get((kind, key))

    def keys(self, kind):
        return [key for of, key in self._rows(kind) if of is kind]

    def put(self, key, record):
        self[type(record), key] = record

    def change(self, kind, key, change):
        self.put(key, change(self.get(kind, key)))

    def drop(self, kind, key):
        self.pop((kind, key), None)
        self._backend.stored_runs[:] = [r for r in self._backend.stored_runs if (Run, r.key) != (kind, key)]
        for stored in (self._backend.stored_records, self._backend.stored_passages):
            if kind in {type(value) for value in stored.values()}:
                stored.pop(key, None)

    def recall(self, name):
        return self.get("note", name)

    def remember(self, name, text):
        self["note", name] = text

    def forget(self, name):
        self.pop(("note", name), None)

    def _rows(self, kind):
        stored = {run.key: run for run in self._backend.stored_runs} if kind is Run else {}
        stored |= self._backend.stored_records if kind is Record else {}
        return {**self, **{(kind, key): value for key, value in stored.items()}}


class LiveJobs:
    """What the removal of runs asks the job table, and of the owners, of whom there are none."""

    def __init__(self, backend: "FakeBackend") -> None:
        self._backend = backend

    def running(self):
        return tuple(job for job in self._backend.stored_jobs if job.state == "running")

    def queue(self):
        return self._backend.queue()

    def add(self, thing, owner):
        pass

    def forget(self, thing):
        pass

    def of_kinds(self, *kinds):
        return tuple(job for job in self._backend.stored_jobs if job.kind in kinds)


@dataclass(eq=False)
class FakeExports:
    """Exports that a test has put in; remembers which were deleted. outside: keys of those out of the data folder."""

    stored: list[Export] = field(default_factory=list)
    outside: set[str] = field(default_factory=set)
    dropped: list[str] = field(default_factory=list)
    family: str = "llama"

    def listed(self) -> list[Export]:
        return [export for export in self.stored if export.key not in self.dropped]

    def problems(self, record: Record) -> dict[Form, str]:
        return {form: form_problem(form, record.pruned, self.family) for form in FORMS}

    def is_ours(self, export: Export) -> bool:
        return export.key not in self.outside

    def drop(self, key: str) -> None:
        self.dropped.append(key)


NOTHING = Holdings(kinds={}, models=(), runs=(), free_bytes=50_000_000_000)


@dataclass(eq=False)
class FakeHousekeeping:
    """What a test says that the data folder holds; remembers what was deleted and how much was allowed.

    plan: of whatever is asked for.
    """

    held: Holdings = NOTHING
    allowed: ArtefactRoom = field(default_factory=lambda: ArtefactRoom(n_bytes=20 * 2**30, fixed=False))
    found: Verification | None = None
    plan: Cleanup = field(default_factory=lambda: Cleanup(removal=None, items=(), stays=(), n_bytes=0))
    removed: list[object] = field(default_factory=list)
    asked_for: list[float] = field(default_factory=list)

    def holdings(self) -> Holdings:
        return self.held

    def room(self) -> ArtefactRoom:
        return self.allowed

    def allow(self, gigabytes: float) -> None:
        self.asked_for.append(gigabytes)

    def verification(self) -> Verification | None:
        return self.found

    def plan_deletion(self, chosen: Selection) -> Cleanup:
        return self.plan

    def delete(self, chosen: Selection) -> Cleanup:
        self.removed.append(chosen)
        return self.plan


@dataclass(eq=False)
class FakeBackend:
    """Holds what a test put into it and remembers what the pages asked for."""

    data_dir: Path = Path("/nowhere")
    stored_runs: list[Run] = field(default_factory=list)
    stored_records: dict[str, Record] = field(default_factory=dict)
    stored_searches: dict[str, FindResult] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    trouble: str = ""
    stored_passages: dict[str, Passages] = field(default_factory=dict)
    stored_continuations: dict[str, Continuation] = field(default_factory=dict)
    stored_divergences: dict[str, Divergence] = field(default_factory=dict)
    stored_timings: dict[str, Timing] = field(default_factory=dict)
    shapes: dict[str, ModelShape] = field(default_factory=dict)
    stored_jobs: list[Job] = field(default_factory=list)
    stored_example: Run | None = None
    submitted: list[Asked] = field(default_factory=list)
    asked_about: list[RunSettings | FindSettings] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    retried: list[int] = field(default_factory=list)
    moved: list[tuple[int, Move]] = field(default_factory=list)
    prioritised: list[tuple[int, Priority]] = field(default_factory=list)
    exports: FakeExports = field(default_factory=FakeExports)
    housekeeping: FakeHousekeeping = field(default_factory=FakeHousekeeping)
    keeps_house: bool = True
    looked_up: list[str] = field(default_factory=list)
    hub_says: ModelError | None = None
    forecast_at_first: Forecast | None = None
    texts_in_use: set[str] = field(default_factory=set)
    before: Preflight = BEFORE
    named: NamedModel | None = None
    known_cluster: ClusterView | None = None
    expected: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(STAGE_TITLES))

    def __post_init__(self) -> None:
        store = FakeStore(self)
        self.user_data = UserData(store)
        self.costs = RunCosts(store)
        results, jobs = ResultCache(store), LiveJobs(self)
        self.access = Access(jobs, results)
        self.keep_uploads_in(Path("/nowhere"))
        self.transfer = RunTransfer(store, results, self.access)
        self.removal = RunRemoval(store, jobs, results, self.costs, self.access)

    def keep_uploads_in(self, folder: Path) -> None:
        """Have the uploads of this data folder."""
        self.uploads = UserUploads(Uploads(folder), self.exports, self.access, lambda: self.texts_in_use)

    def add_run(self, found: tuple[Run, list[Record]]) -> Run:
        """Put a run and its records in."""
        run, records = found
        self.stored_runs.insert(0, run)
        self.stored_records |= {record.key: record for record in records}
        self.stored_passages["passages"] = specimens.passages()
        return run

    def add_search(self, found: tuple[Run, list[Record], FindResult]) -> Run:
        """Put a search, its run and its records in."""
        run, records, result = found
        self.stored_searches[result.key] = result
        return self.add_run((run, records))

    def timing(self, key: str) -> Timing | None:
        return self.stored_timings.get(key)

    def model_shape(self, identity: str) -> ModelShape | None:
        return self.shapes.get(identity)

    def submit(self, settings: Asked) -> Job:
        self.submitted.append(settings)
        made = job(settings, "queued", id=len(self.stored_jobs) + 1, stage="", done=0, total=0, rate=None)
        self.stored_jobs.insert(0, made)
        return made

    def job(self, job_id: int) -> Job:
        for found in self.stored_jobs:
            if found.id == job_id:
                return found
        raise JobError(f"There is no job {job_id}.")

    def jobs(self, limit: int = 50) -> tuple[Job, ...]:
        return tuple(self.stored_jobs[:limit])

    def newest_job(self, key: str) -> Job | None:
        return next((found for found in self.stored_jobs if found.key == key), None)

    def cancel(self, job_id: int) -> None:
        self.cancelled.append(job_id)

    def retry(self, job_id: int) -> Job:
        self.retried.append(job_id)
        return self.job(job_id)

    def orders_queue(self) -> bool:
        return True

    def queue_position(self, job_id: int) -> int | None:
        waiting = [found.id for found in self._waiting()]
        return waiting.index(job_id) + 1 if job_id in waiting else None

    def queue(self) -> tuple[Job, ...]:
        return tuple(self._waiting())

    def _waiting(self) -> list[Job]:
        return sorted((found for found in self.stored_jobs if found.state == "queued"), key=queue_order)

    def move(self, job_id: int, to: Move) -> Job:
        if job_id not in [found.id for found in self._waiting()]:
            raise JobError(f"Job {job_id} cannot be moved.")
        self.moved.append((job_id, to))
        return self.job(job_id)

    def prioritise(self, job_id: int, priority: Priority) -> Job:
        self.prioritised.append((job_id, priority))
        return self.job(job_id)

    def log_tail(self, job_id: int, n: int = 40) -> str:
        return "Loading builtin:smollm2-135m\nEvaluating: 132 passages"

    def runs(self) -> list[Run]:
        return self.stored_runs

    def example(self) -> Run | None:
        return self.stored_example

    def run(self, key: str) -> Run | None:
        shipped = [self.stored_example] if self.stored_example else []
        return next((run for run in (*self.stored_runs, *shipped) if run.key == key), None)

    def search(self, key: str) -> FindResult | None:
        return self.stored_searches.get(key)

    def worker_trouble(self) -> str:
        return self.trouble

    def why_missing(self, key: str, kind: type[Record] | type[Run] = Record) -> str:
        return "was damaged and is set aside" if key in self.damaged else "is no longer stored"

    def damaged_runs(self) -> list[str]:
        return [key for key in self.damaged if key not in self.stored_records]

    def record(self, key: str) -> Record | None:
        return self.stored_records.get(key)

    def passages(self, key: str) -> Passages | None:
        return self.stored_passages.get(key)

    def continuation(self, key: str) -> Continuation | None:
        return self.stored_continuations.get(key)

    def divergence(self, key: str) -> Divergence | None:
        return self.stored_divergences.get(key)

    def cached(self, settings: RunSettings) -> Cached:
        return self.before.stored

    def forecast(self, job) -> Forecast | None:
        return self.forecast_at_first

    def expected_seconds(self, settings: RunSettings) -> dict[str, float | None]:
        return self.expected

    def reference_problem(self, field: ReferenceField, reference: str) -> Problem | None:
        return next((problem for problem in self.before.problems if problem.field == field), None)

    def preflight(self, settings: RunSettings | FindSettings) -> Preflight:
        self.asked_about.append(settings)
        return self.before

    def fetch_config(self, reference: str) -> None:
        self.looked_up.append(reference)
        if self.hub_says is not None:
            raise self.hub_says
        self.named = NamedModel(family="llama", shape=shipped_shape("llama-7b"))

    def is_measuring(self) -> bool:
        return False

    def named_model(self, reference: str) -> NamedModel | None:
        return self.named

    def reconcile(self) -> None:
        return None

    def cluster(self) -> ClusterView | None:
        return self.known_cluster

    def expect_work(self) -> None:
        self.expected_work = True

    def health(self) -> dict[str, object]:
        return {"status": "ok"}
