"""A Dask scheduler and its workers on loopback, over TLS with certificates made for the test; and
what they leave.
"""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import trustme

from tests import child_processes

ROOT = Path(__file__).parents[1]
PRIVATE = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")
DEADLINE_S = 120.0


def eventually(condition: Callable[[], object], within_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as result:
        result.bind(("127.0.0.1", 0))
        return result.getsockname()[1]


class Certificates:
    """A certificate authority of its own, and one certificate that it issued."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.ca, self.certificate, self.key = (
            folder / name for name in ("ca.pem", "cert.pem", "key.pem")
        )
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(self.ca)
        issued.cert_chain_pems[0].write_to_path(self.certificate)
        issued.private_key_pem.write_to_path(self.key)

    @property
    def flags(self) -> list[str]:
        return [
            f"--tls-ca-file={self.ca}",
            f"--tls-cert={self.certificate}",
            f"--tls-key={self.key}",
        ]

    @property
    def environment(self) -> dict[str, str]:
        named = {"CA": self.ca, "CERT": self.certificate, "KEY": self.key}
        return {f"SPARSEDASH_TLS_{name}": str(path) for name, path in named.items()}


class DaskHouse:
    """folder: everything is in it. Dask workers have a data folder each, as on machines of their
    own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificates = Certificates(folder / "certificates")
        self.port = free_port()
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {"SPARSEDASH_SCHEDULER": self.address, **self.certificates.environment}

    def start_scheduler(self) -> None:
        where = ["--host", "tls://127.0.0.1", "--port", str(self.port), *PRIVATE]
        self.scheduler = self._start(
            "scheduler", ["-m", "distributed.cli.dask_scheduler", *where]
        )

    def start_worker(self, name: str, n_slots: int = 1, **environment: str) -> None:
        """As docs/cluster.md says to, but for the nanny: a killed worker shall stay away here."""
        size = [
            "--nworkers",
            "1",
            "--nthreads",
            "1",
            "--memory-limit",
            "0",
            "--resources",
            f"SLOT={n_slots}",
        ]
        options = [
            *size,
            "--no-nanny",
            *PRIVATE,
            "--name",
            name,
            "--local-directory",
            str(self.folder / "dask"),
        ]
        environment = {
            "SPARSEDASH_DATA_DIR": str(self.data_of(name)),
            "SPARSEDASH_SCHEDULER": "",
            **environment,
        }
        command = ["-m", "distributed.cli.dask_worker", self.address, *options]
        self.workers[name] = self._start(name, command, **environment)

    def data_of(self, name: str) -> Path:
        return self.folder / f"data-of-{name}"

    def children_of(self, name: str) -> list[psutil.Process]:
        """Workers of SparseDash that this Dask worker started, whether or not it lives."""
        result = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                words = process.cmdline()
                if "--bound" in words and any(
                    word.startswith(str(self.data_of(name))) for word in words
                ):
                    result.append(process)
        return result

    def kill_worker(self, name: str) -> None:
        process = self.workers.pop(name)
        process.kill()
        process.wait()

    def end(self) -> None:
        for process in [*self.workers.values(), *filter(None, [self.scheduler])]:
            process.kill()
        for process in [*self.workers.values(), *filter(None, [self.scheduler])]:
            process.wait()
        names = [
            path.name.removeprefix("data-of-") for path in self.folder.glob("data-of-*")
        ]
        eventually(lambda: not any(map(self.children_of, names)), within_s=20)

    def log(self) -> str:
        return "\n".join(
            path.read_text(errors="replace")[-3000:]
            for path in sorted(self.folder.glob("*.log"))
        )

    def _start(
        self, name: str, arguments: list[str], **environment: str
    ) -> subprocess.Popen[bytes]:
        known = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "default",
            **environment,
        }
        with (self.folder / f"{name}.log").open("ab") as output:
            command = [*arguments, *self.certificates.flags]
            return child_processes.start(
                command,
                env=known,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
