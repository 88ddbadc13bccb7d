"""The server's side of the cluster: splits a run into parts, merges the results, connects to Dask and checks it.

A run is spread: one machine evaluates the dense model and calibrates, with the first sparse model of every kind of
calibration; any machine makes the other sparse models. A search runs on one machine.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import sparsedash
from sparsedash.jobs.cluster_parts import (
    SCHEDULER,
    ClusterMachine,
    KeptCalibration,
    Part,
    PartEnd,
    Scheduler,
    named_scheduler,
)
from sparsedash.jobs.cluster_runner import ClusterRunner, Means
from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema import store_keys
from sparsedash.schema.errors import JobError, SettingsError, StoreError
from sparsedash.schema.plain_values import STAGE_VERSIONS, canonical_json
from sparsedash.schema.records import Record, Run, from_json, to_json
from sparsedash.schema.settings import FindSettings, PartSettings, RunSettings, run_or_find_settings
from sparsedash.schema.store_keys import plain_share
from sparsedash.service import cluster_machine
from sparsedash.storage.run_files import RunFile, keep_results, keep_run, read_run_file, run_file
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import UPLOAD, file_of
from sparsedash.storage.users import may_use_token

if TYPE_CHECKING:
    from sparsedash.jobs.cluster import Cluster


_NUMBER = re.compile(r"\d[\d.,]*")
_SHARED = ("dense", "calibration")
"""What every part but the first is given, and so finds in its store."""


def plan_of(job: Job, store: Store) -> "RunPlan | FindPlan":
    """The plan for a job that makes a run. Raises SettingsError where nobody knows any more what was asked for."""
    asked = run_or_find_settings(job.kind, job.settings)
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
            self._store.forget(store_keys.parts_done_note(self._job.key))

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
            self._store.forget(store_keys.parts_done_note(self._job.key))
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
        self._store.remember(store_keys.parts_done_note(self._job.key), json.dumps(noted))

    def _recall(self) -> None:
        told = self._store.recall(store_keys.parts_done_note(self._job.key))
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


def cluster_runner(folder: Path, table: JobTable, store: Store) -> ClusterRunner | None:
    """What has runs done by the cluster that is named, not started yet; None where none is.

    One that must not be talked to is shown with the reason, and everything is done here.
    """
    plan = partial(plan_of, store=store)
    try:
        scheduler = named_scheduler()
    except SettingsError as error:
        means = Means(connect=_nowhere, plan_of=plan)
        return ClusterRunner(folder, table, os.environ.get(SCHEDULER, ""), means, trouble=str(error))
    if scheduler is None:
        return None
    means = Means(connect=lambda: connect_cluster(scheduler, _name(store)), plan_of=plan)
    return ClusterRunner(folder, table, scheduler.address, means)


def connect_cluster(scheduler: Scheduler, name: str) -> "Cluster":
    """A new connection. name: of the data folder. Raises JobError where there is none."""
    try:
        from sparsedash.jobs.cluster import Cluster, OnMachine
    except ModuleNotFoundError as error:
        raise JobError(
            f"A scheduler is named, and the package {error.name} is not installed.",
            "Run: pip install -r requirements-cluster.txt",
        ) from error
    on_machine = OnMachine(
        do=cluster_machine.perform_part, facts=cluster_machine.machine_facts, piece=cluster_machine.artefact_piece
    )
    return Cluster(scheduler, name, on_machine)


def _name(store: Store) -> str:
    """What tells this data folder from others at the same scheduler."""
    known = store.recall(store_keys.cluster_name_note())
    if known is None:
        known = secrets.token_hex(8)
        store.remember(store_keys.cluster_name_note(), known)
    return known


def _nowhere() -> "Cluster":
    raise JobError("The scheduler that is named must not be asked.")


FACTS_WITHIN_S = 10.0
"""A machine says what it is with its next heartbeat."""

_MUST_AGREE = ("python", "distributed", "dask", "msgpack", "cloudpickle", "tornado")
_OF_THE_ENGINE = ("torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class ClusterCheck:
    """machines: every Dask worker. to_mend: what keeps work from being done, or results from being equal, in words."""

    machines: tuple[ClusterMachine, ...]
    to_mend: tuple[str, ...]


def check_cluster(scheduler: Scheduler, within_s: float = FACTS_WITHIN_S) -> ClusterCheck:
    """What there is at this scheduler. Raises JobError where none answers."""
    cluster = connect_cluster(scheduler, "check")
    try:
        deadline = time.monotonic() + within_s
        found = cluster.machines()
        while not all(machine.facts for machine in found) and time.monotonic() < deadline:
            time.sleep(0.1)
            found = cluster.machines()
        names = {machine.address: machine.name for machine in found}
        versions = {names.get(name, name): about for name, about in cluster.versions().items()}
    finally:
        cluster.close()
    return ClusterCheck(machines=found, to_mend=(*_unusable(found), *_differing(versions), *_of_the_engine(found)))


def _unusable(machines: Sequence[ClusterMachine]) -> Iterator[str]:
    if not machines:
        yield "No Dask worker is there: start one on each machine, see docs/cluster.md."
    for machine in machines:
        if machine.problem:
            yield f"{machine.name} takes nothing: {machine.problem}"
        ours = sparsedash.__version__
        theirs = machine.facts.sparsedash if machine.facts else ""
        if theirs not in ("", ours):
            yield f"sparsedash: {ours} on this server, {theirs} on {machine.name}."


def _differing(versions: dict[str, dict[str, str]]) -> Iterator[str]:
    for package in _MUST_AGREE:
        yield from _difference(package, {name: about.get(package, "none") for name, about in versions.items()})


def _of_the_engine(machines: Sequence[ClusterMachine]) -> Iterator[str]:
    for package in _OF_THE_ENGINE:
        found = {machine.name: str(getattr(machine.facts, package)) for machine in machines if machine.facts}
        yield from _difference(package, found)
        yield from (f"{package} is not installed on {name}." for name, told in found.items() if not told[:1].isdigit())


def _difference(package: str, found: dict[str, str]) -> Iterator[str]:
    by_version: dict[str, list[str]] = {}
    for name, version in found.items():
        by_version.setdefault(version, []).append(name)
    if len(by_version) > 1:
        yield f"{package}: " + "; ".join(f"{told} on {', '.join(names)}" for told, names in by_version.items()) + "."
