"""Results in a data folder as workers leave them, for the tests of the service."""

from dataclasses import replace

import msgspec

from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.pair_records import Timing
from sparsedash.schema.records import Passages, Record, Run
from sparsedash.schema.settings import RunSettings
from sparsedash.schema.store_keys import passages_key
from sparsedash.service.backend import Backend
from sparsedash.service.request_checks import Access
from sparsedash.service.stored_results import ResultCache
from sparsedash.service.user_files import Exports
from sparsedash.storage.serving import Quota, Serving
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import Uploads
from tests.factories import RUN, answered
from tests.ui import specimens

SETTINGS = RunSettings(model="owner/model", sparsities_permille=(100,))
TEXT = b"".join(
    b'{"text": "Once upon a time there was door %d."}\n' % n for n in range(6)
)
TIMING = Timing(
    key="timing",
    dense="d",
    sparse="s",
    machine="a mainframe",
    dtype="float32",
    n_threads=2,
    n_prompt=128,
    n_decode=32,
    phases=(),
    dense_bytes=200,
    sparse_bytes=100,
    precise=True,
    started_at=1.0,
    versions={},
)


def run(settings: RunSettings = SETTINGS, **changes: object) -> Run:
    usual = {
        "key": settings.key(),
        "model_identity": "m",
        "dense": "dense",
        "sparse": ("s1",),
        "finished": True,
    }
    return replace(RUN, settings=settings, **{**usual, **changes})


def finish(backend: Backend, job) -> None:
    """Claim a job and finish it, as a worker does."""
    backend._table.end(backend._table.claim(job.id, "slot-0", 1), "done")


def work(backend: Backend, job, suffix: str = "") -> None:
    """Do what a worker does: claim, store the results, finish."""
    dense = f"dense{suffix}"
    sparse = f"s1{suffix}"
    texts = passages_key(f"texts{suffix}", SETTINGS.evaluation)
    claimed = backend._table.claim(job.id, "slot-0", 1)
    for key in (dense, sparse):
        backend._store.put(key, replace(answered(key, 3), passages_key=texts))
    backend._store.put(
        texts, Passages(key=texts, indices=(0,), contexts=("Once",), targets=("upon",))
    )
    settings = replace(SETTINGS, dtype=job.settings["dtype"])
    backend._store.put(
        job.key,
        run(
            settings,
            key=job.key,
            dense=dense,
            sparse=(sparse,),
            corpora={"evaluation": f"texts{suffix}"},
        ),
    )
    backend._table.end(claimed, "done")


def stored_run(backend: Backend, name: str, **changes: object) -> Run:
    """A run under this name with its records; it shares the dense one with all others."""
    run, (dense, *sparse) = specimens.run()
    sparse_records = [
        replace(record, key=f"{name}-{i}") for i, record in enumerate(sparse)
    ]
    texts = replace(
        specimens.passages(), key=passages_key("sha256:4567", run.settings.evaluation)
    )
    run = replace(run, key=name, sparse=tuple(record.key for record in sparse_records))
    run = replace(run, **changes)
    for part in (dense, *sparse_records, texts, run):
        backend._store.put(part.key, part)
    return run


def records(backend: Backend) -> set[str]:
    """The keys of all stored records."""
    return set(backend._store.keys(Record))


class House:
    """A data folder, the rules under which it is served, and its users."""

    def __init__(self, folder):
        self.folder = folder
        self.allowed = folder / "allowed"
        self.allowed.mkdir()
        self.rules = Serving(
            address="https://sparsedash.example.org",
            login="oidc",
            administrators=("root",),
            folders=(str(self.allowed),),
            hub=("owner/*",),
            quota=Quota(uploads=2, upload_mb=1, queued=2, kept_gb=1),
        )
        self.backend = Backend(folder / "data")

    def of(self, name, **changes):
        """The backend of a user. changes: of the rules."""
        return self.backend.seen_by(
            name, msgspec.structs.replace(self.rules, **changes)
        )

    def done(self, backend, settings=SETTINGS):
        """The job of a run that this user asked for, and that a worker has done."""
        job = backend.submit(settings)
        if job.state != "done":
            work(self.backend, job, f"-{settings.dtype}")
        return self.backend.job(job.id)


def exports_of(store: Store) -> Exports:
    """The exports of a data folder without logins."""
    access = Access(JobTable(store.folder / "jobs.sqlite").owners, ResultCache(store))
    return Exports(store, Uploads(store.folder), access, tuple)
