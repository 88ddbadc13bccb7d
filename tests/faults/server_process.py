"""A data folder with its job table, runners that start fake workers, and servers that do nothing
but tend.

python -m tests.faults.server_process FOLDER COMMAND...   such a server, once every 20 ms, until it is killed
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import psutil

from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.local_runner import LocalRunner, worker_environment
from sparsedash.schema.settings import RunSettings
from sparsedash.storage.store import claim_data_folder
from tests import child_processes
from tests.dask_cluster import eventually
from tests.faults.fake_worker import COMMAND

FORKING_WORKER = Path(__file__).with_name("forking_worker.py")


def gone(pid: int) -> bool:
    """Whether a process has ended, whoever has to be told of it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


class Forking:
    """Starts real workers without importing torch each time; their work is counted, see
    forking_worker.
    """

    def __init__(self) -> None:
        command = [sys.executable, "-P", str(FORKING_WORKER)]
        pipes = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.DEVNULL,
        }
        environment = worker_environment(0) | {"SPARSEDASH_LINGER_S": "0"}
        self.process = subprocess.Popen(
            command,
            env=environment,
            text=True,
            **pipes,
        )
        assert self.process.stdout.readline().strip() == "ready"

    def start(self, folder: Path) -> int:
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


class House:
    """One data folder and all that lives in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        claim_data_folder(folder)
        self.table = JobTable(folder / "jobs.sqlite")
        self.runners: list[LocalRunner] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.runner = self.new_runner()

    def new_runner(
        self, command: Sequence[str] = COMMAND, **grace: float
    ) -> LocalRunner:
        self.runners.append(
            LocalRunner(
                self.folder,
                self.table,
                command=command,
                **grace,
            )
        )
        return self.runners[-1]

    def start_server(self) -> subprocess.Popen[bytes]:
        command = ["-m", "tests.faults.server_process", str(self.folder), *COMMAND]
        self.processes.append(child_processes.start(command, env=worker_environment(0)))
        return self.processes[-1]

    def start_worker(self, slot: int) -> subprocess.Popen[bytes]:
        """A worker that nobody tends."""
        command = [*COMMAND, "--data-dir", str(self.folder), "--slot", str(slot)]
        output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes.append(
            subprocess.Popen(
                command,
                env=worker_environment(slot),
                **output,
            )
        )
        return self.processes[-1]

    def submit(self, model: str) -> Job:
        settings = RunSettings(model=f"fake/{model}")
        return self.table.submit("run", settings.key(), asdict(settings))

    def tend_until(self, condition: Callable[[], object]) -> None:
        def reconciled() -> object:
            self.runner.reconcile()
            return condition()

        eventually(reconciled)

    def tend_until_state(self, job: Job, *states: str) -> Job:
        self.tend_until(lambda: self.table.get(job.id).state in states)
        return self.table.get(job.id)

    def at_work(self, model: str, stage: str = "calibrate") -> Job:
        """A new job once it has come to this stage."""
        job = self.submit(model)
        self.tend_until(lambda: self.table.get(job.id).progress.stage == stage)
        return self.table.get(job.id)

    def release(self) -> None:
        (self.folder / "release").touch()

    def ledger(self) -> list[tuple[str, int]]:
        """Key and process of every run that was begun."""
        lines = (self.folder / "ledger").read_text().splitlines()
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def log(self, job: Job) -> str:
        return Path(job.log_path).read_text()

    def kill_all(self) -> None:
        """Kill whatever was started for this folder, workers of dead servers too."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess):
                if str(self.folder) in process.cmdline():
                    process.kill()

    def end(self) -> None:
        """Leave nothing alive and nothing open."""
        self.kill_all()
        for child in self.processes:
            child.wait()
        for runner in self.runners:
            runner.close()
        self.table.close()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    runner = LocalRunner(folder, JobTable(folder / "jobs.sqlite"), command=sys.argv[2:])
    while True:
        runner.reconcile()
        time.sleep(0.02)
