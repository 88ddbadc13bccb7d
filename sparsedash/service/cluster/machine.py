"""A machine of a cluster: has parts of jobs done by a child as the server's own workers are, and gives back files.

Called in the process of a Dask worker. It has a data folder of its own there, for models, calibrations and a job table
of its own: nothing is shared with the server but what crosses as a Part and a PartEnd.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import sparsedash
from sparsedash.jobs.exit_reasons import last_lines
from sparsedash.jobs.job import Job
from sparsedash.jobs.locks import hold
from sparsedash.jobs.own_files import make_folder
from sparsedash.jobs.parts import Part, PartEnd, PartProgress, failed
from sparsedash.jobs.runner import LocalRunner, visible_gpus
from sparsedash.jobs.table import JobTable
from sparsedash.schema.errors import SparseDashError, StoreError
from sparsedash.schema.records import Run
from sparsedash.service.cluster.calibrations import Fetch, fetch_calibration, kept_calibration, piece_of
from sparsedash.storage.data_dir import data_folder, in_full
from sparsedash.storage.run_files import keep_run, read_run_file, run_file
from sparsedash.storage.store import Store
from sparsedash.storage.texts.uploads import Uploads

TERM_S, KILL_S = 0.5, 1.0
"""Sooner than on the server: the folder is not lost by it, and somebody waits for a machine."""

MOST_WORKERS = 64
LOG_LINES = 200
_TICK_S = 0.1
_TELL_S = 0.5
_HEARTBEAT_S = 3.0
_GPU_NAME = "Model:"
_NVIDIA = Path("/proc/driver/nvidia/gpus")


class Machine:
    """What one Dask worker keeps between the parts it is given: its folder, its job table, its child.

    folder: of this Dask worker alone; the child ends with the process that this is in.
    """

    def __init__(self, folder: Path, *, command: tuple[str, ...] | None = None) -> None:
        self.folder = folder
        self.store = Store(folder)
        self._table = JobTable(folder / "jobs.sqlite")
        started_by: dict[str, Any] = {} if command is None else {"command": command}
        self._runner = LocalRunner(
            folder, self._table, term_after_s=TERM_S, kill_after_s=KILL_S, bound=True, **started_by
        )
        self.at_work: Job | None = None

    def do(self, part: Part, name: str, report: Callable[[PartProgress], None], stopped: Callable[[], bool]) -> PartEnd:
        """Do a part, once what it needs is here. name: of this machine."""
        for title, content in part.texts.items():
            Uploads(self.folder).keep(title, content)
        if part.known:
            keep_run(read_run_file(part.known), self.store)
        job = self._followed(part, name, report, stopped)
        log = "\n".join(last_lines(Path(job.log_path), LOG_LINES))
        if job.state != "done":
            state = "failed" if job.state not in ("cancelled", "crashed") else job.state
            return PartEnd(
                state=state,
                machine=name,
                log=log,
                error_kind=job.error_kind,
                error_text=job.error_text,
                error_advice=job.error_advice,
            )
        run = self.store.get(Run, part.key)
        if run is None:
            raise StoreError("What was made is not in the machine's data folder any more.", "Try again.")
        return PartEnd(state="done", machine=name, log=log, file=run_file(run, self.store))

    def child_bytes(self) -> int:
        """Memory of the child; 0 where there is none."""
        pid = self.at_work.pid if self.at_work else None
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) if pid else 0
        except (OSError, ValueError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _followed(
        self, part: Part, name: str, report: Callable[[PartProgress], None], stopped: Callable[[], bool]
    ) -> Job:
        """The job in this machine's own table, once it has ended."""
        # What an earlier process of this worker left is over: its child ended with it.
        self._runner.reconcile()
        for left in self._table.queue():
            self._table.request_cancel(left.id)
        job = self._table.submit(part.kind, part.key, part.settings, part.owner)
        told, told_at = None, float("-inf")
        try:
            while job.live:
                if not job.stopping and stopped():
                    self._table.request_cancel(job.id)
                self._runner.reconcile()
                self.at_work = job = self._table.get(job.id)
                now, seen = time.monotonic(), _progress(job, name)
                if (seen != told and now - told_at >= _TELL_S) or now - told_at >= _HEARTBEAT_S:
                    report(seen)
                    told, told_at = seen, now
                time.sleep(_TICK_S)
        finally:
            self.at_work = None
        return job


def here() -> Machine:
    """The machine of this process; its folder is the first that no other Dask worker of this computer has."""
    with _opening:
        return _opened()


@cache
def _opened() -> Machine:
    return Machine(_own_folder())


@cache
def _own_folder() -> Path:
    shared = in_full(data_folder())
    shared.mkdir(mode=0o700, parents=True, exist_ok=True)
    make_folder(shared / "cluster")
    for number in range(MOST_WORKERS):
        if lock := hold(shared / "cluster" / f"{number}.lock", wait_s=0.05):
            _held.append(lock)
            return shared / "cluster" / str(number)
    raise StoreError(f"{MOST_WORKERS} Dask workers use {shared} already.", "Name another one: SPARSEDASH_DATA_DIR.")


_opening = threading.Lock()
_held: list[IO[bytes]] = []
"""Kept open for as long as this process lives."""


def do(part: Part, report: Callable[[PartProgress], None], stopped: Callable[[], bool], fetch: Fetch) -> PartEnd:
    """What a Dask worker is asked to do: see jobs.cluster. Nothing that goes wrong with the part is raised."""
    from sparsedash.jobs.cluster import this_machine

    address, name = this_machine()
    report(PartProgress(machine=name))
    try:
        machine = here()
        if part.calibration is not None and part.calibration.machine != address:
            fetch_calibration(part.calibration, machine.store, fetch, stopped)
        end = machine.do(part, name, report, stopped)
        return kept_calibration(end, part.key, address, machine.store)
    except SparseDashError as error:
        return failed(error, name)


def piece(name: str, offset: int) -> tuple[bytes, int]:
    """A piece of an artefact of this machine, and how many bytes it has in all."""
    return piece_of(here().store, name, offset)


def facts() -> dict[str, Any]:
    """What this machine is and does, the values of a MachineFacts; goes along with every heartbeat, so it is cheap."""
    known: dict[str, Any] = {"hostname": socket.gethostname(), "sparsedash": sparsedash.__version__, **_packages()}
    known |= {"gpus": _gpu_names(), **_memory()}
    try:
        machine = here()
    except SparseDashError as error:
        return known | {"problem": str(error)}
    return known | {"child_bytes": machine.child_bytes(), "folder": str(machine.folder)}


def _progress(job: Job, name: str) -> PartProgress:
    values = {n: getattr(job, n) for n in ("stage", "done", "total", "unit", "rate", "message", "n_right", "point")}
    return PartProgress(machine=name, taken=job.taken, **values)


@cache
def _packages() -> dict[str, str]:
    found = {}
    for name in ("torch", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def _gpu_names() -> list[str]:
    """One a GPU that its child may use, by the driver's name for it where that can be read."""
    lines = [line for file in sorted(_NVIDIA.glob("*/information")) for line in file.read_text().splitlines()]
    names = [line.partition(_GPU_NAME)[2].strip() for line in lines if line.startswith(_GPU_NAME)]
    return [names[int(gpu)] if gpu.isdecimal() and int(gpu) < len(names) else f"GPU {gpu}" for gpu in visible_gpus()]


def _memory() -> dict[str, int]:
    """Bytes of the computer's memory; empty where the kernel does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    sizes = {line.partition(":")[0]: line.split()[1] for line in lines}
    wanted = {"total_bytes": "MemTotal", "free_bytes": "MemAvailable"}
    return {ours: 1024 * int(sizes[theirs]) for ours, theirs in wanted.items() if theirs in sizes}
