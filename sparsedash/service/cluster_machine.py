"""A Dask worker's side of the cluster: runs parts of jobs in a child process and exchanges
calibration artefacts.

Each machine has a data folder and a job table of its own; only a Part and a PartEnd cross to the
server. Calibration artefacts go from machine to machine, never through the scheduler or the server
(0.14 GB for a model of 135 million weights, 8 GB for 7 billion); one that cannot be fetched is
computed again.
"""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from sparsedash.jobs.cluster_parts import (
    Fetch,
    KeptCalibration,
    Part,
    PartEnd,
    Report,
    failed_part,
)
from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.local_runner import NVIDIA, LocalRunner, log_tail, visible_gpus
from sparsedash.jobs.lock_files import hold_lock, make_folder
from sparsedash.schema import __version__, store_keys
from sparsedash.schema.errors import SparseDashError, StoreError
from sparsedash.schema.progress import STARTING
from sparsedash.schema.records import Run
from sparsedash.schema.stage_versions import STAGE_VERSIONS
from sparsedash.storage.local_machine import data_folder, local_path
from sparsedash.storage.run_files import keep_run, read_run_file, run_file
from sparsedash.storage.store import Store, claim_data_folder
from sparsedash.storage.text_files import Uploads

log = logging.getLogger(__name__)

TERM_S = 0.5
KILL_S = 1.0
"""Sooner than on the server: the folder is not lost by it, and somebody waits for a machine."""
MAX_WORKERS = 64
LOG_LINES = 200
_TICK_S = 0.1
_REPORT_S = 0.5
_HEARTBEAT_S = 3.0


class PartMachine:
    """Folder, job table and child of one Dask worker. The child ends with this process."""

    def __init__(self, folder: Path, *, command: tuple[str, ...] | None = None) -> None:
        self.folder = folder
        self.store = Store(folder)
        self._table = JobTable(folder / "jobs.sqlite")
        started_by: dict[str, Any] = {} if command is None else {"command": command}
        self._runner = LocalRunner(
            folder,
            self._table,
            term_after_s=TERM_S,
            kill_after_s=KILL_S,
            bound=True,
            **started_by,
        )
        self.at_work: Job | None = None

    def do(
        self, part: Part, name: str, report: Report, stopped: Callable[[], bool]
    ) -> PartEnd:
        """Do a part, once what it needs is here. name: of this machine."""
        with ExitStack() as after:
            uploads = Uploads(self.folder)
            for title, content in part.texts.items():
                # Every part brings its own: nobody could delete them here.
                after.callback(_drop, uploads, uploads.keep(title, content))
            if part.known:
                keep_run(read_run_file(part.known), self.store)
            job = self._followed(part, name, report, stopped)
        log_end = log_tail(Path(job.log_path), LOG_LINES)
        match job.state:
            case "failed" | "cancelled" | "crashed" as state:
                return PartEnd(
                    state=state,
                    machine=name,
                    log=log_end,
                    error_text=job.error_text,
                    error_advice=job.error_advice,
                )
        run = self.store.get(Run, part.key)
        if run is None:
            raise StoreError(
                "The results are no longer in the machine's data folder.", "Try again."
            )
        return PartEnd(
            state="done", machine=name, log=log_end, file=run_file(run, self.store)
        )

    def child_bytes(self) -> int:
        """Memory of the child; 0 where there is none."""
        # Dask brings it along.
        import psutil

        pid = self.at_work.pid if self.at_work else None
        with suppress(psutil.Error):
            return int(psutil.Process(pid).memory_info().rss) if pid else 0
        return 0

    def _followed(
        self, part: Part, name: str, report: Report, stopped: Callable[[], bool]
    ) -> Job:
        """The part's job in this machine's own table, once it has ended."""
        # Jobs of an earlier process of this worker are over: its child ended with it. Of a part
        # that was given up the child may work on.
        self._runner.reconcile()
        for earlier in (*self._table.queue(), *self._table.running()):
            if earlier.key != part.key:
                self._table.request_cancel(earlier.id)
        job = self._table.submit(part.kind, part.key, part.settings, part.owner)
        reported = None
        reported_at = float("-inf")
        try:
            while job.live:
                if not job.stopping and stopped():
                    self._table.request_cancel(job.id)
                self._runner.reconcile()
                job = self._table.get(job.id)
                self.at_work = job
                progress = replace(job.progress, machine=name)
                interval_s = _HEARTBEAT_S if progress == reported else _REPORT_S
                if time.monotonic() - reported_at >= interval_s:
                    report(progress)
                    reported = progress
                    reported_at = time.monotonic()
                time.sleep(_TICK_S)
        finally:
            self.at_work = None
        return job


def _drop(uploads: Uploads, reference: str) -> None:
    # What the part has made is there all the same.
    with suppress(SparseDashError):
        uploads.drop(reference, ())


def perform_part(
    part: Part, report: Report, stopped: Callable[[], bool], fetch: Fetch
) -> PartEnd:
    """The task of a Dask worker, see jobs.cluster. Errors are returned in the PartEnd."""
    from sparsedash.jobs.cluster import this_machine

    address, name = this_machine()
    report(replace(STARTING, machine=name))
    try:
        machine = this_part_machine()
        if part.stages != STAGE_VERSIONS:
            # Its results would be stored as if they were of the server's version.
            raise StoreError(
                f"{name} has another version of SparseDash than the server.",
                "Install the same version on every machine, and start its Dask worker again.",
            )
        if part.calibration is not None and part.calibration.machine != address:
            fetch_calibration(part.calibration, machine.store, fetch, stopped)
        end = machine.do(part, name, report, stopped)
        return kept_calibration(end, part.key, address, machine.store)
    except SparseDashError as error:
        return failed_part(error, name)


def kept_artefact(name: str) -> bytes | None:
    """An artefact of this machine."""
    return this_part_machine().store.get_artefact(name)


def machine_facts() -> dict[str, Any]:
    """The values of this machine's MachineFacts; cheap, since every heartbeat has them."""
    # Dask brings it along.
    import psutil

    memory = psutil.virtual_memory()
    facts: dict[str, Any] = {
        "hostname": socket.gethostname(),
        "sparsedash": __version__,
        **_packages(),
        "gpus": _gpu_names(),
        "total_bytes": memory.total,
        "free_bytes": memory.available,
    }
    try:
        facts["child_bytes"] = this_part_machine().child_bytes()
    except SparseDashError as error:
        facts["problem"] = str(error)
    return facts


_opening = threading.Lock()
_held: list[IO[bytes]] = []
"""Locks that are held for as long as this process lives."""


def this_part_machine() -> PartMachine:
    """The machine of this process, in the first folder free of other Dask workers."""
    with _opening:
        return _opened()


@cache
def _opened() -> PartMachine:
    shared = local_path(data_folder()).absolute()
    claim_data_folder(shared)
    make_folder(shared / "cluster")
    for number in range(MAX_WORKERS):
        if lock := hold_lock(shared / "cluster" / f"{number}.lock", wait_s=0.05):
            _held.append(lock)
            return PartMachine(shared / "cluster" / str(number))
    raise StoreError(
        f"{MAX_WORKERS} Dask workers use {shared} already.",
        "Name another one: SPARSEDASH_DATA_DIR.",
    )


def kept_calibration(
    end: PartEnd, part_key: str, address: str, store: Store
) -> PartEnd:
    """The end of a part, with the names of its calibration artefacts here.

    address: of this machine.
    """
    noted = store.recall(store_keys.part_calibrations_note(part_key))
    if end.state != "done" or noted is None:
        return end
    prefixes = tuple(str(prefix) for prefix in json.loads(noted))
    stored = [entry.name for entry in store.entries("artefacts")]
    names = tuple(name for name in stored if name.partition("/")[0] in prefixes)
    notes = {
        str(name): store.recall(name) for name in store_keys.calibration_notes(prefixes)
    }
    return replace(
        end,
        calibration=KeptCalibration(
            machine=address,
            artefacts=names,
            notes={name: text for name, text in notes.items() if text is not None},
        ),
    )


def fetch_calibration(
    kept: KeptCalibration, store: Store, fetch: Fetch, stopped: Callable[[], bool]
) -> int:
    """Fetch the missing artefacts of a calibration, then the notes that mark it complete.

    Returns how many were fetched. Without the notes the calibration is computed again.
    """
    lacking = sorted(
        {*kept.artefacts}.difference(entry.name for entry in store.entries("artefacts"))
    )
    for n_fetched, name in enumerate(lacking):
        try:
            data = None if stopped() else fetch(kept, name)
        except Exception as error:  # noqa: BLE001 - Dask raises much; without it the calibration is made here
            log.warning(
                "%s could not be fetched from %s: %s", name, kept.machine, error
            )
            data = None
        if data is None:
            return n_fetched
        store.put_artefact(name, data)
    prefixes = {name.partition("/")[0] for name in kept.artefacts}
    for note in store_keys.calibration_notes(tuple(prefixes)):
        if str(note) in kept.notes:
            store.remember(note, kept.notes[str(note)])
    return len(lacking)


@cache
def _packages() -> dict[str, str]:
    versions = {}
    for name in ("torch", "transformers"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


@cache
def _gpu_names() -> list[str]:
    """The GPUs that the child may use, by the driver's names where those can be read."""
    lines = []
    for file in sorted(NVIDIA.glob("*/information")):
        lines += file.read_text().splitlines()
    names = [
        line.partition(":")[2].strip() for line in lines if line.startswith("Model:")
    ]
    return [
        names[int(gpu)] if gpu.isdecimal() and int(gpu) < len(names) else f"GPU {gpu}"
        for gpu in visible_gpus()
    ]
