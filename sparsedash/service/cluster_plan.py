"""The server's side of the cluster: splits a run into parts, merges the results, connects to Dask and checks it.

A run is spread: one machine evaluates the dense model and calibrates, with the first sparse model of every kind of
calibration; any machine makes the other sparse models. A search runs on one machine.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
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
from sparsedash.jobs.cluster_runner import ClusterRunner
from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema import store_keys
from sparsedash.schema.errors import JobError, SettingsError, StoreError
from sparsedash.schema.plain_values import STAGE_VERSIONS, canonical_json
from sparsedash.schema.records import Record, Run, from_json, to_json
from sparsedash.schema.settings import FindSettings, PartSettings, RunSettings, run_or_find_settings
from sparsedash.service import cluster_machine
from sparsedash.storage.run_files import RunFile, keep_results, keep_run, read_run_file, run_file
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import UPLOAD, file_of
from sparsedash.storage.users import may_use_token

if TYPE_CHECKING:
    from sparsedash.jobs.cluster import Cluster

FACTS_WITHIN_S = 10.0
"""A machine tells its facts with its next heartbeat."""

_MUST_AGREE = ("python", "distributed", "dask", "msgpack", "cloudpickle", "tornado")
_OF_THE_ENGINE = ("torch", "transformers")
_NUMBER = re.compile(r"\d[\d.,]*")
_SHARED = ("dense", "calibration")
"""Stages that every part but the first finds in its store."""


def plan_of(job: Job, store: Store) -> "RunPlan | FindPlan":
    """The plan for a job that makes a run. Raises SettingsError for settings that cannot be read."""
    asked = run_or_find_settings(job.kind, job.settings)
    return FindPlan(job, asked, store) if isinstance(asked, FindSettings) else RunPlan(job, asked, store)


class FindPlan:
    """A search: one part."""

    def __init__(self, job: Job, asked: FindSettings, store: Store) -> None:
        self._job, self._asked, self._store = job, asked, store
        self.whole = False

    def left(self) -> Sequence[str]:
        """See Plan."""
        return () if self.whole else ("search",)

    def part(self, name: str) -> Part:
        """See Plan."""
        along = _sent_along(self._job, self._asked, self._store.folder)
        return Part(name=name, kind="find", key=self._job.key, settings=self._job.settings, **along)

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
    """A run: one part with the dense model and the calibrations, then one for each sparse model that is left.

    Returned parts are noted under the run, so that neither another attempt nor another server asks for them again.
    """

    def __init__(self, job: Job, asked: RunSettings, store: Store) -> None:
        self._job, self._asked, self._store = job, asked, store
        self._made: dict[tuple[int, ...], Run] = {}
        self._calibration: KeptCalibration | None = None
        self._recall()

    @property
    def whole(self) -> bool:
        """See Plan."""
        return len(self._done) == self._asked.n_sparse

    def left(self) -> Sequence[str]:
        """The first part alone until it is there; then all others."""
        if not self._made:
            return ("-".join(map(str, first_points(self._asked))),)
        return [str(point) for point in range(self._asked.n_sparse) if point not in self._done]

    def part(self, name: str) -> Part:
        """See Plan."""
        asked = PartSettings(run=self._asked, run_key=self._job.key, points=tuple(map(int, name.split("-"))))
        return Part(
            name=name,
            kind="part",
            key=asked.key(),
            settings=json.loads(canonical_json(asdict(asked))),
            known=run_file(replace(self._merged(), sparse=()), self._store) if self._made else b"",
            calibration=self._calibration,
            **_sent_along(self._job, self._asked, self._store.folder),
        )

    def keep(self, part: Part, end: PartEnd) -> None:
        """Keep the results of a part; stored ones stay. Raises StoreError for results of other settings."""
        file = read_run_file(end.file)
        self._require_asked(file, part, end)
        keep_results(file, self._store)
        self._made[tuple(part.settings["points"])] = file.run
        self._calibration = self._calibration or end.calibration
        self._note()
        before = self._store.get(Run, self._job.key)
        if self.whole or before is None or not before.finished:
            self._store.put(self._job.key, self._merged())
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

    def _require_asked(self, file: RunFile, part: Part, end: PartEnd) -> None:
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

    def _merged(self) -> Run:
        """The whole run as far as it is; its sparse records in order, up to the first one that is missing."""
        made, done = list(self._made.values()), self._done
        n_in_order = next((n for n in range(len(done)) if n not in done), len(done))
        others = [name for run in made[1:] for name in run.cached if name not in _SHARED]
        return replace(
            made[0],
            key=self._job.key,
            sparse=tuple(done[point] for point in range(n_in_order)),
            finished=self.whole,
            started_at=self._job.started_at or made[0].started_at,
            finished_at=time.time() if self.whole else None,
            seconds={
                stage: sum(run.seconds.get(stage, 0.0) for run in made) for each in made for stage in each.seconds
            },
            cached=tuple(dict.fromkeys([*made[0].cached, *others])),
            warnings=_unlike([line for run in made for line in run.warnings]),
        )

    def _note(self) -> None:
        made = [[list(points), to_json(run)] for points, run in self._made.items()]
        calibration = None if self._calibration is None else asdict(self._calibration)
        noted = {"stages": STAGE_VERSIONS, "made": made, "calibration": calibration}
        self._store.remember(store_keys.parts_done_note(self._job.key), json.dumps(noted))

    def _recall(self) -> None:
        noted = self._store.recall(store_keys.parts_done_note(self._job.key))
        known = json.loads(noted) if noted else {}
        if known.get("stages") != STAGE_VERSIONS:
            return
        made = {tuple(points): from_json(Run, text) for points, text in known["made"]}
        if all(self._store.has(Record, key) for run in made.values() for key in run.records):
            self._made = made
            self._calibration = msgspec.convert(known["calibration"], KeptCalibration | None)


def first_points(asked: RunSettings) -> tuple[int, ...]:
    """The sparse models that the first machine makes: the first of every kind that reads text otherwise.

    So that one machine collects, once, what all others need.
    """
    first: dict[tuple[float, bool, bool], int] = {}
    for point, (method, _) in enumerate(asked.points):
        if method.reads_text:
            share = store_keys.plain_share(method, asked.calibration)
            first.setdefault((share, method.takes_channels, method.saliency == "fisher"), point)
    return tuple(sorted(first.values())) or (0,)


def _unlike(lines: Iterable[str]) -> tuple[str, ...]:
    """The first of all lines that differ in numbers only: each part looks at a sparse model of its own."""
    first: dict[str, str] = {}
    for line in lines:
        first.setdefault(_NUMBER.sub("#", line), line)
    return tuple(first.values())


def _sent_along(job: Job, asked: RunSettings | FindSettings, folder: Path) -> dict[str, Any]:
    """Uploaded texts that a part reads, by name, and the owner where their jobs go without the hub's token.

    Raises StoreError where an upload is gone.
    """
    texts = {}
    for reference in {asked.calibration.corpus, asked.evaluation.corpus}:
        path = file_of(reference, folder) if reference.startswith(UPLOAD) else None
        if path is not None:
            try:
                texts[path.name] = path.read_bytes()
            except OSError as error:
                raise StoreError(f"{path.name} cannot be read: {error.strerror}.", "Upload it again.") from error
    return {"texts": texts, "owner": "" if may_use_token(job.owner) else job.owner}


def _not_asked_for(end: PartEnd) -> StoreError:
    return StoreError(
        f"{end.machine} sent back something else than was asked of it.",
        "Run `sparsedash cluster check`: all machines must have the same version of SparseDash.",
    )


def cluster_runner(folder: Path, table: JobTable, store: Store) -> ClusterRunner | None:
    """The runner, not started yet, for the scheduler that the environment names; None where it names none.

    A scheduler that must not be talked to is shown with the reason, and everything runs here.
    """
    plan = partial(plan_of, store=store)
    try:
        scheduler = named_scheduler()
    except SettingsError as error:
        return ClusterRunner(folder, table, os.environ.get(SCHEDULER, ""), _refuse, plan, trouble=str(error))
    if scheduler is None:
        return None
    return ClusterRunner(folder, table, scheduler.address, lambda: connect_cluster(scheduler, _name(store)), plan)


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
    """The name that tells this data folder from others at the same scheduler."""
    known = store.recall(store_keys.cluster_name_note())
    if known is None:
        known = secrets.token_hex(8)
        store.remember(store_keys.cluster_name_note(), known)
    return known


def _refuse() -> "Cluster":
    raise JobError("The scheduler that is named must not be asked.")


@dataclass(frozen=True, kw_only=True)
class ClusterCheck:
    """machines: every Dask worker. to_fix: what keeps work from being done, or results from being equal, in words."""

    machines: tuple[ClusterMachine, ...]
    to_fix: tuple[str, ...]


def check_cluster(scheduler: Scheduler, within_s: float = FACTS_WITHIN_S) -> ClusterCheck:
    """The machines of this scheduler and their problems. Raises JobError where none answers."""
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
    return ClusterCheck(machines=found, to_fix=(*_unusable(found), *_version_problems(found, versions)))


def _unusable(machines: Sequence[ClusterMachine]) -> Iterator[str]:
    if not machines:
        yield "No Dask worker is there: start one on each machine, see docs/cluster.md."
    ours = sparsedash.__version__
    for machine in machines:
        if machine.problem:
            yield f"{machine.name} takes nothing: {machine.problem}"
        theirs = machine.facts.sparsedash if machine.facts else ""
        if theirs not in ("", ours):
            yield f"sparsedash: {ours} on this server, {theirs} on {machine.name}."


def _version_problems(machines: Sequence[ClusterMachine], versions: dict[str, dict[str, str]]) -> Iterator[str]:
    """Packages that differ between machines, or are missing. versions: of packages, by machine."""
    found = {package: {name: about.get(package, "none") for name, about in versions.items()} for package in _MUST_AGREE}
    for package in _OF_THE_ENGINE:
        found[package] = {each.name: str(getattr(each.facts, package)) for each in machines if each.facts}
    for package, by_machine in found.items():
        by_version: dict[str, list[str]] = {}
        for name, version in by_machine.items():
            by_version.setdefault(version, []).append(name)
        if len(by_version) > 1:
            listed = "; ".join(f"{version} on {', '.join(names)}" for version, names in by_version.items())
            yield f"{package}: {listed}."
        if package in _OF_THE_ENGINE:
            missing = [name for name, version in by_machine.items() if not version[:1].isdigit()]
            yield from (f"{package} is not installed on {name}." for name in missing)
