"""Real servers with data folders of their own, and the Chromium that looks at them."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def chromium() -> str | None:
    """The path of a Chromium: the one that CHROMIUM names, or the first known name on the PATH."""
    names = (os.environ["CHROMIUM"],) if os.environ.get("CHROMIUM") else CHROMIUM_NAMES
    return next((path for name in names if (path := shutil.which(name))), None)


class Server:
    """The dashboard on a data folder. address: where it answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self._log = folder.with_name(f"{folder.name}-server.log")
        command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
        environment = os.environ | {"SPARSEDASH_DATA_DIR": str(folder), "SPARSEDASH_LINGER_S": "30"}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def wait(self) -> None:
        """Return once it answers. Fails with its log when it ends or takes too long."""
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"the server did not come up:\n{self._log.read_text()}")

    def stop(self) -> None:
        """End the server, and its workers, which outlive it on purpose."""
        self.process.terminate()
        self.process.wait(DEADLINE_S)
        workers = [p for p in psutil.process_iter(["cmdline"]) if self._owns(p.info["cmdline"])]
        for worker in workers:
            worker.terminate()
        psutil.wait_procs(workers, timeout=DEADLINE_S)

    def _owns(self, command: list[str] | None) -> bool:
        return bool(command) and "sparsedash.worker" in command and str(self.folder) in command


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
