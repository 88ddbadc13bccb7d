"""What jobs that wait or run, and pinned runs, have a use for: none of it is deleted when house is kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparsedash.jobs.table import Job
from sparsedash.schema import notes
from sparsedash.schema.pair_settings import records_read
from sparsedash.schema.records import Record, Run
from sparsedash.storage.fingerprints import fingerprint
from sparsedash.storage.store import Store
from sparsedash.storage.texts.uploads import texts_read

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


def in_use(live: Sequence[Job], pinned: Sequence[Run], store: Store, record: RecordOf) -> InUse:
    """What these have a use for. live: jobs that wait or run. record: gives the record of a key."""
    models: set[str | None] = set()
    for job in live:
        if job.makes_run:
            reference = str(job.settings.get("model", ""))
            models.add(store.recall(notes.model_identity(reference, fingerprint(reference))))
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
