"""A cluster over TLS whose machines have fake children, and a server's data folder whose jobs it
does.
"""

import os
import subprocess
import time
from collections import Counter
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

from sparsedash.jobs.cluster import Cluster, OnMachine
from sparsedash.jobs.cluster_parts import named_scheduler
from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import RunSettings
from sparsedash.service import cluster_machine
from sparsedash.service.cluster_runner import ClusterRunner
from sparsedash.storage.local_machine import data_folder
from sparsedash.storage.store import Store
from tests import child_processes
from tests.dask_cluster import ROOT, DaskHouse, eventually
from tests.faults.fake_worker import COMMAND

SIX = (100, 200, 300, 400, 500, 600)


@cache
def here() -> cluster_machine.PartMachine:
    """The machine of this Dask worker, with fake children."""
    data_folder().mkdir(exist_ok=True)
    return cluster_machine.PartMachine(data_folder(), command=COMMAND)


def do(part, report, stopped, fetch):
    cluster_machine.this_part_machine = here
    return cluster_machine.perform_part(part, report, stopped, fetch)


def facts():
    cluster_machine.this_part_machine = here
    return cluster_machine.machine_facts()


class CountedStore:
    """A store that writes a line into the file `kept` for every record that it is given."""

    def __init__(self, folder: Path) -> None:
        self._store = Store(folder)
        self._kept = folder / "kept"

    def __getattr__(self, name):
        return getattr(self._store, name)

    def put(self, key, record):
        self._store.put(key, record)
        if isinstance(record, Record):
            with self._kept.open("a") as file:
                file.write(f"{key}\n")


def cluster_runner(
    folder: Path, table: JobTable, grace_s: float = 60.0
) -> ClusterRunner:
    """A server's part that looks after the jobs of a cluster, at work."""
    connect = partial(
        Cluster,
        on_machine=OnMachine(
            do=do,
            facts=facts,
            artefact=cluster_machine.kept_artefact,
        ),
    )
    runner = ClusterRunner(
        folder,
        table,
        CountedStore(folder),
        named_scheduler(),
        connect=connect,
        grace_s=grace_s,
    )
    runner.start()
    return runner


def serve(folder: str) -> None:
    """A server that does nothing else."""
    cluster_runner(Path(folder), JobTable(Path(folder) / "jobs.sqlite"))
    while True:
        time.sleep(1)


class ClusterHouse(DaskHouse):
    """server: looks after the jobs in this process; None where none does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = folder / "server"
        self.data.mkdir()
        self.store = Store(self.data)
        self.table = JobTable(self.data / "jobs.sqlite")
        self.server: ClusterRunner | None = None
        self.processes: list[subprocess.Popen[bytes]] = []

    def begin(self, *names: str) -> None:
        self.start_scheduler()
        for name in names:
            self.start_worker(name)

    def serve(self, grace_s: float = 60.0) -> ClusterRunner:
        self.server = cluster_runner(self.data, self.table, grace_s)
        return self.server

    def serve_apart(self) -> subprocess.Popen[bytes]:
        """A server in a process of its own, which can be killed."""
        command = [
            "-c",
            f"from tests.faults.cluster_process import serve; serve({str(self.data)!r})",
        ]
        known = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (self.folder / "server.log").open("ab") as output:
            self.processes.append(
                child_processes.start(
                    command,
                    env=known,
                    cwd=ROOT,
                    stdout=output,
                    stderr=output,
                )
            )
        return self.processes[-1]

    def submit(self, behaviour: str, points: tuple[int, ...] = SIX) -> Job:
        settings = RunSettings(model=f"fake/{behaviour}", sparsities_permille=points)
        return self.table.submit("run", settings.key(), asdict(settings))

    def at_work(self, behaviour: str, stage: str = "calibrate") -> Job:
        """A new job once it has come to this stage."""
        job = self.submit(behaviour)
        eventually(lambda: self.table.get(job.id).progress.stage == stage)
        return self.table.get(job.id)

    def until_state(self, job: Job, *states: str) -> Job:
        eventually(lambda: self.table.get(job.id).state in states)
        return self.table.get(job.id)

    def stopped_within(self, job: Job, seconds: float) -> None:
        """Stop a job, which takes no longer than this."""
        asked_at = time.monotonic()
        self.table.request_cancel(job.id)
        self.until_state(job, "cancelled")
        took_s = time.monotonic() - asked_at
        print(f"\ncancelled within {took_s:.2f} s")
        assert took_s < seconds

    def until_made(self, job: Job, n_sparse: int) -> None:
        """Wait until so many sparse records came back."""
        eventually(
            lambda: self.kept().total() > n_sparse or not self.table.get(job.id).live
        )

    def kept(self) -> Counter[str]:
        """How often the server has kept each record."""
        path = self.data / "kept"
        return Counter(path.read_text().split() if path.exists() else ())

    def assert_whole(self, job: Job, n_sparse: int = 6) -> None:
        """The run is there with all its records, each kept once, and nobody is at work any more."""
        run = self.store.get(Run, job.key)
        assert run is not None and run.finished
        assert len(run.sparse) == n_sparse
        assert all(self.store.get(Record, key) for key in (run.dense, *run.sparse))
        assert set(self.kept().values()) == {1}
        assert len(self.kept()) == n_sparse + 1

    def end(self) -> None:
        if self.server is not None:
            self.server.close()
        for process in self.processes:
            process.kill()
            process.wait()
        super().end()
        self.table.close()
        self.store.close()
