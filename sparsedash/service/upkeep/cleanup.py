"""What would be deleted of what somebody wants to be rid of, and what of it stays, and why. Nothing is deleted here."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from sparsedash.schema.errors import NewerError
from sparsedash.schema.exports import Export
from sparsedash.schema.hosting.upkeep import told_of
from sparsedash.schema.pair_records import Choices, Prompts, Timing
from sparsedash.schema.records import Run
from sparsedash.service.run_removal import Removal
from sparsedash.service.upkeep.holdings import ARTEFACTS, HoldingKind, kind_of_artefact, kind_of_record
from sparsedash.service.upkeep.in_use import InUse
from sparsedash.storage.cache_file import Entry
from sparsedash.storage.store import Store
from sparsedash.storage.texts.text_refs import file_of
from sparsedash.storage.texts.uploads import Uploads
from sparsedash.storage.upkeep.unpacked import UnpackedModel, unpacked_models

DELETABLE: tuple[HoldingKind, ...] = (
    "runs",
    "texts",
    "timings",
    *ARTEFACTS,
    "models",
    "uploads",
    "exports",
    "logs",
    "damaged",
)
"""The job table and short notes stay: they are small, and everything else is found by them."""

Why = str
NEEDED = "a job that waits or runs may need {them}"
NAMELESS = "no name is left to find {them} by"
_PINNED = "a pinned run uses {them}"
_READ = "runs here were calibrated on {them} or answered {them}"


class Item(NamedTuple):
    """One thing to delete. name: an entry's in the store, a folder's, a reference, a key, a file's, as its kind is."""

    kind: HoldingKind
    name: str
    n_bytes: int


class Staying(NamedTuple):
    """So many of a kind stay. why: with {them} where they are spoken of."""

    kind: HoldingKind
    n: int
    why: Why


@dataclass(frozen=True, kw_only=True)
class Cleanup:
    """What goes. removal: of runs; None where none were asked for. n_named: how many runs that go have a name."""

    removal: Removal | None
    items: tuple[Item, ...]
    stays: tuple[Staying, ...]
    n_bytes: int
    n_named: int = 0

    @property
    def deletes(self) -> bool:
        """Whether there is anything to delete."""
        return bool(self.items) or (self.removal is not None and bool(self.removal.runs))


def of_items(found: Iterable[tuple[Item, Why]]) -> tuple[tuple[Item, ...], tuple[Staying, ...]]:
    """Those without a reason to stay, and how many of the others stay for which reason."""
    listed = list(found)
    reasons = Counter((item.kind, why) for item, why in listed if why)
    stays = tuple(Staying(kind, n, why) for (kind, why), n in reasons.items())
    return tuple(item for item, why in listed if not why), stays


class Weighing:
    """Looks at what there is of each kind, and says of each thing why it stays, or nothing.

    runs, exports: those that this version can read. records_of: the records behind each stored continuation and
    divergence, by the name of its entry.
    """

    def __init__(
        self,
        store: Store,
        used: InUse,
        runs: Collection[Run],
        exports: Collection[Export],
        records_of: Callable[[], dict[str, frozenset[str]]],
    ) -> None:
        self._store, self._used, self._runs, self._exports = store, used, runs, exports
        self._records_of = records_of

    def of_kind(self, kind: HoldingKind) -> Iterator[tuple[Item, Why]]:
        """All of one kind but runs."""
        match kind:
            case "texts":
                return self._texts()
            case "timings":
                return self._timings()
            case "models":
                return self._unpacked(unpacked_models(self._store))
            case "uploads":
                return self._uploads()
            case "exports":
                return self._of_exports(self._exports)
            case "logs":
                return self._logs()
            case "damaged":
                return ((Item(kind, entry.name, entry.n_bytes), "") for entry in self._of_records(kind))
            case _ if kind in ARTEFACTS:
                found = self._store.entries("artefacts")
                return self._artefacts(entry for entry in found if kind_of_artefact(entry.tag) == kind)
            case _:
                return iter(())

    def of_model(self, identity: str) -> Iterator[tuple[Item, Why]]:
        """All of one model but its runs."""
        artefacts = self._store.entries("artefacts")
        yield from self._artefacts(entry for entry in artefacts if told_of(entry.tag)[1] == identity)
        yield from self._unpacked(model for model in unpacked_models(self._store) if model.identity == identity)
        yield from self._of_exports(export for export in self._exports if export.model_identity == identity)

    def _artefacts(self, found: Iterable[Entry]) -> Iterator[tuple[Item, Why]]:
        for entry in found:
            why = NEEDED if self._used.needs_model(told_of(entry.tag)[1]) else ""
            yield Item(kind_of_artefact(entry.tag), entry.name, entry.n_bytes), why

    def _unpacked(self, found: Iterable[UnpackedModel]) -> Iterator[tuple[Item, Why]]:
        for model in found:
            yield Item("models", model.name, model.n_bytes), NEEDED if self._used.needs_model(model.identity) else ""

    def _of_exports(self, found: Iterable[Export]) -> Iterator[tuple[Item, Why]]:
        for export in found:
            why = NEEDED if export.key in self._used.keys else ""
            why = why or (_PINNED if export.settings.sparse in self._used.records else "")
            yield Item("exports", export.key, export.n_bytes), why

    def _uploads(self) -> Iterator[tuple[Item, Why]]:
        folder = self._store.folder
        read_by_jobs = {file_of(text, folder) for text in self._used.texts}
        asked = (text for run in self._runs for text in _texts_of(run))
        read_by_runs = {file_of(text, folder) for text in asked}
        for reference, n_bytes in Uploads(folder).kept().items():
            file = file_of(reference, folder)
            why = NEEDED if file in read_by_jobs else _READ if file in read_by_runs else ""
            yield Item("uploads", reference, n_bytes), why

    def _logs(self) -> Iterator[tuple[Item, Why]]:
        """Of jobs; those of workers are small, and some worker may write into its own."""
        for file in sorted((self._store.folder / "logs").glob("*.log")):
            if file.stem.isdecimal():
                with suppress(OSError):
                    n_bytes = file.lstat().st_size
                    yield Item("logs", file.name, n_bytes), NEEDED if int(file.stem) in self._used.jobs else ""

    def _timings(self) -> Iterator[tuple[Item, Why]]:
        for entry in self._of_records("timings"):
            found = None
            with suppress(NewerError):
                found = self._store.get(Timing, _key(entry))
            yield self._of_pair(entry, {found.dense, found.sparse} if found else set())

    def _texts(self) -> Iterator[tuple[Item, Why]]:
        records_of = self._records_of()
        for entry in self._of_records("texts"):
            yield self._of_pair(entry, records_of.get(entry.name) or self._named_in(entry))

    def _named_in(self, entry: Entry) -> set[str]:
        """The records that prompts and blind choices name."""
        with suppress(NewerError):
            match entry.name.partition("/")[0]:
                case "prompts":
                    prompts = self._store.get(Prompts, _key(entry))
                    return {key for asked in prompts.asked for key in (asked.left, asked.right)} if prompts else set()
                case "choices":
                    choices = self._store.get(Choices, _key(entry))
                    return set(choices.better.values()) - {""} if choices else set()
        return set()

    def _of_pair(self, entry: Entry, records: Collection[str]) -> tuple[Item, Why]:
        why = NEEDED if _key(entry) in self._used.keys else ""
        why = why or (_PINNED if set(records) & self._used.records else "")
        return Item(kind_of_record(entry.name), entry.name, entry.n_bytes), why

    def _of_records(self, kind: HoldingKind) -> list[Entry]:
        return [entry for entry in self._store.entries("records") if kind_of_record(entry.name) == kind]


def _key(entry: Entry) -> str:
    return entry.name.partition("/")[2]


def _texts_of(run: Run) -> tuple[str, str]:
    return run.settings.calibration.corpus, run.settings.evaluation.corpus
