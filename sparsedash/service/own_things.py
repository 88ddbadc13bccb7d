"""Uploads, exports and the deletion of runs as one visitor has them, where others are served."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

from sparsedash.jobs.job import Job
from sparsedash.schema.errors import AccessError, CorpusError, ExportError
from sparsedash.schema.export_settings import Export, ExportSettings, Form
from sparsedash.schema.records import Record, Run
from sparsedash.service.deletion import Removal, RunRemoval
from sparsedash.service.request_checks import Access, upload_named
from sparsedash.service.user_files import Exports, RunTransfer
from sparsedash.storage.text_files import Uploads
from sparsedash.storage.users import Quota

_DELETE = "Delete some that are no longer needed."
_OTHERS = "it is somebody else's; an administrator can delete it"


class OwnUploads:
    """One visitor's uploads; the same verbs as `Uploads`. What two visitors upload alike is kept once."""

    def __init__(self, uploads: Uploads, exports: "OwnExports", access: Access) -> None:
        self._uploads, self._exports, self._access = uploads, exports, access

    def keep(self, name: str, content: bytes) -> str:
        """Store a file as this visitor's; see `Uploads.keep`. Raises CorpusError beyond the quota as well."""
        with self._uploads.changing():
            if not self._access.unlimited:
                assert self._access.rules is not None
                self._require_room(len(content), self._access.rules.quota)
            reference = self._uploads.keep(name, content)
            self._access.owners.add(reference, self._access.visitor)
        return reference

    def kept(self) -> dict[str, int]:
        """As `Uploads.kept`, of this visitor's."""
        return {name: size for name, size in self._uploads.kept().items() if self._access.is_own(name)}

    def drop(self, reference: str, in_use: Collection[str]) -> None:
        """Delete an upload; where others have it too, it stays theirs. See `Uploads.drop`."""
        access, name = self._access, upload_named(reference)
        with self._uploads.changing():
            if not access.is_own(name):
                raise CorpusError(f"There is no upload {reference}.")
            if not access.unlimited and access.owners.of(name) - {access.visitor}:
                access.owners.take(name, access.visitor)
                return
            self._uploads.drop(reference, in_use)
            access.owners.forget(name)

    def _require_room(self, n_bytes: int, quota: Quota) -> None:
        kept = self.kept()
        total = sum(kept.values())
        if len(kept) >= quota.uploads:
            raise CorpusError(f"You have {len(kept)} uploads, and no more are allowed.", _DELETE)
        if total + n_bytes > quota.upload_mb * 1_000_000:
            raise CorpusError(f"Your uploads may have {quota.upload_mb} MB together.", _DELETE)
        if total + n_bytes + self._exports.kept_bytes() > quota.kept_gb * 1_000_000_000:
            raise CorpusError(f"What is kept for you may have {quota.kept_gb} GB together.", _DELETE)


class OwnExports:
    """One visitor's exports; the same verbs as `Exports`. live: gives the jobs that wait or run, whosever they are."""

    def __init__(self, exports: Exports, uploads: Uploads, access: Access, live: Callable[[], Iterable[Job]]) -> None:
        self._exports, self._uploads, self._access, self._live = exports, uploads, access, live

    def listed(self) -> list[Export]:
        """As `Exports.listed`, of those that the visitor may see."""
        return [export for export in self._exports.listed() if self._access.sees(export.key)]

    def is_whole(self, key: str) -> bool:
        """As `Exports.is_whole`, whoever asked for it."""
        return self._exports.is_whole(key)

    def problems(self, record: Record) -> dict[Form, str]:
        """As `Exports.problems`."""
        return self._exports.problems(record)

    def is_ours(self, export: Export) -> bool:
        """Whether this visitor may delete it from a page."""
        return self._exports.is_ours(export) and self._access.is_own(export.key)

    def drop(self, key: str) -> None:
        """Delete an export; where others asked for it too, it stays theirs. See `Exports.drop`."""
        access = self._access
        if not access.is_own(key):
            raise ExportError(f"The export is not deleted: {_OTHERS}.")
        if not access.unlimited and access.owners.of(key) - {access.visitor}:
            access.owners.take(key, access.visitor)
            return
        self._exports.drop(key)
        access.owners.forget(key)

    def kept_bytes(self, *asked: ExportSettings) -> int:
        """What this visitor's exports take: those that are there, those under way, and those that are asked for."""
        # Jobs first: one that ends meanwhile is among the others by then.
        under_way = {job.key: job.settings for job in self._live() if job.kind == "export" and self._is_theirs(job.key)}
        coming = under_way | {each.key(): asdict(each) for each in asked}
        sizes = {key: self._exports.expected_bytes(each["dense"], each["weights"]) for key, each in coming.items()}
        there = [each for each in self._exports.listed() if each.key in coming or self._is_theirs(each.key)]
        return sum((sizes | {each.key: each.n_bytes for each in there}).values())

    @contextmanager
    def room_for(self, asked: ExportSettings) -> Iterator[None]:
        """Hold the quota while this export is put into the queue.

        Raises AccessError where the visitor may not export any more, or not to that folder.
        """
        access = self._access
        if asked.to and not access.unlimited:
            raise AccessError("Only an administrator chooses where files are written.", "Leave the folder empty.")
        if asked.to:
            access.require_path(asked.to)
        with self._uploads.changing():
            if not access.unlimited and access.rules is not None:
                own = sum(size for name, size in self._uploads.kept().items() if access.is_own(name))
                most = access.rules.quota.kept_gb
                if own + self.kept_bytes(asked) >= most * 1_000_000_000:
                    raise AccessError(
                        f"What is kept for you may have {most} GB together, this export included.", _DELETE
                    )
            yield

    def _is_theirs(self, key: str) -> bool:
        return self._access.visitor in self._access.owners.of(key)


class OwnTransfer:
    """Runs as files for one visitor; the same verbs as `RunTransfer`, which must read that visitor's runs."""

    def __init__(self, transfer: RunTransfer, access: Access) -> None:
        self._transfer, self._access = transfer, access

    def packed(self, key: str) -> bytes:
        """As `RunTransfer.packed`, of a run that the visitor sees."""
        return self._transfer.packed(key)

    def opened(self, data: bytes) -> Run:
        """As `RunTransfer.opened`. Raises AccessError for all but administrators.

        Results are shared by what they are made of: whoever could bring some in could make up those of others.
        """
        if not self._access.unlimited:
            raise AccessError("Only an administrator opens files of runs.", "Ask for the run yourself.")
        return self._transfer.opened(data)


class OwnRemoval:
    """Deletes one visitor's runs; the same verbs as `RunRemoval`. Where others asked for a run too, it stays theirs."""

    def __init__(self, removal: RunRemoval, access: Access) -> None:
        self._removal, self._access = removal, access

    def plan(self, keys: Collection[str]) -> Removal:
        """As `RunRemoval.plan`: runs of others are refused, and of shared ones nothing is deleted."""
        own = [key for key in keys if self._access.is_own(key)]
        shared = set(filter(self._is_shared, own))
        plan = self._removal.plan([key for key in own if key not in shared])
        if not self._access.unlimited:
            # What of others is under way is nobody else's business.
            left = self._removal.plan(shared)
            plan = replace(
                plan, runs=(*plan.runs, *left.runs), n_shared=plan.n_shared + left.n_shared + len(left.records)
            )
            plan = replace(plan, refused={**plan.refused, **left.refused})
        return replace(plan, refused={**plan.refused, **{key: _OTHERS for key in keys if key not in own}})

    def remove(self, keys: Collection[str]) -> Removal:
        """As `RunRemoval.remove`, of what `plan` says."""
        plan = self.plan(keys)
        going = [run.key for run in plan.runs]
        alone = [key for key in going if not self._is_shared(key)]
        for key in going:
            if key not in alone:
                self._access.owners.take(key, self._access.visitor)
        self._removal.remove(alone)
        for key in alone:
            self._access.owners.forget(key)
        return plan

    def _is_shared(self, key: str) -> bool:
        others = self._access.owners.of(key) - {self._access.visitor}
        return not self._access.unlimited and bool(others)
