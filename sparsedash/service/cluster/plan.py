"""What of a job each machine of a cluster does, and what becomes of the files that come back.

A run is spread: one machine answers as the dense model and calibrates, with the first sparse model of every kind of
calibration; then any machine makes any other sparse model. A search tries one sparsity after another, on one machine.
"""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec

from sparsedash.jobs.job import Job
from sparsedash.jobs.parts import KeptCalibration, Part, PartEnd
from sparsedash.schema import notes
from sparsedash.schema.cache_keys import plain_share
from sparsedash.schema.errors import StoreError
from sparsedash.schema.hashing import STAGE_VERSIONS, canonical_json
from sparsedash.schema.hosting.parts import PartSettings
from sparsedash.schema.records import Record, Run, from_json, to_json
from sparsedash.schema.searches import FindSettings, asked_settings
from sparsedash.schema.settings import RunSettings
from sparsedash.storage.run_files import RunFile, keep_results, keep_run, read_run_file, run_file
from sparsedash.storage.serving_file import may_use_token
from sparsedash.storage.store import Store
from sparsedash.storage.texts.text_refs import UPLOAD, file_of

_NUMBER = re.compile(r"\d[\d.,]*")
_SHARED = ("dense", "calibration")
"""What every part but the first is given, and so finds in its store."""


def plan_of(job: Job, store: Store) -> "RunPlan | FindPlan":
    """The plan for a job that makes a run. Raises SettingsError where nobody knows any more what was asked for."""
    asked = asked_settings(job.kind, job.settings)
    return FindPlan(job, asked, store) if isinstance(asked, FindSettings) else RunPlan(job, asked, store)


class FindPlan:
    """One part, which is the whole search."""

    def __init__(self, job: Job, asked: FindSettings, store: Store) -> None:
        self._job, self._asked, self._store = job, asked, store
        self.whole = False

    def left(self) -> Sequence[str]:
        """See Plan."""
        return () if self.whole else ("search",)

    def part(self, name: str) -> Part:
        """See Plan."""
        texts = _uploads(self._asked, self._store.folder)
        asked, owner = self._job.settings, _without_token(self._job)
        return Part(name=name, kind="find", key=self._job.key, settings=asked, texts=texts, owner=owner)

    def keep(self, part: Part, end: PartEnd) -> None:
        """See Plan."""
        file = read_run_file(end.file)
        if file.run.key != part.key or file.run.find != self._asked or not file.has_search:
            raise _not_asked_for(end)
        keep_run(file, self._store)
        self.whole = True

    def said(self) -> str:
        """See Plan."""
        return ""


class RunPlan:
    """One part with the dense model and the calibrations, then one for each sparse model that is left.

    What came back is noted under the run, so that neither another attempt nor another server asks for it again.
    """

    def __init__(self, job: Job, asked: RunSettings, store: Store) -> None:
        self._job, self._asked, self._store = job, asked, store
        self._made: dict[tuple[int, ...], Run] = {}
        self._calibration: KeptCalibration | None = None
        self._recall()

    @property
    def whole(self) -> bool:
        """Whether nothing is left to be done."""
        return len(self._done) == self._asked.n_sparse

    def left(self) -> Sequence[str]:
        """The first part alone until it is there; then all others."""
        if not self._made:
            return ("-".join(map(str, first_points(self._asked))),)
        return [str(point) for point in range(self._asked.n_sparse) if point not in self._done]

    def part(self, name: str) -> Part:
        """See Plan."""
        points = tuple(map(int, name.split("-")))
        asked = PartSettings(run=self._asked, run_key=self._job.key, points=points)
        return Part(
            name=name,
            kind="part",
            key=asked.key(),
            settings=json.loads(canonical_json(asdict(asked))),
            known=run_file(replace(self._grown(), sparse=()), self._store) if self._made else b"",
            texts=_uploads(self._asked, self._store.folder),
            calibration=self._calibration,
            owner=_without_token(self._job),
        )

    def keep(self, part: Part, end: PartEnd) -> None:
        """Keep what a part has made; what is here already stays. Raises StoreError for what it was not asked for."""
        file = read_run_file(end.file)
        points = tuple(part.settings["points"])
        self._refuse_others(file, part, end)
        keep_results(file, self._store)
        self._made[points] = file.run
        self._calibration = self._calibration or end.calibration
        self._note()
        before = self._store.get(Run, self._job.key)
        if self.whole or before is None or not before.finished:
            self._store.put(self._job.key, self._grown())
        if self.whole:
            self._store.forget(notes.parts_done(self._job.key))

    def said(self) -> str:
        """See Plan."""
        n_sparse = self._asked.n_sparse
        return f"{len(self._done)} of {n_sparse} sparse models are made" if n_sparse > 1 and self._made else ""

    @property
    def _done(self) -> dict[int, str]:
        """The record key of every point that is made."""
        return {point: key for points, run in self._made.items() for point, key in zip(points, run.sparse, strict=True)}

    def _refuse_others(self, file: RunFile, part: Part, end: PartEnd) -> None:
        run, first = file.run, next(iter(self._made.values()), file.run)
        asked = (part.key, self._asked, len(part.settings["points"]), first.dense)
        if (run.key, run.settings, len(run.sparse), run.dense) != asked:
            raise _not_asked_for(end)
        if run.model_identity != first.model_identity or run.corpora != first.corpora:
            # Another attempt begins anew: the hub may have a newer model than when the first part was made.
            self._store.forget(notes.parts_done(self._job.key))
            raise StoreError(
                f"{end.machine} has another model or text under this name than the machine that began.",
                "The same files must lie on every machine; see docs/cluster.md.",
            )

    def _grown(self) -> Run:
        """The whole run as far as it is; its sparse records in order, up to the first one that is missing."""
        made, first = list(self._made.values()), next(iter(self._made.values()))
        sparse: list[str] = []
        for point in range(self._asked.n_sparse):
            if point not in self._done:
                break
            sparse.append(self._done[point])
        seconds = {stage: sum(run.seconds.get(stage, 0.0) for run in made) for run in made for stage in run.seconds}
        others = [name for run in made[1:] for name in run.cached if name not in _SHARED]
        return replace(
            first,
            key=self._job.key,
            sparse=tuple(sparse),
            finished=self.whole,
            started_at=self._job.started_at or first.started_at,
            finished_at=time.time() if self.whole else None,
            seconds=seconds,
            cached=tuple(dict.fromkeys([*first.cached, *others])),
            warnings=_told_once([line for run in made for line in run.warnings]),
        )

    def _note(self) -> None:
        made = [[list(points), to_json(run)] for points, run in self._made.items()]
        calibration = None if self._calibration is None else asdict(self._calibration)
        noted = {"stages": STAGE_VERSIONS, "made": made, "calibration": calibration}
        self._store.remember(notes.parts_done(self._job.key), json.dumps(noted))

    def _recall(self) -> None:
        told = self._store.recall(notes.parts_done(self._job.key))
        try:
            known: dict[str, Any] = json.loads(told) if told else {}
            made = {tuple(points): from_json(Run, text) for points, text in known.get("made", ())}
            calibration = msgspec.convert(known.get("calibration"), KeptCalibration | None)
        except (ValueError, TypeError, AttributeError, StoreError):
            # Written by another version: the records are there all the same, and machines have them as well.
            return
        if known.get("stages") == STAGE_VERSIONS and all(
            self._store.has(Record, key) for run in made.values() for key in (run.dense, *run.sparse)
        ):
            self._made, self._calibration = made, calibration


def _without_token(job: Job) -> str:
    """Who asked, where their jobs go without the hub's token; else empty."""
    return "" if may_use_token(job.owner) else job.owner


def first_points(asked: RunSettings) -> tuple[int, ...]:
    """The sparse models that are made where the calibration is: the first of every kind that reads text otherwise.

    So that one machine collects, once, what all others need.
    """
    first: dict[tuple[float, bool, bool], int] = {}
    for point, (method, _) in enumerate(asked.points):
        if method.reads_text:
            kind = plain_share(method, asked.calibration), method.takes_channels, method.saliency == "fisher"
            first.setdefault(kind, point)
    return tuple(sorted(first.values())) or (0,)


def _told_once(lines: Sequence[str]) -> tuple[str, ...]:
    """The lines without those that say the same with other numbers: each part looks at a sparse model of its own."""
    first = {_NUMBER.sub("#", line): line for line in reversed(lines)}
    return tuple(line for line in dict.fromkeys(lines) if line in first.values())


def _uploads(asked: RunSettings | FindSettings, folder: Path) -> dict[str, bytes]:
    """The uploaded texts that are read, by name. Raises StoreError where one is gone."""
    found = {}
    for reference in {asked.calibration.corpus, asked.evaluation.corpus}:
        path = file_of(reference, folder) if reference.startswith(UPLOAD) else None
        if path is not None:
            try:
                found[path.name] = path.read_bytes()
            except OSError as error:
                raise StoreError(f"{path.name} cannot be read: {error.strerror}.", "Upload it again.") from error
    return found


def _not_asked_for(end: PartEnd) -> StoreError:
    return StoreError(
        f"{end.machine} sent back something else than was asked of it.",
        "Run `sparsedash cluster check`: all machines must have the same version of SparseDash.",
    )
