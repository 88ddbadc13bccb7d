"""Contents of the data folder: runs, the cache, files of users, and which records refer to which."""

import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.pair_records import Timing, records_read
from sparsedash.schema.records import R, Run
from sparsedash.schema.store_keys import healed_key, model_identity_note
from sparsedash.schema.user_records import Choices, Prompts
from sparsedash.service.stored_results import ResultCache, run_passages
from sparsedash.service.user_files import Exports, UserUploads
from sparsedash.storage.disk_cache import DAMAGED, room_of_environment
from sparsedash.storage.file_hashes import fingerprint
from sparsedash.storage.local_machine import folder_size
from sparsedash.storage.model_folders import unpacked_models
from sparsedash.storage.store import Shelf, Store

CachePart = Literal[
    "calibration", "answers", "unfinished", "timings", "exports", "damaged"
]
"""answers: of other programs. unfinished: checkpoints, and records of no run. exports: folders that
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
    """Entries that emptying the cache deletes, and those it spares for live jobs."""

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
    """Contents of the data folder. runs, files: largest first.

    run_bytes: of all runs, shared parts once. n_bytes: of all but the table of jobs. room_bytes:
    limit of the artefacts. room_fixed: whether the environment sets that.
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


def needed_models(
    jobs: Iterable[Job], store: Store, results: ResultCache
) -> frozenset[str]:
    """Identities of the models that these jobs read; empty ones stand for models not loaded yet."""
    models = set()
    for job in jobs:
        for key in records_read(job.settings):
            record = results.record(key)
            models.add(record.model_identity if record else "")
        if job.makes_run:
            model = str(job.settings.get("model", ""))
            models.add(
                store.recall(model_identity_note(model, fingerprint(model))) or ""
            )
    return frozenset(models)


def referring_entries(store: Store, table: JobTable) -> dict[str, frozenset[str]]:
    """Records behind timings, continuations, divergences, prompts and blind choices, by entry.

    Continuations and divergences do not name their records: the job table and the prompts do.
    """
    referring = {}
    for job in table.of_kinds("continuation", "divergence"):
        referring[f"{job.kind}/{job.key}"] = _record_names(*records_read(job.settings))
    for timing in _stored(store, Timing):
        referring[f"timing/{timing.key}"] = _record_names(timing.dense, timing.sparse)
    for choices in _stored(store, Choices):
        better = filter(None, choices.better.values())
        referring[f"choices/{choices.key}"] = _record_names(*better)
    for prompts in _stored(store, Prompts):
        compared: set[str] = set()
        for prompt in prompts.asked:
            compared |= {prompt.left, prompt.right}
            records = _record_names(*records_read(asdict(prompt)))
            referring[f"continuation/{prompt.key()}"] = records
        referring[f"prompts/{prompts.key}"] = _record_names(*compared)
    return referring


def _stored(store: Store, kind: type[R]) -> list[R]:
    return [
        record for key in list(store.keys(kind)) if (record := store.get(kind, key))
    ]


def entry_name(name: str) -> str:
    """What `entries_of` calls the entry with this name."""
    healed = healed_key(name)
    return f"healed/{healed}" if healed else name


def entries_of(run: Run, results: ResultCache) -> frozenset[str]:
    """Names of the entries of a run and of all it refers to, which other runs may share.

    Healed weights, which are several artefacts, have one name.
    """
    names = {f"run/{run.key}", f"findresult/{run.key}", f"passages/{run_passages(run)}"}
    for keys in run.answers.values():
        names.update(f"questionset/{key}" for key in keys)
    names.update(f"continuation/{key}" for key in run.continuations)
    if run.settings.heals:
        for record in map(results.record, run.sparse):
            if (
                record is not None
                and record.pruned is not None
                and record.pruned.healed is not None
            ):
                names.add(f"healed/{record.pruned.healed.weights}")
    return _record_names(*run.records) | names


def only_of(deleted: Collection[Run], results: ResultCache) -> frozenset[str]:
    """The names of the entries that only these runs of all runs have."""
    keys = {run.key for run in deleted}
    names = frozenset[str]().union(*(entries_of(run, results) for run in deleted))
    for run in results.runs():
        if names and run.key not in keys:
            names -= entries_of(run, results)
    return names


def cache_items(
    store: Store, results: ResultCache, exports: Exports, damaged: Collection[str]
) -> Iterator[CacheItem]:
    """All that emptying the cache may delete. damaged: names of entries that verification found."""
    in_runs: set[str] = set()
    for run in results.runs():
        in_runs |= entries_of(run, results)
    for entry in store.entries("records"):
        kind = entry.name.partition("/")[0]
        if entry.name in damaged or entry.name.startswith(DAMAGED):
            yield CacheItem("damaged", "records", entry.name, entry.n_bytes)
        elif kind == "timing":
            yield CacheItem("timings", "records", entry.name, entry.n_bytes)
        elif kind in _RUN_PARTS and entry.name not in in_runs:
            yield CacheItem("unfinished", "records", entry.name, entry.n_bytes)
    parts: dict[str, CachePart] = {"answers": "answers", "unfinished": "unfinished"}
    for entry in store.entries("artefacts"):
        kind, _, model = entry.tag.partition(" ")
        if entry.name in damaged:
            yield CacheItem("damaged", "artefacts", entry.name, entry.n_bytes)
        elif entry_name(entry.name) not in in_runs:
            part = parts.get(kind, "calibration")
            yield CacheItem(part, "artefacts", entry.name, entry.n_bytes, model)
    for folder in exports.unrecorded():
        yield CacheItem("exports", "exports", folder.name, folder_size(folder).n_bytes)


def stored_files(
    store: Store, exports: Exports, uploads: UserUploads
) -> list[StoredFile]:
    """The exports in the data folder, the uploads and the converted models, largest first."""
    files = [
        StoredFile("uploads", name, name, size) for name, size in uploads.kept().items()
    ]
    for export in filter(exports.may_delete, exports.listed()):
        title = Path(export.folder).name
        files.append(
            StoredFile("exports", export.key, title, export.n_bytes, export.made_at)
        )
    for name, _, size in unpacked_models(store):
        files.append(StoredFile("models", name, name, size.n_bytes, size.written_at))
    return sorted(files, key=lambda file: file.n_bytes, reverse=True)


def measure_holdings(
    store: Store,
    results: ResultCache,
    cache: CacheContents,
    files: Sequence[StoredFile],
) -> Holdings:
    """The sizes of what the data folder holds."""
    bytes_of = Counter[str]()
    for entry in (*store.entries("records"), *store.entries("artefacts")):
        bytes_of[entry_name(entry.name)] += entry.n_bytes
    runs = results.runs()
    names = [entries_of(run, results) for run in runs]
    users = Counter[str]()
    for names_of_run in names:
        users.update(names_of_run)
    # The two caches may have hundreds of thousands of files, so only the other folders are walked.
    n_bytes = bytes_of.total() + folder_size(store.folder / "logs").n_bytes
    n_bytes += sum(file.n_bytes for file in files)
    n_bytes += sum(item.n_bytes for item in cache.items if item.shelf == "exports")
    holdings = []
    for run, names_of_run in zip(runs, names, strict=True):
        alone = [name for name in names_of_run if users[name] == 1]
        holdings.append(RunHolding(run, sum(bytes_of[name] for name in alone)))
    return Holdings(
        runs=tuple(
            sorted(
                holdings,
                key=lambda holding: holding.n_bytes,
                reverse=True,
            )
        ),
        run_bytes=sum(bytes_of[name] for name in users),
        cache=cache,
        files=tuple(files),
        n_bytes=n_bytes,
        free_bytes=shutil.disk_usage(store.folder).free,
        room_bytes=store.artefact_room,
        room_fixed=room_of_environment() is not None,
    )
