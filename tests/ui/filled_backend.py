"""The real backend over a folder of its own, filled by a test: no worker starts, nothing is
measured or fetched.
"""

from dataclasses import asdict, fields, replace

import msgspec

from sparsedash.catalog.model_sizes import shipped_shape
from sparsedash.jobs.job import Job, JobState
from sparsedash.schema.progress import Stage, Step
from sparsedash.service.backend import _KINDS, Backend
from sparsedash.service.estimates import Cached, Duration, RunPart, run_parts
from sparsedash.service.model_lookup import NamedModel
from sparsedash.service.preflight import Memory, Preflight
from tests.ui import specimens

BEFORE = Preflight(
    stored=Cached(calibration=True, dense=True, points=(0,), n_sparse=3),
    duration=Duration(seconds=245.0),
    memory=Memory(measured_bytes=1_240_000_000),
    problems=(),
)
STEP = [field.name for field in fields(Step)]
COLUMNS = [field.name for field in fields(Job) if field.name != "log_path"]


def job(settings, state: JobState = "running", **changes) -> Job:
    """A job half-way through its evaluation."""
    step = {
        "stage": "evaluate",
        "done": 1234,
        "total": 2880,
        "unit": "tokens",
        "rate": 412.3,
        "message": "20 % sparse",
    }
    row = Job(
        id=1,
        kind=_KINDS[type(settings)][0],
        key=settings.key(),
        settings=asdict(settings),
        state=state,
        progress=Step(
            **step | {name: changes.pop(name) for name in STEP if name in changes}
        ),
        attempt=1,
        queued_at=1_764_000_000.0,
        started_at=None if state == "queued" else 1_764_000_001.0,
        finished_at=None if state in ("queued", "running") else 1_764_000_263.0,
        heartbeat_at=None,
        pid=4242,
        cancel_requested_at=None,
        error_text="",
        error_advice="",
        worker="slot-0",
        log_path="",
    )
    return replace(row, **changes)


class FilledBackend(Backend):
    """Remembers what was submitted and asked about; estimates are `before`; reading verdicts takes
    no time.
    """

    def __init__(self, folder):
        super().__init__(folder)
        self.before = BEFORE
        self.expected: dict[Stage, float] = {}
        self.submitted = []
        self.asked_about = []
        self.looked_up = []
        self.busy = False
        self.out_of_reach = ()
        self.refused: dict[str, str] = {}
        self.hub_says = self.named = self.known_cluster = None
        self.verdict_cache._clock = lambda: 0.0

    def is_busy(self):
        return self.busy

    def submit(self, settings):
        submitted = super().submit(settings)
        self.submitted.append(settings)
        return submitted

    def put(self, *values):
        """Store these under their own keys, in place of earlier ones."""
        for value in values:
            self._store.drop(type(value), value.key)
            self._store.put(value.key, value)

    def drop(self, kind, *keys):
        """Delete these."""
        for key in keys:
            self._store.drop(kind, key)

    def add_run(self, found):
        """Store a run with its records and passages, and what a search found; return the run."""
        run, *more = found
        self.put(specimens.passages(), *more[0], *more[1:], run)
        return run

    def set_jobs(self, *jobs):
        """Have these jobs in the table and no others."""

        def column(value):
            is_json = isinstance(value, dict | Step)
            return msgspec.json.encode(value).decode() if is_json else value

        rows = []
        for job in jobs:
            rows.append([column(getattr(job, name)) for name in COLUMNS])
        with self._table._database.writing() as db:
            db.execute("DELETE FROM jobs")
            marks = ", ".join("?" * len(COLUMNS))
            db.executemany(
                f"INSERT INTO jobs ({', '.join(COLUMNS)}) VALUES ({marks})", rows
            )

    def reconcile(self):
        """Jobs stand as the test has put them."""

    def cached(self, settings):
        return self.before.stored

    def preflight(self, asked):
        self.asked_about.append(asked)
        return self.before

    def expected_parts(self, settings, stored):
        parts = [
            RunPart(stage="start", seconds=6.0, basis="measured"),
            *run_parts(settings, None, stored),
        ]
        return [
            replace(part, seconds=self.expected[part.stage], basis="measured")
            if part.stage in self.expected
            else part
            for part in parts
        ]

    def reference_problem(self, field, reference):
        return self.refused.get(field) or super().reference_problem(field, reference)

    def fastest_dtype(self):
        return "float32"

    def lacks_text(self, reference):
        return reference in self.out_of_reach

    def named_model(self, reference):
        return self.named

    def fetch_config(self, reference):
        self.looked_up.append(reference)
        if self.hub_says is not None:
            raise self.hub_says
        self.named = NamedModel(family="llama", shape=shipped_shape("llama-7b"))

    def cluster(self):
        return self.known_cluster
