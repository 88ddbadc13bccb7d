"""Files of a user: exports and uploads, held to their quotas."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from sparsedash.catalog.export_forms import FORMS, form_problem
from sparsedash.catalog.model_sizes import WEIGHT_BYTES
from sparsedash.jobs.job import Job
from sparsedash.schema.errors import AccessError, CorpusError, ExportError
from sparsedash.schema.export_settings import EXPORTS, Export, ExportSettings, Form
from sparsedash.schema.records import Record
from sparsedash.schema.sparse_spec import Quantisation
from sparsedash.service.request_checks import Access, upload_named
from sparsedash.storage.model_folders import (
    RECIPE,
    delete_folder,
    is_there,
    located_export,
    unfinished_exports,
)
from sparsedash.storage.shape_notes import known_shape
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import Uploads

_BYTES = {
    **WEIGHT_BYTES,
    **dict.fromkeys(get_args(Quantisation), 34 / 32),
    "as-stored": 2,
}
_ADVICE = "Delete some that are no longer needed."
_KEPT = "What is kept for you may have {} GB together"


class Exports:
    """The exports of one data folder, by the dashboard or the shell, as one user has them.

    live: gives the live jobs of all users. Safe to share between threads.
    """

    def __init__(
        self,
        store: Store,
        uploads: Uploads,
        access: Access,
        live: Callable[[], Iterable[Job]],
    ) -> None:
        self._store = store
        self._uploads = uploads
        self._access = access
        self._live = live
        self._folder = store.folder / EXPORTS

    def listed(self) -> list[Export]:
        """The exports that the user sees and whose folder is there, newest first."""
        return [export for export in self._all() if self._access.sees(export.key)]

    def is_whole(self, key: str) -> bool:
        """Whether the export with this key is known, whoever asked for it, and its folder there."""
        export = self._get(key)
        return export is not None and Path(export.folder).is_dir()

    def problems(self, record: Record) -> dict[Form, str]:
        """For each form, why this record's model cannot be written in it; empty where it can."""
        assert record.pruned is not None
        shape = known_shape(self._store, record.model_identity)
        return {form: form_problem(form, record.pruned, shape) for form in FORMS}

    def may_delete(self, export: Export) -> bool:
        """Whether the user may delete it from a page: it lies in the data folder and is theirs."""
        return self._is_inside(export) and self._access.may_change(export.key)

    def drop(self, key: str) -> None:
        """Delete an export; a shared one is only taken from the user. Raises ExportError."""
        if not self._access.may_change(key):
            raise ExportError(
                "The export is not deleted: it belongs to another user; an administrator can delete it."
            )
        if any(job.key == key for job in self._live()):
            raise ExportError(
                "The export is being written.", "Wait for its job, or cancel it."
            )
        export = self._get(key)
        if self._access.give_up(key):
            return
        if export is not None:
            if not self._is_inside(export):
                raise ExportError(
                    f"{export.folder} is outside the data folder.",
                    "Delete it manually.",
                )
            _delete(Path(export.folder))
            self._store.drop(Export, key)
        self._access.owners.forget(key)

    def unrecorded(self) -> list[Path]:
        """Folders without a record: exports under way, remains of killed ones, and lost ones."""
        # Folders first: one that gets its name meanwhile has its record by then.
        finished = [recipe.parent for recipe in self._folder.glob(f"[!.]*/{RECIPE}")]
        named = {Path(export.folder).name for export in self._all()}
        lost = [folder for folder in finished if folder.name not in named]
        return [*unfinished_exports(self._folder), *lost]

    def drop_unrecorded(self, name: str) -> None:
        """Delete a folder that `unrecorded` gave. Raises ExportError where that fails."""
        _delete(self._folder / name)

    def kept_bytes(self, *requested: ExportSettings) -> int:
        """Bytes of the user's exports: those that are there, those under way and `requested`."""
        # Jobs first: one that ends meanwhile is among the others by then.
        sizes = {}
        for job in self._live():
            if job.kind == "export" and self._access.is_owner(job.key):
                sizes[job.key] = self._expected_bytes(
                    job.settings["dense"], job.settings["weights"]
                )
        for settings in requested:
            sizes[settings.key()] = self._expected_bytes(
                settings.dense, settings.weights
            )
        for export in self._all():
            if export.key in sizes or self._access.is_owner(export.key):
                sizes[export.key] = export.n_bytes
        return sum(sizes.values())

    @contextmanager
    def room_for(self, request: object) -> Iterator[None]:
        """Hold the quota while an export is put into the queue. Raises AccessError beyond it."""
        access = self._access
        if access.rules is None or not isinstance(request, ExportSettings):
            yield
            return
        if request.to:
            access.require_administrator(
                "chooses where files are written", "Leave the folder empty."
            )
            access.require_path(request.to)
        with self._uploads.changing():
            if not access.unlimited:
                uploads = self._uploads.kept().items()
                upload_bytes = sum(
                    size for name, size in uploads if access.is_owner(name)
                )
                limit_gb = access.rules.quota.kept_gb
                if upload_bytes + self.kept_bytes(request) >= limit_gb * 10**9:
                    raise AccessError(
                        f"{_KEPT.format(limit_gb)}, this export included.", _ADVICE
                    )
            yield

    def _all(self) -> list[Export]:
        exports = [
            export for key in self._store.keys(Export) if (export := self._get(key))
        ]
        return sorted(
            filter(is_there, exports),
            key=lambda export: export.made_at,
            reverse=True,
        )

    def _get(self, key: str) -> Export | None:
        export = self._store.get(Export, key)
        return export and located_export(export, self._store.folder)

    def _is_inside(self, export: Export) -> bool:
        # Resolved: neither a link nor `..` leads out of it.
        return Path(export.folder).resolve().parent == self._folder.resolve()

    def _expected_bytes(self, dense: str, weights: str) -> int:
        """About the most that the files take: the dense model. 0 where its size is not known."""
        record = self._store.get(Record, dense)
        shape = record and known_shape(self._store, record.model_identity)
        return round(shape.n_parameters * _BYTES[weights]) if shape else 0


class UserUploads:
    """The uploads of one user; the same file by two users is stored once.

    texts_in_use: gives the references of the texts that live jobs of all users read.
    """

    def __init__(
        self,
        uploads: Uploads,
        exports: Exports,
        access: Access,
        texts_in_use: Callable[[], Collection[str]],
    ) -> None:
        self._uploads = uploads
        self._exports = exports
        self._access = access
        self._texts_in_use = texts_in_use

    def keep(self, name: str, content: bytes, n_passages: int = 0) -> str:
        """Store a file as this user's. Raises CorpusError, beyond the quota as well."""
        with self._uploads.changing():
            if self._uploads.reference(name, content) not in self.kept():
                self._require_quota(len(content))
            reference = self._uploads.keep(name, content, n_passages)
            self._access.owners.add(reference, self._access.user)
        return reference

    def kept(self) -> dict[str, int]:
        """The size in bytes of each of the user's uploads by its reference, newest first."""
        return {
            name: size
            for name, size in self._uploads.kept().items()
            if self._access.may_change(name)
        }

    def drop(self, reference: str) -> None:
        """Delete an upload, or give up a shared one. Raises CorpusError while a job reads it."""
        name = upload_named(reference)
        with self._uploads.changing():
            if not self._access.may_change(name):
                raise CorpusError(f"There is no upload {reference}.")
            if not self._access.give_up(name):
                self._uploads.drop(reference, self._texts_in_use())
                self._access.owners.forget(name)

    def _require_quota(self, n_bytes: int) -> None:
        if self._access.unlimited or self._access.rules is None:
            return
        quota = self._access.rules.quota
        kept = self.kept()
        upload_bytes = sum(kept.values()) + n_bytes
        if len(kept) >= quota.uploads:
            raise CorpusError(f"Your uploads are limited to {quota.uploads}.", _ADVICE)
        if upload_bytes > quota.upload_mb * 10**6:
            raise CorpusError(
                f"Your uploads may have {quota.upload_mb} MB together.", _ADVICE
            )
        if upload_bytes + self._exports.kept_bytes() > quota.kept_gb * 10**9:
            raise CorpusError(f"{_KEPT.format(quota.kept_gb)}.", _ADVICE)


def _delete(folder: Path) -> None:
    try:
        if folder.is_dir():
            delete_folder(folder)
    except OSError as error:
        raise ExportError(
            f"{folder} could not be deleted: {error.strerror}."
        ) from error
