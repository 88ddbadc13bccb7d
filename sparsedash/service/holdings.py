"""What the data folder holds: items of every kind with their references, summed by kind, by model
and by run.
"""

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Literal, NamedTuple, get_args

from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.export_settings import EXPORTS, Export
from sparsedash.schema.pair_records import Choices, Prompts, Timing, records_read
from sparsedash.schema.records import Kept, Record, Run
from sparsedash.schema.store_keys import healed_key, model_identity_note
from sparsedash.service.request_checks import upload_named
from sparsedash.service.stored_results import ResultCache, run_passages
from sparsedash.service.user_files import Exports, UserUploads
from sparsedash.storage.disk_cache import room_of_environment
from sparsedash.storage.file_hashes import fingerprint
from sparsedash.storage.local_machine import folder_size
from sparsedash.storage.model_folders import unpacked_models
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import texts_read

ArtefactHolding = Literal["statistics", "gradients", "written", "weights", "answers", "unfinished"]
FileHolding = Literal["models", "uploads", "exports", "logs"]
HoldingKind = Literal[
    "runs", "healed", "texts", "timings", ArtefactHolding, FileHolding, "damaged", "jobs", "notes"
]
"""runs: with their records, passages and continuations. healed: weights. texts: other ones,
divergences, prompts, blind choices. statistics to unfinished: artefacts of calibration, which have
a limit. models: unpacked from .gguf files.
damaged: records set aside.
"""

ARTEFACTS: tuple[HoldingKind, ...] = get_args(ArtefactHolding)

DELETABLE: tuple[HoldingKind, ...] = tuple(
    kind for kind in get_args(HoldingKind) if kind not in ("jobs", "notes")
)
"""The job table and short notes stay: they are small, and everything else is found by them."""

_OF_RECORDS: dict[str, HoldingKind] = {
    **dict.fromkeys(("run", "record", "passages", "questionset", "findresult"), "runs"),
    **dict.fromkeys(("continuation", "divergence", "prompts", "choices"), "texts"),
    "timing": "timings",
    "export": "exports",
    "damaged": "damaged",
}
_OF_ARTEFACTS: dict[str, HoldingKind] = {
    "gradients": "gradients",
    "text": "written",
    **{kind: kind for kind in ("weights", "healed", "answers", "unfinished")},
}
_PARTS = ("record", "passages", "questionset", "findresult", "export")
"""Entries that are parts of what is counted, and not counted themselves."""

_OF_MODELS: dict[HoldingKind, str] = {
    **dict.fromkeys(ARTEFACTS, "calibration"),
    "runs": "answers",
    "healed": "healed",
    "models": "unpacked",
    "exports": "exported",
}


def kind_of_record(name: str) -> HoldingKind:
    """The kind of a record. name: of its entry in the store."""
    return _OF_RECORDS.get(name.partition("/")[0], "notes")


class Item(NamedTuple):
    """A thing in the data folder. name: of an entry, a folder or a log, an upload's reference, or
    an export's key.

    used_at: time of the last use, or else of writing. references: see `references`. n: things that
    it counts as; 0: a part of another one, never deleted by itself.
    """

    kind: HoldingKind
    name: str
    n_bytes: int
    used_at: float = 0.0
    references: frozenset[str] = frozenset()
    n: int = 1


def named(kind: str, *names: str) -> frozenset[str]:
    """References: "record/KEY" and "passages/KEY", as entries are named, "text/UPLOAD",
    "model/IDENTITY".
    """
    return frozenset(f"{kind}/{name}" for name in names)


def references(thing: Kept) -> frozenset[str]:
    """What a stored record refers to."""
    match thing:
        case Run():
            texts = map(
                upload_named, (thing.settings.calibration.corpus, thing.settings.evaluation.corpus)
            )
            answers = named("record", *thing.records) | named("passages", run_passages(thing))
            answers |= named(
                "questionset", *(key for keys in thing.answers.values() for key in keys)
            )
            return answers | named("text", *texts) | named("model", thing.model_identity)
        case Export():
            records = named("record", thing.settings.dense, thing.settings.sparse)
            return records | named("model", thing.model_identity)
        case Timing():
            return named("record", thing.dense, thing.sparse)
        case Prompts():
            return named(
                "record", *(key for asked in thing.asked for key in (asked.left, asked.right))
            )
        case Choices():
            return named("record", *filter(None, thing.better.values()))
        case _:
            return frozenset()


def job_references(job: Job, store: Store, results: ResultCache) -> frozenset[str]:
    """What a job refers to; "model/" where it needs a model whose identity is not known yet."""
    records = {key: results.record(key) for key in records_read(job.settings)}
    models = {record.model_identity if record else "" for record in records.values()}
    if job.makes_run:
        model = str(job.settings.get("model", ""))
        models.add(store.recall(model_identity_note(model, fingerprint(model))) or "")
    texts = map(upload_named, texts_read(job.settings, results.record))
    return named("record", *records) | named("text", *texts) | named("model", *models)


def referring_entries(store: Store, table: JobTable) -> dict[str, frozenset[str]]:
    """The records behind timings, continuations, divergences, prompts and blind choices, by the
    names of their entries.

    Continuations and divergences do not name their records: the job table and the prompts do.
    """
    jobs = table.of_kinds("continuation", "divergence")
    found = {f"{job.kind}/{job.key}": named("record", *records_read(job.settings)) for job in jobs}
    for kind in (Prompts, Timing, Choices):
        for key in list(store.keys(kind)):
            if (thing := store.get(kind, key)) is None:
                continue
            found[f"{kind.__name__.lower()}/{key}"] = references(thing)
            if isinstance(thing, Prompts):
                found |= {
                    f"continuation/{a.key()}": named("record", *records_read(asdict(a)))
                    for a in thing.asked
                }
    return found


def entries_of(run: Run) -> frozenset[str]:
    """The names of a run's entries, of records, passages and continuations too, which other runs
    may share.
    """
    shared = {
        name
        for name in references(run)
        if name.startswith(("record/", "passages/", "questionset/"))
    }
    written = (f"continuation/{key}" for key in run.continuations)
    return frozenset({f"run/{run.key}", f"findresult/{run.key}", *shared, *written})


def entries_alone(going: Collection[Run], runs: Iterable[Run]) -> frozenset[str]:
    """The names of entries that only these runs of all runs have."""
    keys = {run.key for run in going}
    return (
        frozenset[str]()
        .union(*map(entries_of, going))
        .difference(*(entries_of(r) for r in runs if r.key not in keys))
    )


def healed_weights(runs: Iterable[Run], record: Callable[[str], Record | None]) -> frozenset[str]:
    """Keys of the healed weights that models of these runs have. record: gives the record of a
    key.
    """
    keys = (key for run in runs if any(run.settings.heal_steps) for key in run.sparse)
    made = (found.pruned for found in map(record, keys) if found is not None)
    return frozenset(
        each.healed.weights for each in made if each is not None and each.healed is not None
    )


def own_exports(exports: Exports) -> list[Export]:
    """The exports in the data folder that the user may delete."""
    return [export for export in exports.listed() if exports.is_ours(export)]


def stored_items(
    store: Store, table: JobTable, runs: Iterable[Run], exports: Exports, uploads: UserUploads
) -> Iterator[Item]:
    """Everything in the data folder. No value is read but of what refers to records."""
    refers, of_runs = referring_entries(store, table), set[str]()
    for run in runs:
        of_runs |= entries_of(run)
        refers |= dict.fromkeys(entries_of(run), named("model", run.model_identity))
    for entry in store.entries("records"):
        name, sort = entry.name, entry.name.partition("/")[0]
        # What a run wrote cannot be asked for again: it goes with the run.
        written = sort == "continuation" and name in of_runs
        if kind_of_record(name) == "runs" and name not in of_runs:
            # A run that is under way, or was lost, had it: it waits for that as a checkpoint does.
            yield Item("unfinished", *entry[:3], named("model", ""))
            continue
        counted = sort not in _PARTS and not written
        yield Item(
            "runs" if written else kind_of_record(name),
            *entry[:3],
            refers.get(name, frozenset()),
            counted,
        )
    for entry in store.entries("artefacts"):
        kind, _, model = entry.tag.partition(" ")
        yield Item(_OF_ARTEFACTS.get(kind, "statistics"), *entry[:3], named("model", model))
    for unpacked in unpacked_models(store):
        yield Item("models", unpacked.name, *unpacked.size, named("model", unpacked.identity))
    for name, n_bytes in uploads.kept().items():
        yield Item("uploads", name, n_bytes, references=named("text", name))
    for export in own_exports(exports):
        yield Item("exports", export.key, export.n_bytes, export.made_at, references(export))
    for folder in exports.nameless():
        yield Item("exports", f"{EXPORTS}/{folder.name}", folder_size(folder).n_bytes)
    # Logs of workers are small, and a worker may write into its own.
    for file in sorted((store.folder / "logs").glob("*.log")):
        with suppress(OSError):
            yield Item("logs", file.name, file.lstat().st_size, n=file.stem.isdecimal())
    tables = [file.stat().st_size for file in store.folder.glob("jobs.sqlite*") if file.is_file()]
    yield Item("jobs", "jobs.sqlite", sum(tables), n=table.count())


@dataclass(kw_only=True)
class Holding:
    """Things of one kind or of one model. n: how many; of a model its runs. parts: their bytes.

    used_at: time of the last use, or else of writing; 0: never. names: by which runs and exports
    named the model.
    """

    n: int = 0
    parts: Counter[str] = field(default_factory=Counter)
    used_at: float = 0.0
    names: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        """All of them."""
        return self.parts.total()

    def add(self, n: int, part: str, n_bytes: int, used_at: float) -> None:
        """Count more in."""
        self.n, self.used_at = self.n + n, max(self.used_at, used_at)
        self.parts[part] += n_bytes


class RunHolding(NamedTuple):
    """One run: the bytes that it alone takes, and those that it shares with other runs."""

    run: Run
    n_bytes: int
    shared_bytes: int


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What the data folder holds. kinds: those that are there. models: by their identity. models,
    runs: largest first.

    room_bytes: the limit of artefacts. room_fixed: the environment sets it, and nothing here
    changes it.
    """

    kinds: dict[HoldingKind, Holding]
    models: dict[str, Holding]
    runs: tuple[RunHolding, ...]
    free_bytes: int
    room_bytes: int
    room_fixed: bool

    @property
    def is_empty(self) -> bool:
        """Whether the data folder has not been used yet."""
        return set(self.kinds) <= {"jobs", "notes", "logs"}

    def bytes_of(self, *kinds: HoldingKind) -> int:
        """These kinds together."""
        return sum(self.kinds[kind].n_bytes for kind in kinds if kind in self.kinds)


def measure_holdings(
    items: Iterable[Item],
    runs: Sequence[Run],
    exports: Iterable[Export],
    store: Store,
    record: Callable[[str], Record | None],
) -> Holdings:
    """The sums of these items. record: gives the record of a key."""
    kinds, models = defaultdict[HoldingKind, Holding](Holding), defaultdict[str, Holding](Holding)
    bytes_of = Counter[str]()
    for item in items:
        in_files = item.kind in get_args(FileHolding) and not item.name.startswith("export/")
        kinds[item.kind].add(item.n, "", 0 if in_files else item.n_bytes, item.used_at)
        bytes_of[healed_key(item.name) or item.name] += item.n_bytes
        if part := _OF_MODELS.get(item.kind):
            for name in item.references:
                if name.startswith("model/") and name != "model/":
                    models[name.removeprefix("model/")].add(0, part, item.n_bytes, item.used_at)
    for kind in get_args(FileHolding):
        # As the file system has them, with what killed jobs have left.
        size = folder_size(store.folder / kind)
        kinds[kind].add(0, "", size.n_bytes, size.written_at)
    named_by = [(run.model_identity, run.settings.model, 1) for run in runs]
    for identity, name, n in [
        *named_by,
        *((export.model_identity, export.model, 0) for export in exports),
    ]:
        models[identity].n += n
        models[identity].names = tuple(dict.fromkeys((*models[identity].names, name)))
    parts = [entries_of(run) | healed_weights([run], record) for run in runs]
    users, held_runs = Counter(name for names in parts for name in names), []
    for run, names in zip(runs, parts, strict=True):
        sizes = [(bytes_of[name], users[name] > 1) for name in names]
        shared = sum(n_bytes for n_bytes, is_shared in sizes if is_shared)
        held_runs.append(RunHolding(run, sum(n_bytes for n_bytes, _ in sizes) - shared, shared))
    return Holdings(
        kinds={kind: holding for kind, holding in kinds.items() if holding.n or holding.n_bytes},
        models=dict(sorted(models.items(), key=lambda each: each[1].n_bytes, reverse=True)),
        runs=tuple(sorted(held_runs, key=lambda each: each.n_bytes, reverse=True)),
        free_bytes=shutil.disk_usage(store.folder).free,
        room_bytes=store.artefact_room,
        room_fixed=room_of_environment() is not None,
    )
