"""The server's side of the cluster: splits a run into parts, merges the results, connects to Dask
and checks it.

A run is spread: one machine evaluates the dense model and calibrates, with the first sparse model
of every kind of calibration; any machine makes the other sparse models. A search runs on one
machine.
"""

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from sparsedash.jobs.cluster_parts import (
    ClusterMachine,
    KeptCalibration,
    Part,
    PartEnd,
    Scheduler,
)
from sparsedash.jobs.job import Job
from sparsedash.schema import __version__, store_keys
from sparsedash.schema.errors import JobError, StoreError, install_command
from sparsedash.schema.find_settings import (
    FindSettings,
    planned_run,
    run_or_find_settings,
)
from sparsedash.schema.plain_values import canonical_json
from sparsedash.schema.records import Record, Run, from_json, to_json
from sparsedash.schema.settings import PartSettings, RunSettings
from sparsedash.schema.stage_versions import STAGE_VERSIONS
from sparsedash.service.cluster_machine import (
    kept_artefact,
    machine_facts,
    perform_part,
)
from sparsedash.storage.run_files import (
    RunFile,
    keep_results,
    keep_run,
    read_run_file,
    run_file,
)
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
        self._job = job
        self._store = store
        settings = run_or_find_settings(job.kind, job.settings)
        self._find = settings if isinstance(settings, FindSettings) else None
        self._settings = planned_run(settings)
        self._is_found = False
        self._runs: dict[tuple[int, ...], Run] = {}
        self._calibration: KeptCalibration | None = None
        if not self._find:
            self._recall()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return (
            self._is_found if self._find else len(self._done) == self._settings.n_sparse
        )

    def remaining(self) -> Sequence[str]:
        """Names of the parts to do: the first one alone until it is there, then all others."""
        if self._find:
            return () if self._is_found else ("search",)
        if not self._runs:
            return ("-".join(map(str, first_points(self._settings))),)
        return [
            str(point)
            for point in range(self._settings.n_sparse)
            if point not in self._done
        ]

    def part(self, name: str) -> Part:
        """The part of this name. Raises StoreError where an upload is gone."""
        texts = {}
        for reference in {
            self._settings.calibration.corpus,
            self._settings.evaluation.corpus,
        }:
            path = (
                file_of(reference, self._store.folder)
                if reference.startswith(UPLOAD)
                else None
            )
            if path is not None:
                try:
                    texts[f"{path.parent.name}/{path.name}"] = path.read_bytes()
                except OSError as error:
                    raise StoreError(
                        f"{path.name} cannot be read: {error.strerror}.",
                        "Upload it again.",
                    ) from error
        owner = "" if may_use_token(self._job.owner) else self._job.owner
        if self._find:
            return Part(
                name=name,
                kind="find",
                key=self._job.key,
                settings=self._job.settings,
                texts=texts,
                owner=owner,
            )
        settings = PartSettings(
            run=self._settings,
            run_key=self._job.key,
            points=tuple(map(int, name.split("-"))),
        )
        return Part(
            name=name,
            kind="part",
            key=settings.key(),
            settings=json.loads(canonical_json(asdict(settings))),
            known=run_file(self._dense_alone(), self._store) if self._runs else b"",
            calibration=self._calibration,
            texts=texts,
            owner=owner,
        )

    def keep(self, part: Part, end: PartEnd) -> None:
        """Keep the results of a part; stored ones stay. Raises StoreError for other settings."""
        file = read_run_file(end.file)
        self._check(file, part, end)
        if self._find:
            keep_run(file, self._store)
            self._is_found = True
            return
        keep_results(file, self._store)
        self._runs[tuple(part.settings["points"])] = file.run
        # The newest: the machine that has calibrated first may be gone.
        self._calibration = end.calibration or self._calibration
        before = self._store.get(Run, self._job.key)
        if self.is_complete or before is None or not before.finished:
            self._store.put(self._job.key, self._merged())
        if self.is_complete:
            self._store.forget(store_keys.parts_done_note(self._job.key))
        else:
            self._note()

    def progress_message(self) -> str:
        """Progress in words; may be empty."""
        n_sparse = self._settings.n_sparse
        if n_sparse == 1 or not self._runs:
            return ""
        return f"{len(self._done)} of {n_sparse} sparse models are made"

    @property
    def _done(self) -> dict[int, str]:
        """The record key of every point that is made."""
        keys: dict[int, str] = {}
        for points, run in self._runs.items():
            keys.update(zip(points, run.sparse, strict=True))
        return keys

    def _check(self, file: RunFile, part: Part, end: PartEnd) -> None:
        run = file.run
        first = next(iter(self._runs.values()), run)
        if self._find:
            is_expected = (run.key, run.find, file.has_search) == (
                part.key,
                self._find,
                True,
            )
        else:
            n_points = len(part.settings["points"])
            expected = (part.key, self._settings, n_points, first.dense)
            is_expected = (
                run.key,
                run.settings,
                len(run.sparse),
                run.dense,
            ) == expected
        if not is_expected:
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
        """The results so far as one run: sparse records in order, up to the first missing one."""
        first, *others = self._runs.values()
        done = self._done
        n_in_order = next((n for n in range(len(done)) if n not in done), len(done))
        # Each part looks at a sparse model of its own: of warnings that differ in numbers only, the
        # first.
        warnings: dict[str, str] = {}
        answers = {}
        unanswered: list[str] = []
        seconds = defaultdict[str, float](float)
        cached = list(first.cached)
        for run in (first, *others):
            for line in run.warnings:
                warnings.setdefault(_NUMBER.sub("#", line), line)
            answers.update(run.answers)
            unanswered += run.unanswered
            for stage, spent_s in run.seconds.items():
                seconds[stage] += spent_s
        for run in others:
            cached += [name for name in run.cached if name not in _SHARED]
        return replace(
            first,
            key=self._job.key,
            sparse=tuple(done[point] for point in range(n_in_order)),
            answers=answers,
            unanswered=tuple(dict.fromkeys(unanswered)),
            finished=self.is_complete,
            started_at=self._job.started_at or first.started_at,
            finished_at=time.time() if self.is_complete else None,
            seconds=dict(seconds),
            cached=tuple(dict.fromkeys(cached)),
            warnings=tuple(warnings.values()),
            busy=any(run.busy for run in (first, *others)),
        )

    def _dense_alone(self) -> Run:
        run = self._merged()
        answers = (
            {run.dense: run.answers[run.dense]} if run.dense in run.answers else {}
        )
        return replace(run, sparse=(), answers=answers)

    def _note(self) -> None:
        runs = [[list(points), to_json(run)] for points, run in self._runs.items()]
        calibration = None if self._calibration is None else asdict(self._calibration)
        noted = {"stages": STAGE_VERSIONS, "made": runs, "calibration": calibration}
        self._store.remember(
            store_keys.parts_done_note(self._job.key), json.dumps(noted)
        )

    def _recall(self) -> None:
        noted = self._store.recall(store_keys.parts_done_note(self._job.key))
        known = json.loads(noted) if noted else {}
        if known.get("stages") != STAGE_VERSIONS:
            return
        runs = {tuple(points): from_json(Run, text) for points, text in known["made"]}
        records = chain.from_iterable(run.records for run in runs.values())
        if all(self._store.has(Record, key) for key in records):
            self._runs = runs
            self._calibration = msgspec.convert(
                known["calibration"], KeptCalibration | None
            )


def first_points(settings: RunSettings) -> tuple[int, ...]:
    """Points of the first part: one per kind of calibration, which one machine collects."""
    first: dict[tuple[float, bool, bool, bool, bool], int] = {}
    for point, spec in enumerate(settings.points):
        if spec.reads_text:
            method = spec.pruning
            share = store_keys.mix_share(spec, settings.calibration)
            calibration = (
                share,
                method.is_structured,
                method.needs_statistics,
                method.by_gradient,
                method.needs_curves,
            )
            first.setdefault(calibration, point)
    return tuple(sorted(first.values())) or (0,)


def connect_cluster(scheduler: Scheduler, name: str) -> "Cluster":
    """A new connection. name: of the data folder at the scheduler. Raises JobError."""
    try:
        from sparsedash.jobs.cluster import Cluster, OnMachine
    except ModuleNotFoundError as error:
        raise JobError(
            f"A scheduler is configured, but the package {error.name} is not installed.",
            f"Run: {install_command('-r requirements-cluster.txt')}",
        ) from error
    return Cluster(
        scheduler,
        name,
        OnMachine(do=perform_part, facts=machine_facts, artefact=kept_artefact),
    )


def check_cluster(
    scheduler: Scheduler,
) -> tuple[tuple[ClusterMachine, ...], tuple[str, ...]]:
    """Every Dask worker, and problems in words. Raises JobError."""
    cluster = connect_cluster(scheduler, "check")
    try:
        deadline = time.monotonic() + FACTS_WITHIN_S
        machines = cluster.machines()
        while (
            not all(machine.facts for machine in machines)
            and time.monotonic() < deadline
        ):
            time.sleep(0.1)
            machines = cluster.machines()
        names = {machine.address: machine.name for machine in machines}
        versions = {}
        for address, packages in cluster.versions().items():
            versions[names.get(address, address)] = packages
    finally:
        cluster.close()
    return machines, tuple(_problems(machines, versions))


def _problems(
    machines: Sequence[ClusterMachine], versions: dict[str, dict[str, str]]
) -> Iterator[str]:
    """Machines that take nothing, and packages that differ. versions: of packages, by machine."""
    if not machines:
        yield "There is no Dask worker: start one on each machine, see docs/cluster.md."
    for machine in machines:
        if machine.problem:
            yield f"{machine.name} takes nothing: {machine.problem}"
    names_of = defaultdict[str, defaultdict[str, list[str]]](lambda: defaultdict(list))
    for package in _MUST_AGREE:
        for name, packages in versions.items():
            names_of[package][packages.get(package, "none")].append(name)
    for package in ("sparsedash", *_OF_THE_ENGINE):
        for machine in machines:
            if machine.facts and machine.facts.sparsedash:
                version = str(getattr(machine.facts, package))
                names_of[package][version].append(machine.name)
    names_of["sparsedash"][__version__].append("this server")
    for package, names_by_version in names_of.items():
        if len(names_by_version) > 1 or "not installed" in names_by_version:
            versions_found = []
            for version, names in names_by_version.items():
                versions_found.append(f"{version} on {', '.join(names)}")
            yield f"{package}: {'; '.join(versions_found)}."
