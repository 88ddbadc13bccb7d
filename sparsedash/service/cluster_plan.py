"""The server's side of the cluster: splits a run into parts, merges the results, connects to Dask
and checks it.

A run is spread: one machine evaluates the dense model and calibrates, with the first sparse model
of every kind of calibration; any machine makes the other sparse models. A search runs on one
machine.
"""

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from sparsedash.jobs.cluster_parts import ClusterMachine, KeptCalibration, Part, PartEnd, Scheduler
from sparsedash.jobs.job import Job
from sparsedash.schema import __version__, store_keys
from sparsedash.schema.errors import JobError, StoreError, install_command
from sparsedash.schema.find_settings import FindSettings, planned_run, run_or_find_settings
from sparsedash.schema.plain_values import STAGE_VERSIONS, canonical_json
from sparsedash.schema.records import Record, Run, from_json, to_json
from sparsedash.schema.settings import PartSettings, RunSettings
from sparsedash.service.cluster_machine import kept_artefact, machine_facts, perform_part
from sparsedash.storage.run_files import RunFile, keep_results, keep_run, read_run_file, run_file
from sparsedash.storage.serving import may_use_token
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import UPLOAD, file_of

if TYPE_CHECKING:
    from sparsedash.jobs.cluster import Cluster

FACTS_WITHIN_S = 10.0
"""A machine tells its facts with its next heartbeat."""

_MUST_AGREE = ("python", "distributed", "dask", "msgpack", "cloudpickle", "tornado")
_OF_THE_ENGINE = ("torch", "transformers")
_NUMBER = re.compile(r"\d[\d.,]*")
_SHARED = ("dense", "calibration")
"""Stages that every part but the first finds in its store."""


class ClusterPlan:
    """The parts of a job that makes a run, and what becomes of their results.

    A search is one part. A run is one part with the dense model and the calibrations, then one for
    each sparse model that is left; returned parts are noted under the run, so that neither another
    attempt nor another server asks for them again. Raises SettingsError for settings that cannot be
    read.
    """

    def __init__(self, job: Job, store: Store) -> None:
        self._job, self._store = job, store
        asked = run_or_find_settings(job.kind, job.settings)
        self._find = asked if isinstance(asked, FindSettings) else None
        self._asked = planned_run(asked)
        self._found = False
        self._made: dict[tuple[int, ...], Run] = {}
        self._calibration: KeptCalibration | None = None
        if not self._find:
            self._recall()

    @property
    def whole(self) -> bool:
        """Whether nothing is left to do."""
        return self._found if self._find else len(self._done) == self._asked.n_sparse

    def left(self) -> Sequence[str]:
        """The first part alone until it is there; then all others."""
        if self._find:
            return () if self._found else ("search",)
        if not self._made:
            return ("-".join(map(str, first_points(self._asked))),)
        return [str(point) for point in range(self._asked.n_sparse) if point not in self._done]

    def part(self, name: str) -> Part:
        """The part of this name. Raises StoreError where an upload is gone."""
        texts = {}
        for reference in {self._asked.calibration.corpus, self._asked.evaluation.corpus}:
            path = file_of(reference, self._store.folder) if reference.startswith(UPLOAD) else None
            if path is not None:
                try:
                    texts[f"{path.parent.name}/{path.name}"] = path.read_bytes()
                except OSError as error:
                    raise StoreError(
                        f"{path.name} cannot be read: {error.strerror}.", "Upload it again."
                    ) from error
        owner = "" if may_use_token(self._job.owner) else self._job.owner
        if self._find:
            key, settings = self._job.key, self._job.settings
            return Part(
                name=name, kind="find", key=key, settings=settings, texts=texts, owner=owner
            )
        asked = PartSettings(
            run=self._asked, run_key=self._job.key, points=tuple(map(int, name.split("-")))
        )
        return Part(
            name=name,
            kind="part",
            key=asked.key(),
            settings=json.loads(canonical_json(asdict(asked))),
            known=run_file(self._dense_alone(), self._store) if self._made else b"",
            calibration=self._calibration,
            texts=texts,
            owner=owner,
        )

    def keep(self, part: Part, end: PartEnd) -> None:
        """Keep the results of a part; stored ones stay. Raises StoreError for results of other
        settings.
        """
        file = read_run_file(end.file)
        self._require_asked(file, part, end)
        if self._find:
            keep_run(file, self._store)
            self._found = True
            return
        keep_results(file, self._store)
        self._made[tuple(part.settings["points"])] = file.run
        # The newest: the machine that has calibrated first may be gone.
        self._calibration = end.calibration or self._calibration
        before = self._store.get(Run, self._job.key)
        if self.whole or before is None or not before.finished:
            self._store.put(self._job.key, self._merged())
        if self.whole:
            self._store.forget(store_keys.parts_done_note(self._job.key))
        else:
            self._note()

    def said(self) -> str:
        """Progress in words; may be empty."""
        n_sparse = self._asked.n_sparse
        return (
            f"{len(self._done)} of {n_sparse} sparse models are made"
            if n_sparse > 1 and self._made
            else ""
        )

    @property
    def _done(self) -> dict[int, str]:
        """The record key of every point that is made."""
        return {
            point: key
            for points, run in self._made.items()
            for point, key in zip(points, run.sparse, strict=True)
        }

    def _require_asked(self, file: RunFile, part: Part, end: PartEnd) -> None:
        run, first = file.run, next(iter(self._made.values()), file.run)
        if self._find:
            right = (run.key, run.find, file.has_search) == (part.key, self._find, True)
        else:
            asked = (part.key, self._asked, len(part.settings["points"]), first.dense)
            right = (run.key, run.settings, len(run.sparse), run.dense) == asked
        if not right:
            raise StoreError(
                f"{end.machine} sent back a result that was not asked for.",
                "Run `sparsedash cluster check`: all machines must have the same version of SparseDash.",
            )
        if run.model_identity != first.model_identity or run.corpora != first.corpora:
            # Another attempt begins anew: the hub may have a newer model than when the first part
            # was made.
            self._store.forget(store_keys.parts_done_note(self._job.key))
            raise StoreError(
                f"{end.machine} has another model or text under this name than the machine that began.",
                "Put the same files on every machine; see docs/cluster.md.",
            )

    def _merged(self) -> Run:
        """The whole run as far as it is; its sparse records in order, up to the first one that is
        missing.
        """
        made, done = list(self._made.values()), self._done
        n_in_order = next((n for n in range(len(done)) if n not in done), len(done))
        others = [name for run in made[1:] for name in run.cached if name not in _SHARED]
        # Each part looks at a sparse model of its own: of warnings that differ in numbers only, the
        # first.
        warnings = dict[str, str]()
        for line in chain.from_iterable(run.warnings for run in made):
            warnings.setdefault(_NUMBER.sub("#", line), line)
        return replace(
            made[0],
            key=self._job.key,
            sparse=tuple(done[point] for point in range(n_in_order)),
            answers={record: keys for run in made for record, keys in run.answers.items()},
            unanswered=tuple(dict.fromkeys(name for run in made for name in run.unanswered)),
            finished=self.whole,
            started_at=self._job.started_at or made[0].started_at,
            finished_at=time.time() if self.whole else None,
            seconds={
                stage: sum(run.seconds.get(stage, 0.0) for run in made)
                for each in made
                for stage in each.seconds
            },
            cached=tuple(dict.fromkeys([*made[0].cached, *others])),
            warnings=tuple(warnings.values()),
            busy=any(run.busy for run in made),
        )

    def _dense_alone(self) -> Run:
        run = self._merged()
        return replace(
            run,
            sparse=(),
            answers={key: own for key, own in run.answers.items() if key == run.dense},
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
    """The sparse models of the first part: one of each kind of calibration, so that one machine
    collects them all.
    """
    first: dict[tuple[float, bool, bool, bool, bool], int] = {}
    for point, spec in enumerate(asked.points):
        if spec.reads_text:
            method = spec.pruning
            share = store_keys.mix_share(spec, asked.calibration)
            reads = method.needs_statistics, method.by_gradient, method.needs_curves
            first.setdefault((share, method.is_structured, *reads), point)
    return tuple(sorted(first.values())) or (0,)


def connect_cluster(scheduler: Scheduler, name: str) -> "Cluster":
    """A new connection. name: tells the data folder from others at the same scheduler. Raises
    JobError.
    """
    try:
        from sparsedash.jobs.cluster import Cluster, OnMachine
    except ModuleNotFoundError as error:
        raise JobError(
            f"A scheduler is configured, but the package {error.name} is not installed.",
            f"Run: {install_command('-r requirements-cluster.txt')}",
        ) from error
    return Cluster(
        scheduler, name, OnMachine(do=perform_part, facts=machine_facts, artefact=kept_artefact)
    )


def check_cluster(scheduler: Scheduler) -> tuple[tuple[ClusterMachine, ...], tuple[str, ...]]:
    """Every Dask worker, and what keeps them from work or equal results, in words. Raises
    JobError.
    """
    cluster = connect_cluster(scheduler, "check")
    try:
        deadline = time.monotonic() + FACTS_WITHIN_S
        found = cluster.machines()
        while not all(machine.facts for machine in found) and time.monotonic() < deadline:
            time.sleep(0.1)
            found = cluster.machines()
        names = {machine.address: machine.name for machine in found}
        versions = {names.get(name, name): about for name, about in cluster.versions().items()}
    finally:
        cluster.close()
    return found, tuple(_problems(found, versions))


def _problems(
    machines: Sequence[ClusterMachine], versions: dict[str, dict[str, str]]
) -> Iterator[str]:
    """Machines that take nothing, and packages that differ or are missing. versions: of packages,
    by machine.
    """
    if not machines:
        yield "There is no Dask worker: start one on each machine, see docs/cluster.md."
    yield from (
        f"{machine.name} takes nothing: {machine.problem}"
        for machine in machines
        if machine.problem
    )
    found = {
        package: {name: about.get(package, "none") for name, about in versions.items()}
        for package in _MUST_AGREE
    }
    known = [machine for machine in machines if machine.facts and machine.facts.sparsedash]
    for package in ("sparsedash", *_OF_THE_ENGINE):
        found[package] = {each.name: str(getattr(each.facts, package)) for each in known}
    found["sparsedash"]["this server"] = __version__
    for package, by_machine in found.items():
        versions_of = {
            value: [n for n, each in by_machine.items() if each == value]
            for value in by_machine.values()
        }
        if len(versions_of) > 1 or "not installed" in versions_of:
            listed = "; ".join(
                f"{version} on {', '.join(names)}" for version, names in versions_of.items()
            )
            yield f"{package}: {listed}."
