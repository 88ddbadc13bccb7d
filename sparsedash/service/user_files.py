"""A user's exports and uploads with their quotas, and finished runs as files for another data folder."""

from collections.abc import Callable
from pathlib import Path

from sparsedash.catalog.families import FORMS, form_problem
from sparsedash.catalog.model_shape import WEIGHT_BYTES, shape_from_plain
from sparsedash.schema import store_keys
from sparsedash.schema.errors import ExportError, JobError, NewerError
from sparsedash.schema.export_settings import EXPORTS, Export, Form
from sparsedash.schema.records import Record, Run
from sparsedash.storage.model_folders import RECIPE, delete_folder, located_export, unfinished_exports
from sparsedash.storage.run_files import keep_run, read_run_file, run_file
from sparsedash.storage.store import Store

_BYTES = {**WEIGHT_BYTES, "q8_0": 34 / 32}


class Exports:
    """What was exported, by the dashboard or the shell, with this data folder. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def listed(self) -> list[Export]:
        """All of them whose folder is still there, newest first."""
        found = [self._known(key) for key in self._store.keys(Export)]
        there = [export for export in found if export is not None and Path(export.folder).is_dir()]
        return sorted(there, key=lambda export: export.made_at, reverse=True)

    def is_whole(self, key: str) -> bool:
        """Whether the export with this key is known, and its folder there."""
        found = self._known(key)
        return found is not None and Path(found.folder).is_dir()

    def problems(self, record: Record) -> dict[Form, str]:
        """Of each form why this record's model cannot be written in it; empty where nothing speaks against it."""
        assert record.pruned is not None
        family = self._store.recall(store_keys.model_type_note(record.model_identity))
        return {form: form_problem(form, record.pruned, family) for form in FORMS}

    def expected_bytes(self, dense: str, weights: str) -> int:
        """About what the files will take at most: as much as the dense model. 0 where its size is not known.

        dense: the key of its record. weights: how each weight will be kept.
        """
        record = self._store.get(Record, dense)
        shape = record and shape_from_plain(
            self._store.recall(store_keys.model_shape_note(record.model_identity)) or ""
        )
        return round(shape.n_parameters * _BYTES[weights]) if shape else 0

    def is_ours(self, export: Export) -> bool:
        """Whether it lies in the data folder, so that a page may delete it."""
        # Resolved: neither a link nor `..` leads out of it.
        return Path(export.folder).resolve().parent == self._folder.resolve()

    def drop(self, key: str) -> None:
        """Delete an export that lies in the data folder. Raises ExportError for another place, or where that fails."""
        found = self._known(key)
        if found is None:
            return
        if not self.is_ours(found):
            raise ExportError(
                f"{found.folder} lies outside of the data folder, and is not deleted from here.",
                "Delete it in a shell.",
            )
        self._delete(Path(found.folder))
        self._store.drop(Export, key)

    def nameless(self) -> list[Path]:
        """Folders of the data folder that no record names: of exports under way, of killed ones, of lost records.

        Of the last none where some record cannot be read: it may be theirs.
        """
        known = [self._known(key) for key in self._store.keys(Export)]
        named = {Path(export.folder).name for export in known if export is not None}
        whole = [] if None in known else [recipe.parent for recipe in self._folder.glob(f"[!.]*/{RECIPE}")]
        return [*unfinished_exports(self._folder), *(folder for folder in whole if folder.name not in named)]

    def drop_nameless(self, name: str) -> None:
        """Delete a folder that `nameless` gave. Raises ExportError where that fails."""
        self._delete(self._folder / name)

    def _delete(self, folder: Path) -> None:
        try:
            if folder.is_dir():
                delete_folder(folder)
        except OSError as error:
            raise ExportError(f"{folder} could not be deleted: {error.strerror}.") from error

    def _known(self, key: str) -> Export | None:
        """The export's record; None also for one that another version has written, which stays."""
        try:
            found = self._store.get(Export, key)
        except NewerError:
            return None
        return found and located_export(found, self._store.folder)

    @property
    def _folder(self) -> Path:
        return self._store.folder / EXPORTS


class RunTransfer:
    """Takes runs out of one data folder and brings them in. run: reads one. Every method may raise StoreError."""

    def __init__(self, store: Store, run: Callable[[str], Run | None]) -> None:
        self._store, self._run = store, run

    def packed(self, key: str) -> bytes:
        """The file of the run with this key. Raises JobError where it has not finished, or is not there any more."""
        run = self._run(key)
        if run is None or not run.finished:
            raise JobError("This run has not finished.", "Wait until it has, or start it again.")
        return run_file(run, self._store)

    def opened(self, data: bytes) -> Run:
        """Keep the run of such a file, and return it as it is here now; what is here already stays as it is.

        Raises StoreError, with nothing kept, for what is no such file or was changed.
        """
        return keep_run(read_run_file(data), self._store)
