"""What the data folder holds: runs, the cache, files of users, and which records refer to which."""

import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.pair_records import Choices, Prompts, Timing, records_read
from sparsedash.schema.records import Record, Run
from sparsedash.schema.store_keys import healed_key, model_identity_note
from sparsedash.service.stored_results import ResultCache, run_passages
from sparsedash.service.user_files import Exports, UserUploads
from sparsedash.storage.disk_cache import DAMAGED, room_of_environment
from sparsedash.storage.file_hashes import fingerprint
from sparsedash.storage.local_machine import folder_size
from sparsedash.storage.model_folders import unpacked_models
from sparsedash.storage.store import Shelf, Store

ArtefactPart = Literal["statistics", "gradients", "text", "weights", "answers", "unfinished"]
CachePart = Literal[ArtefactPart, "timings", "exports", "damaged"]
"""text: for calibration, written by a model. weights: refitted ones, and healed ones of no run.
answers: of other programs. unfinished: checkpoints, and records of no run. exports: folders that
killed exports left. damaged: set aside, or found by the last verification.
"""
FileKind = Literal["exports", "uploads", "models"]
"""models: converted from or to another format or type."""

_RUN_PARTS = ("record", "passages", "questionset", "findresult")
"""Kinds of records that belong to runs."""


class CacheItem(NamedTuple):
    """An entry of a shelf, or a folder of an unfinished export, that can be made again.

    model: identity of the model that it was computed for; empty where that is unknown.
    """

    part: CachePart
    shelf: Shelf | Literal["exports"]
    name: str
    n_bytes: int
    model: str = ""


class StoredFile(NamedTuple):
    """An export, an uploaded text or a converted model.

    name: its key, reference or folder. title: of an export its folder, else the name.
    written_at: 0 where that is unknown.
    """

    kind: FileKind
    name: str
    title: str
    n_bytes: int
    written_at: float = 0.0


class RunHolding(NamedTuple):
    """One run, and the bytes that no other run uses."""

    run: Run
    n_bytes: int


@dataclass(frozen=True, kw_only=True)
class CacheContents:
    """What emptying the cache deletes, and what it spares for live jobs."""

    items: tuple[CacheItem, ...]
    spared: tuple[CacheItem, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes that can be deleted now."""
        return sum(item.n_bytes for item in self.items)

    @property
    def artefact_bytes(self) -> int:
        """Bytes of calibration data, checkpoints and opened answers, which the limit is about."""
        items = (*self.items, *self.spared)
        return sum(item.n_bytes for item in items if item.shelf == "artefacts")


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What the data folder holds. runs, files: largest first.

    run_bytes: of all runs, shared parts once. n_bytes: of the folder. room_bytes: limit of the
    artefacts. room_fixed: whether the environment sets that.
    """

    runs: tuple[RunHolding, ...]
    run_bytes: int
    cache: CacheContents
    files: tuple[StoredFile, ...]
    n_bytes: int
    free_bytes: int
    room_bytes: int
    room_fixed: bool

    @property
    def is_empty(self) -> bool:
        """Whether the data folder has not been used yet."""
        return not (self.runs or self.files or self.cache.items or self.cache.spared)


def _record_names(*keys: str) -> frozenset[str]:
    return frozenset(f"record/{key}" for key in keys)


def needed_models(jobs: Iterable[Job], store: Store, results: ResultCache) -> frozenset[str]:
    """Identities of the models that these jobs read; empty ones stand for models not loaded yet."""
    models = set()
    for job in jobs:
        for key in records_read(job.settings):
            record = results.record(key)
            models.add(record.model_identity if record else "")
        if job.makes_run:
            model = str(job.settings.get("model", ""))
            models.add(store.recall(model_identity_note(model, fingerprint(model))) or "")
    return frozenset(models)


def referring_entries(store: Store, table: JobTable) -> dict[str, frozenset[str]]:
    """Records behind timings, continuations, divergences, prompts and blind choices, by entry.

    Continuations and divergences do not name their records: the job table and the prompts do.
    """
    referring = {
        f"{job.kind}/{job.key}": _record_names(*records_read(job.settings))
        for job in table.of_kinds("continuation", "divergence")
    }
    for key in list(store.keys(Timing)):
        if timing := store.get(Timing, key):
            referring[f"timing/{key}"] = _record_names(timing.dense, timing.sparse)
    for key in list(store.keys(Choices)):
        if choices := store.get(Choices, key):
            referring[f"choices/{key}"] = _record_names(*filter(None, choices.better.values()))
    for key in list(store.keys(Prompts)):
        if prompts := store.get(Prompts, key):
            pairs = [_record_names(prompt.left, prompt.right) for prompt in prompts.asked]
            referring[f"prompts/{key}"] = frozenset[str]().union(*pairs)
            for prompt in prompts.asked:
                records = _record_names(*records_read(asdict(prompt)))
                referring[f"continuation/{prompt.key()}"] = records
    return referring


def entries_of(run: Run) -> frozenset[str]:
    """The names of a run's entries: its own, and records, passages, answers to tasks and
    continuations, which other runs may share.
    """
    answers = [f"questionset/{key}" for keys in run.answers.values() for key in keys]
    continuations = [f"continuation/{key}" for key in run.continuations]
    results = (f"run/{run.key}", f"findresult/{run.key}", f"passages/{run_passages(run)}")
    return _record_names(*run.records).union(results, answers, continuations)


def only_of(
    deleted: Collection[Run], runs: Iterable[Run], names: Callable[[Run], frozenset[str]]
) -> frozenset[str]:
    """The names that only the deleted runs of all runs have. names: gives those of a run."""
    keys = {run.key for run in deleted}
    unshared = frozenset[str]().union(*map(names, deleted))
    for run in runs:
        if unshared and run.key not in keys:
            unshared -= names(run)
    return unshared


def healed_weights(run: Run, record: Callable[[str], Record | None]) -> frozenset[str]:
    """Keys of the healed weights that models of this run have. record: gives the record of a
    key.
    """
    if not any(method.heal_steps for method in run.settings.methods):
        return frozenset()
    keys = set()
    for sparse in map(record, run.sparse):
        if sparse is not None and sparse.pruned is not None and sparse.pruned.healed is not None:
            keys.add(sparse.pruned.healed.weights)
    return frozenset(keys)


def cache_items(
    store: Store, results: ResultCache, exports: Exports, damaged: Collection[str]
) -> Iterator[CacheItem]:
    """All that emptying the cache may delete. damaged: names of entries that verification found."""
    in_runs: set[str] = set()
    healed: set[str] = set()
    for run in results.runs():
        in_runs |= entries_of(run)
        healed |= healed_weights(run, results.record)
    for entry in store.entries("records"):
        kind = entry.name.partition("/")[0]
        if entry.name in damaged or entry.name.startswith(DAMAGED):
            yield CacheItem("damaged", "records", entry.name, entry.n_bytes)
        elif kind == "timing":
            yield CacheItem("timings", "records", entry.name, entry.n_bytes)
        elif kind in _RUN_PARTS and entry.name not in in_runs:
            yield CacheItem("unfinished", "records", entry.name, entry.n_bytes)
    parts: dict[str, CachePart] = {part: part for part in get_args(ArtefactPart)}
    parts["healed"] = "weights"
    for entry in store.entries("artefacts"):
        kind, _, model = entry.tag.partition(" ")
        if entry.name in damaged:
            yield CacheItem("damaged", "artefacts", entry.name, entry.n_bytes)
        elif healed_key(entry.name) not in healed:
            part = parts.get(kind, "statistics")
            yield CacheItem(part, "artefacts", entry.name, entry.n_bytes, model)
    for folder in exports.nameless():
        yield CacheItem("exports", "exports", folder.name, folder_size(folder).n_bytes)


def stored_files(store: Store, exports: Exports, uploads: UserUploads) -> list[StoredFile]:
    """The exports in the data folder, the uploads and the converted models, largest first."""
    files = [StoredFile("uploads", name, name, size) for name, size in uploads.kept().items()]
    for export in filter(exports.is_ours, exports.listed()):
        title = Path(export.folder).name
        files.append(StoredFile("exports", export.key, title, export.n_bytes, export.made_at))
    for name, _, size in unpacked_models(store):
        files.append(StoredFile("models", name, name, size.n_bytes, size.written_at))
    return sorted(files, key=lambda file: file.n_bytes, reverse=True)


def measure_holdings(
    store: Store, results: ResultCache, cache: CacheContents, files: Sequence[StoredFile]
) -> Holdings:
    """The sizes of what the data folder holds."""
    bytes_of = Counter[str]()
    for entry in (*store.entries("records"), *store.entries("artefacts")):
        bytes_of[healed_key(entry.name) or entry.name] += entry.n_bytes
    runs = results.runs()
    names = [entries_of(run) | healed_weights(run, results.record) for run in runs]
    users = Counter[str]()
    for names_of_run in names:
        users.update(names_of_run)
    holdings = []
    for run, names_of_run in zip(runs, names, strict=True):
        n_bytes = sum(bytes_of[name] for name in names_of_run if users[name] == 1)
        holdings.append(RunHolding(run, n_bytes))
    return Holdings(
        runs=tuple(sorted(holdings, key=lambda holding: holding.n_bytes, reverse=True)),
        run_bytes=sum(bytes_of[name] for name in users),
        cache=cache,
        files=tuple(files),
        n_bytes=folder_size(store.folder).n_bytes,
        free_bytes=shutil.disk_usage(store.folder).free,
        room_bytes=store.artefact_room,
        room_fixed=room_of_environment() is not None,
    )
