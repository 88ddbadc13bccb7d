"""Sizes of what the data folder holds, by kind, by model and by run. No value is read, only two tables of sizes."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.export_settings import EXPORTS, Export
from sparsedash.schema.records import Run, kind_and_model
from sparsedash.schema.store_keys import passages_key
from sparsedash.storage.disk_cache import TagSum
from sparsedash.storage.local_machine import FolderSize, folder_size
from sparsedash.storage.model_folders import MODELS, UnpackedModel, unpacked_models
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import uploads_folder

HoldingKind = Literal[
    "runs",
    "texts",
    "timings",
    "statistics",
    "gradients",
    "written",
    "weights",
    "unfinished",
    "unlabelled",
    "models",
    "uploads",
    "exports",
    "logs",
    "damaged",
    "jobs",
    "notes",
]
"""runs: with their answers and passages. texts: what models wrote and were compared on, prompts, blind choices.
statistics to unlabelled: what calibration left, the last of earlier versions, which did not note what it was. damaged:
records that were set aside.
"""

ARTEFACTS: tuple[HoldingKind, ...] = ("statistics", "gradients", "written", "weights", "unfinished", "unlabelled")

_OF_RECORDS: dict[str, HoldingKind] = {
    **dict.fromkeys(("run", "record", "passages", "findresult"), "runs"),
    **dict.fromkeys(("continuation", "divergence", "prompts", "choices"), "texts"),
    "timing": "timings",
    "export": "exports",
    "damaged": "damaged",
}
_OF_ARTEFACTS: dict[str, HoldingKind] = {
    **dict.fromkeys(("statistics", "inputs", "sensitivity", "activations", "scores"), "statistics"),
    "gradients": "gradients",
    "text": "written",
    "weights": "weights",
    "unfinished": "unfinished",
}
_COUNTED = {"record", "passages", "findresult", "export"}
"""Entries that are parts of what is counted, and not counted themselves."""


def kind_of_record(name: str) -> HoldingKind:
    """To which kind an entry of the results belongs. name: its key in the store, with its kind before it."""
    return _OF_RECORDS.get(name.partition("/")[0], "notes")


def kind_of_artefact(tag: str) -> HoldingKind:
    """To which kind an artefact belongs. tag: what is noted beside it."""
    return _OF_ARTEFACTS.get(kind_and_model(tag)[0], "unlabelled")


@dataclass(kw_only=True)
class Holding:
    """How many, how many bytes, and when one of them was last used or, where that is not noted, written; 0: never."""

    n: int = 0
    n_bytes: int = 0
    used_at: float = 0.0

    def add(self, n: int, n_bytes: int, used_at: float) -> None:
        """Count more in."""
        self.n, self.n_bytes, self.used_at = self.n + n, self.n_bytes + n_bytes, max(self.used_at, used_at)


@dataclass(kw_only=True)
class ModelHolding:
    """What there is of one model, in bytes by what it is. references: by which it was named, newest first."""

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
    """One run: the bytes that only it takes, and those that it shares with others."""

    run: Run
    n_bytes: int
    shared_bytes: int


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What there is. kinds: those of which there is something. models, runs: the largest first."""

    kinds: dict[HoldingKind, Holding]
    models: tuple[ModelHolding, ...]
    runs: tuple[RunHolding, ...]
    free_bytes: int

    @property
    def n_bytes(self) -> int:
        """All that lies in the data folder."""
        return sum(holding.n_bytes for holding in self.kinds.values())

    @property
    def artefact_bytes(self) -> int:
        """What calibration left."""
        return sum(self.kinds[kind].n_bytes for kind in ARTEFACTS if kind in self.kinds)

    @property
    def is_empty(self) -> bool:
        """Whether nobody has left anything here yet."""
        return set(self.kinds) <= {"jobs", "notes", "logs"}


def measure_holdings(store: Store, table: JobTable, runs: Sequence[Run], exports: Sequence[Export]) -> Holdings:
    """What this data folder holds now. runs, exports: those that this version can read, exports of this folder."""
    records, artefacts = store.entries("records"), store.artefact_sums()
    unpacked = unpacked_models(store)
    kinds: dict[HoldingKind, Holding] = defaultdict(Holding)
    for entry in records:
        counted = entry.name.partition("/")[0] not in _COUNTED
        kinds[kind_of_record(entry.name)].add(int(counted), entry.n_bytes, entry.used_at)
    for found in artefacts:
        kinds[kind_of_artefact(found.tag)].add(found.n, found.n_bytes, found.used_at)
    for kind, n, size in _folders(store.folder, len(unpacked), len(exports)):
        kinds[kind].add(size.n_files if n is None else n, size.n_bytes, size.written_at)
    kinds["jobs"].add(table.count(), _table_bytes(store.folder), 0.0)
    bytes_of = {entry.name: entry.n_bytes for entry in records}
    parts = {run.key: _parts_of(run) for run in runs}
    return Holdings(
        kinds={kind: holding for kind, holding in kinds.items() if holding.n or holding.n_bytes},
        models=_models(_answers(bytes_of, parts, runs), artefacts, unpacked, exports),
        runs=_runs(bytes_of, parts, runs),
        free_bytes=shutil.disk_usage(store.folder).free,
    )


def _folders(folder: Path, n_unpacked: int, n_exports: int) -> list[tuple[HoldingKind, int | None, FolderSize]]:
    """Of each folder the kind, how many things lie in it (None: as many as files), and its size."""
    return [
        ("models", n_unpacked, folder_size(folder / MODELS)),
        ("uploads", None, folder_size(uploads_folder(folder))),
        ("exports", n_exports, folder_size(folder / EXPORTS)),
        ("logs", None, folder_size(folder / "logs")),
    ]


def _table_bytes(folder: Path) -> int:
    files = (folder / f"jobs.sqlite{end}" for end in ("", "-wal", "-shm"))
    return sum(file.stat().st_size for file in files if file.is_file())


def _parts_of(run: Run) -> list[str]:
    """The entries of the store that a run is made of, beside its own."""
    evaluation = run.corpora.get("evaluation")
    texts = [] if evaluation is None else [f"passages/{passages_key(evaluation, run.settings.evaluation)}"]
    return [*(f"record/{key}" for key in dict.fromkeys((run.dense, *run.sparse)) if key), *texts]


def _runs(bytes_of: Mapping[str, int], parts: Mapping[str, list[str]], runs: Iterable[Run]) -> tuple[RunHolding, ...]:
    users = Counter(name for names in parts.values() for name in names)
    found = []
    for run in runs:
        own = sum(bytes_of.get(name, 0) for name in _own(run))
        own += sum(bytes_of.get(name, 0) for name in parts[run.key] if users[name] == 1)
        shared = sum(bytes_of.get(name, 0) for name in parts[run.key] if users[name] > 1)
        found.append(RunHolding(run=run, n_bytes=own, shared_bytes=shared))
    return tuple(sorted(found, key=lambda each: each.n_bytes, reverse=True))


def _own(run: Run) -> tuple[str, str]:
    """The entries of the store that are a run's alone."""
    return f"run/{run.key}", f"findresult/{run.key}"


def _answers(
    bytes_of: Mapping[str, int], parts: Mapping[str, list[str]], runs: Iterable[Run]
) -> dict[str, ModelHolding]:
    """Of each model the runs, as far as that goes; what several runs use counts once."""
    found: dict[str, ModelHolding] = {}
    seen: set[str] = set()
    for run in runs:
        holding = _of(found, run.model_identity, run.started_at, run.settings.model)
        names = {*_own(run), *parts[run.key]} - seen
        holding.n_runs += 1
        holding.answers += sum(bytes_of.get(name, 0) for name in names)
        seen |= names
    return found


def _models(
    found: dict[str, ModelHolding],
    artefacts: Iterable[TagSum],
    unpacked: Iterable[UnpackedModel],
    exports: Iterable[Export],
) -> tuple[ModelHolding, ...]:
    """found: with the runs; the rest is added to it."""
    for left in artefacts:
        if identity := kind_and_model(left.tag)[1]:
            _of(found, identity, left.used_at).calibration += left.n_bytes
    for model in unpacked:
        if model.identity:
            _of(found, model.identity, model.written_at).unpacked += model.n_bytes
    for export in exports:
        _of(found, export.model_identity, export.made_at, export.model).exports += export.n_bytes
    return tuple(sorted(found.values(), key=lambda each: each.n_bytes, reverse=True))


def _of(found: dict[str, ModelHolding], identity: str, used_at: float, reference: str = "") -> ModelHolding:
    holding = found.setdefault(identity, ModelHolding(identity=identity))
    holding.used_at = max(holding.used_at, used_at)
    if reference and reference not in holding.references:
        holding.references = (*holding.references, reference)
    return holding
