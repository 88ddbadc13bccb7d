"""Stored results as plain dictionaries, for tests of the words and tables that are made of them."""

from dataclasses import dataclass, field

from sparsedash.jobs.job import Job
from sparsedash.schema.pair_records import Continuation
from sparsedash.schema.records import Passages, Record, Run
from sparsedash.schema.settings import FindResult
from sparsedash.service.stored_results import RunCosts
from sparsedash.storage.users import UserData
from tests.ui import specimens
from tests.ui.filled_backend import job

__all__ = ["FakeBackend", "job"]


class FakeStore(dict):
    """The rows that user data and costs keep, by kind and key."""

    def get(self, kind, key):
        return super().get((kind, key))

    def put(self, key, record):
        self[type(record), key] = record

    def change(self, kind, key, change):
        self.put(key, change(self.get(kind, key)))

    def drop(self, kind, key):
        self.pop((kind, key), None)

    def recall(self, name):
        return self.get("note", name)

    def remember(self, name, text):
        self["note", name] = text


class ReadStore(FakeStore):
    """As well the records of a backend."""

    def __init__(self, backend):
        super().__init__()
        self._backend = backend

    def get(self, kind, key):
        found = self._backend.stored_records.get(key) if kind is Record else None
        return found or super().get(kind, key)

    def keys(self, kind):
        return list(self._backend.stored_records) if kind is Record else [key for of, key in self if of is kind]


@dataclass(eq=False)
class FakeBackend:
    """Holds what a test put into it."""

    stored_runs: list[Run] = field(default_factory=list)
    stored_records: dict[str, Record] = field(default_factory=dict)
    stored_searches: dict[str, FindResult] = field(default_factory=dict)
    stored_continuations: dict[str, Continuation] = field(default_factory=dict)
    stored_jobs: list[Job] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        store = ReadStore(self)
        self.user_data, self.costs = UserData(store), RunCosts(store)

    def add_run(self, found: tuple[Run, list[Record]]) -> Run:
        """Put a run and its records in."""
        run, records = found
        self.stored_runs.insert(0, run)
        self.stored_records |= {record.key: record for record in records}
        return run

    def add_search(self, found: tuple[Run, list[Record], FindResult]) -> Run:
        """Put a search, its run and its records in."""
        self.stored_searches[found[2].key] = found[2]
        return self.add_run(found[:2])

    def jobs(self, limit: int = 50) -> tuple[Job, ...]:
        return tuple(self.stored_jobs[:limit])

    def newest_job(self, key: str) -> Job | None:
        return next((found for found in self.stored_jobs if found.key == key), None)

    def runs(self) -> list[Run]:
        return self.stored_runs

    def run(self, key: str) -> Run | None:
        return next((run for run in self.stored_runs if run.key == key), None)

    def search(self, key: str) -> FindResult | None:
        return self.stored_searches.get(key)

    def record(self, key: str) -> Record | None:
        return self.stored_records.get(key)

    def passages(self, key: str) -> Passages:
        return specimens.passages()

    def continuation(self, key: str) -> Continuation | None:
        return self.stored_continuations.get(key)

    def why_missing(self, key: str, kind: type[Record] | type[Run] = Record) -> str:
        return "was damaged and is set aside" if key in self.damaged else "is no longer stored"
