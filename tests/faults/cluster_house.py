"""A cluster over TLS whose machines have fake children, and a server's data folder whose jobs it does."""

import os
import subprocess
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import RunSettings
from sparsedash.service.cluster_runner import ClusterRunner
from sparsedash.storage.store import Store
from tests import dies_with_us
from tests.dask_house import ROOT, DaskHouse, eventually
from tests.faults.fake_cluster_server import cluster_runner

SIX = (100, 200, 300, 400, 500, 600)


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
        self.server.start()
        return self.server

    def serve_apart(self) -> subprocess.Popen[bytes]:
        """A server in a process of its own, which can be killed."""
        command = ["-m", "tests.faults.fake_cluster_server", str(self.data)]
        known = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (self.folder / "server.log").open("ab") as output:
            self.processes.append(dies_with_us.start(command, env=known, cwd=ROOT, stdout=output, stderr=output))
        return self.processes[-1]

    def submit(self, behaviour: str, points: tuple[int, ...] = SIX) -> Job:
        settings = RunSettings(model=f"fake/{behaviour}", sparsities_permille=points)
        return self.table.submit("run", settings.key(), asdict(settings))

    def until_state(self, job: Job, *states: str) -> Job:
        eventually(lambda: self.table.get(job.id).state in states)
        return self.table.get(job.id)

    def until_made(self, job: Job, n_sparse: int) -> None:
        """Wait until so many sparse records came back."""
        eventually(lambda: self.kept().total() > n_sparse or not self.table.get(job.id).live)

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
            self.server.let_go()
        for process in self.processes:
            process.kill()
            process.wait()
        super().end()
        self.table.close()
        self.store.close()
