"""What the data folder holds: kinds of things, the references between them, and sizes by kind, by model and by run."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema import store_keys
from sparsedash.schema.export_settings import EXPORTS, Export
from sparsedash.schema.pair_records import Choices, Prompts, Timing, records_read
from sparsedash.schema.records import R, Run, kind_and_model
from sparsedash.service.stored_results import ResultCache
from sparsedash.storage.disk_cache import CacheEntry, TagSum
from sparsedash.storage.local_machine import folder_size
from sparsedash.storage.model_folders import MODELS, UnpackedModel, unpacked_models
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import fingerprint, texts_read, uploads_folder

ArtefactHolding = Literal["statistics", "gradients", "written", "weights", "unfinished"]
FileHolding = Literal["models", "uploads", "exports", "logs"]
HoldingKind = Literal["runs", "texts", "timings", ArtefactHolding, FileHolding, "damaged", "jobs", "notes"]
"""runs: with their records and passages. texts: continuations, divergences, prompts, blind choices. statistics to
unfinished: artefacts of calibration. models: unpacked from .gguf files. damaged: records that were set aside.
"""

ARTEFACTS: tuple[HoldingKind, ...] = get_args(ArtefactHolding)

DELETABLE: tuple[HoldingKind, ...] = tuple(kind for kind in get_args(HoldingKind) if kind not in ("jobs", "notes"))
"""The job table and short notes stay: they are small, and everything else is found by them."""

_OF_RECORDS: dict[str, HoldingKind] = {
    **dict.fromkeys(("run", "record", "passages", "findresult"), "runs"),
    **dict.fromkeys(("continuation", "divergence", "prompts", "choices"), "texts"),
    "timing": "timings",
    "export": "exports",
    "damaged": "damaged",
}
_OF_ARTEFACTS: dict[str, HoldingKind] = {
    "gradients": "gradients",
    "text": "written",
    "weights": "weights",
    "unfinished": "unfinished",
}
_COUNTED = {"record", "passages", "findresult", "export"}
"""Entries that are parts of what is counted, and not counted themselves."""


def kind_of_record(name: str) -> HoldingKind:
    """The kind of a record. name: of its entry in the store."""
    return _OF_RECORDS.get(name.partition("/")[0], "notes")


def kind_of_artefact(tag: str) -> HoldingKind:
    """The kind of an artefact. tag: of its entry in the store."""
    return _OF_ARTEFACTS.get(kind_and_model(tag)[0], "statistics")


@dataclass(frozen=True, kw_only=True)
class References:
    """What a stored thing refers to: entries of records and passages, uploads or other texts, identities of models."""

    records: frozenset[str] = frozenset()
    passages: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()


Referring = Run | Export | Timing | Prompts | Choices | UnpackedModel | CacheEntry


def references(thing: Referring) -> References:
    """What a run, an export, a timing, prompts, choices, an unpacked model or an artefact refers to."""
    match thing:
        case Run():
            settings, evaluation = thing.settings, thing.corpora.get("evaluation")
            # The passages' key is made again: no record is read for it.
            passages = [] if evaluation is None else [store_keys.passages_key(evaluation, settings.evaluation)]
            return References(
                records=frozenset(thing.records),
                passages=frozenset(passages),
                texts=frozenset((settings.calibration.corpus, settings.evaluation.corpus)),
                models=frozenset([thing.model_identity]),
            )
        case Export():
            records = frozenset((thing.settings.dense, thing.settings.sparse))
            return References(records=records, models=frozenset([thing.model_identity]))
        case Timing():
            return References(records=frozenset((thing.dense, thing.sparse)))
        case Prompts():
            return References(records=frozenset(key for asked in thing.asked for key in (asked.left, asked.right)))
        case Choices():
            return References(records=frozenset(thing.better.values()) - {""})
        case UnpackedModel():
            return References(models=frozenset([thing.identity]))
        case CacheEntry():
            return References(models=frozenset([kind_and_model(thing.tag)[1]]))


def job_references(job: Job, store: Store, results: ResultCache) -> References:
    """What a job refers to. models: with the empty name where it needs one that is not known yet."""
    records = [(key, results.record(key)) for key in records_read(job.settings)]
    models = {record.model_identity if record else "" for _, record in records}
    if job.makes_run:
        model = str(job.settings.get("model", ""))
        models.add(store.recall(store_keys.model_identity_note(model, fingerprint(model))) or "")
    texts = texts_read(job.settings, results.record)
    return References(records=frozenset(dict(records)), texts=frozenset(texts), models=frozenset(models))


def referring_entries(store: Store, table: JobTable) -> dict[str, frozenset[str]]:
    """The records behind timings, continuations, divergences, prompts and blind choices, by the names of their entries.

    Continuations and divergences do not name their records: the job table and the prompts do.
    """
    jobs = table.of_kinds("continuation", "divergence")
    found = {f"{job.kind}/{job.key}": records_read(job.settings) for job in jobs}
    for prompts in _stored(store, Prompts):
        found[f"prompts/{prompts.key}"] = references(prompts).records
        found |= {f"continuation/{asked.key()}": records_read(asdict(asked)) for asked in prompts.asked}
    found |= {f"timing/{timing.key}": references(timing).records for timing in _stored(store, Timing)}
    return found | {f"choices/{choices.key}": references(choices).records for choices in _stored(store, Choices)}


def _stored(store: Store, kind: type[R]) -> list[R]:
    return [found for key in list(store.keys(kind)) if (found := store.get(kind, key)) is not None]


def own_entries(run: Run) -> tuple[str, str]:
    """The names of the entries that are a run's alone."""
    return f"run/{run.key}", f"findresult/{run.key}"


def shared_entries(run: Run) -> list[str]:
    """The names of the entries that a run refers to: its records and passages, which other runs may use too."""
    found = references(run)
    return [*(f"record/{key}" for key in found.records), *(f"passages/{key}" for key in found.passages)]


@dataclass(kw_only=True)
class Holding:
    """Things of one kind: how many, their bytes, and when one was last used, or else written; 0: never."""

    n: int = 0
    n_bytes: int = 0
    used_at: float = 0.0

    def add(self, n: int, n_bytes: int, used_at: float) -> None:
        """Count more in."""
        self.n, self.n_bytes, self.used_at = self.n + n, self.n_bytes + n_bytes, max(self.used_at, used_at)


@dataclass(kw_only=True)
class ModelHolding:
    """Bytes of one model: of its runs, its calibration, its unpacked files, its exports.

    references: by which runs and exports named it, newest first.
    """

    identity: str
    references: tuple[str, ...] = ()
    n_runs: int = 0
    answers: int = 0
    calibration: int = 0
    unpacked: int = 0
    exports: int = 0
    used_at: float = 0.0

    @property
    def n_bytes(self) -> int:
        """All of it."""
        return self.answers + self.calibration + self.unpacked + self.exports


@dataclass(frozen=True, kw_only=True)
class RunHolding:
    """One run: the bytes that it alone takes, and those that it shares with other runs."""

    run: Run
    n_bytes: int
    shared_bytes: int


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What the data folder holds. kinds: those that are there. models, runs: largest first."""

    kinds: dict[HoldingKind, Holding]
    models: tuple[ModelHolding, ...]
    runs: tuple[RunHolding, ...]
    free_bytes: int

    @property
    def n_bytes(self) -> int:
        """Everything in the data folder."""
        return self.bytes_of(*self.kinds)

    @property
    def artefact_bytes(self) -> int:
        """Artefacts of calibration."""
        return self.bytes_of(*ARTEFACTS)

    @property
    def is_empty(self) -> bool:
        """Whether the data folder has not been used yet."""
        return set(self.kinds) <= {"jobs", "notes", "logs"}

    def bytes_of(self, *kinds: HoldingKind) -> int:
        """These kinds together."""
        return sum(self.kinds[kind].n_bytes for kind in kinds if kind in self.kinds)


def measure_holdings(store: Store, table: JobTable, runs: Sequence[Run], exports: Sequence[Export]) -> Holdings:
    """What this data folder holds now. exports: those that lie in it. No value is read, only sizes."""
    entries, artefacts, unpacked = store.entries("records"), store.artefact_sums(), unpacked_models(store)
    kinds: dict[HoldingKind, Holding] = defaultdict(Holding)
    for entry in entries:
        counted = entry.name.partition("/")[0] not in _COUNTED
        kinds[kind_of_record(entry.name)].add(int(counted), entry.n_bytes, entry.used_at)
    for found in artefacts:
        kinds[kind_of_artefact(found.tag)].add(found.n, found.n_bytes, found.used_at)
    folders: tuple[tuple[HoldingKind, Path, int | None], ...] = (
        ("models", store.folder / MODELS, len(unpacked)),
        ("uploads", uploads_folder(store.folder), None),
        ("exports", store.folder / EXPORTS, len(exports)),
        ("logs", store.folder / "logs", None),
    )
    for kind, folder, n in folders:
        size = folder_size(folder)
        kinds[kind].add(size.n_files if n is None else n, size.n_bytes, size.written_at)
    tables = [file.stat().st_size for file in store.folder.glob("jobs.sqlite*") if file.is_file()]
    kinds["jobs"].add(table.count(), sum(tables), 0.0)
    bytes_of = {entry.name: entry.n_bytes for entry in entries}
    return Holdings(
        kinds={kind: holding for kind, holding in kinds.items() if holding.n or holding.n_bytes},
        models=_models(bytes_of, runs, artefacts, unpacked, exports),
        runs=_runs(bytes_of, runs),
        free_bytes=shutil.disk_usage(store.folder).free,
    )


def _runs(bytes_of: Mapping[str, int], runs: Iterable[Run]) -> tuple[RunHolding, ...]:
    parts = [(run, shared_entries(run)) for run in runs]
    users = Counter(name for _, names in parts for name in names)
    found = []
    for run, names in parts:
        own = [*own_entries(run), *(name for name in names if users[name] == 1)]
        shared = sum(bytes_of.get(name, 0) for name in names if users[name] > 1)
        found.append(RunHolding(run=run, n_bytes=sum(bytes_of.get(name, 0) for name in own), shared_bytes=shared))
    return tuple(sorted(found, key=lambda each: each.n_bytes, reverse=True))


def _models(
    bytes_of: Mapping[str, int],
    runs: Iterable[Run],
    artefacts: Iterable[TagSum],
    unpacked: Iterable[UnpackedModel],
    exports: Iterable[Export],
) -> tuple[ModelHolding, ...]:
    found: dict[str, ModelHolding] = {}

    def of(identity: str, used_at: float, reference: str = "") -> ModelHolding:
        holding = found.setdefault(identity, ModelHolding(identity=identity))
        holding.used_at = max(holding.used_at, used_at)
        if reference and reference not in holding.references:
            holding.references = (*holding.references, reference)
        return holding

    seen: set[str] = set()
    for run in runs:
        # What several runs use counts once.
        names = {*own_entries(run), *shared_entries(run)} - seen
        seen |= names
        holding = of(run.model_identity, run.started_at, run.settings.model)
        holding.n_runs += 1
        holding.answers += sum(bytes_of.get(name, 0) for name in names)
    for left in artefacts:
        if identity := kind_and_model(left.tag)[1]:
            of(identity, left.used_at).calibration += left.n_bytes
    for model in unpacked:
        if model.identity:
            of(model.identity, model.written_at).unpacked += model.n_bytes
    for export in exports:
        of(export.model_identity, export.made_at, export.model).exports += export.n_bytes
    return tuple(sorted(found.values(), key=lambda each: each.n_bytes, reverse=True))
