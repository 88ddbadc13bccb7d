"""Uploads, exports and the deletion of runs as one visitor has them, where others are served."""

import threading
from collections.abc import Collection
from dataclasses import replace

from sparsedash.schema.errors import AccessError, CorpusError, ExportError
from sparsedash.schema.exports import Export, Form
from sparsedash.schema.hosting.serving import Quota
from sparsedash.schema.records import Record, Run
from sparsedash.service.access import Access, upload_named
from sparsedash.service.exports import Exports
from sparsedash.service.run_removal import Removal, RunRemoval
from sparsedash.service.run_transfer import RunTransfer
from sparsedash.storage.texts.uploads import Uploads

_DELETE = "Delete some that are no longer needed."
_OTHERS = "it is somebody else's; an administrator can delete it"
_counting = threading.Lock()
"""Held while a quota is looked at and used up, so that two uploads at once do not both fit into the last place."""


class OwnUploads:
    """One visitor's uploads; the same verbs as `Uploads`. What two visitors upload alike is kept once."""

    def __init__(self, uploads: Uploads, exports: "OwnExports", access: Access) -> None:
        self._uploads, self._exports, self._access = uploads, exports, access

    def keep(self, name: str, content: bytes) -> str:
        """Store a file as this visitor's; see `Uploads.keep`. Raises CorpusError beyond the quota as well."""
        with _counting:
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
    """One visitor's exports; the same verbs as `Exports`."""

    def __init__(self, exports: Exports, uploads: Uploads, access: Access) -> None:
        self._exports, self._uploads, self._access = exports, uploads, access

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

    def kept_bytes(self) -> int:
        """What this visitor's exports take."""
        return sum(e.n_bytes for e in self._exports.listed() if self._access.visitor in self._access.owners.of(e.key))

    def require_room(self, to: str) -> None:
        """Raises AccessError where the visitor may not export any more, or not there. to: the folder asked for."""
        if to and not self._access.unlimited:
            raise AccessError("Only an administrator chooses where files are written.", "Leave the folder empty.")
        if to:
            self._access.require_path(to)
        if self._access.unlimited or self._access.rules is None:
            return
        own = [size for name, size in self._uploads.kept().items() if self._access.is_own(name)]
        most = self._access.rules.quota.kept_gb
        if sum(own) + self.kept_bytes() >= most * 1_000_000_000:
            raise AccessError(f"What is kept for you may have {most} GB together.", _DELETE)


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
