"""Real servers with data folders of their own, and the Chromium that looks at them."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import psutil
from playwright.sync_api import TimeoutError as NotInTime

from tests import child_processes

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60
CHROMIUM_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
)


def chromium() -> str | None:
    """The path of a Chromium: the one that CHROMIUM names, or the first known name on the PATH."""
    names = (os.environ["CHROMIUM"],) if os.environ.get("CHROMIUM") else CHROMIUM_NAMES
    return next((path for name in names if (path := shutil.which(name))), None)


class Server:
    """The dashboard on a data folder; it ends with this process at the latest. address: its URL.

    options: of `streamlit run`. port: a free one where none is named. environment: beside ours.
    """

    def __init__(
        self, folder: Path, *options: str, port: int | None = None, **environment: str
    ) -> None:
        self.folder = folder
        port = port or free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.log = folder.with_name(f"{folder.name}-server.log")
        arguments = [
            "-m",
            "streamlit",
            "run",
            "app.py",
            "--server.port",
            str(port),
            *options,
        ]
        ours = {
            "SPARSEDASH_DATA_DIR": str(self.folder),
            "SPARSEDASH_LINGER_S": "30",
            "PYTHONFAULTHANDLER": "1",
        }
        with self.log.open("wb") as log:
            everything = {**os.environ, **ours, **environment}
            self.process = child_processes.start(
                arguments, cwd=ROOT, env=everything, stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Return once it answers. Fails with its log when it ends, takes too long, or another has
        its port.
        """
        if not answers(self.process, f"{self.address}/health") or not self._listens():
            raise AssertionError(f"the server did not come up:\n{self.log.read_text()}")

    def stop(self) -> None:
        """End the server, killed if it takes longer, and its workers, which outlive it on
        purpose.
        """
        child_processes.end(self.process, DEADLINE_S)
        workers = [
            p for p in psutil.process_iter(["cmdline"]) if self._owns(p.info["cmdline"])
        ]
        for worker in workers:
            worker.terminate()
        for worker in psutil.wait_procs(workers, timeout=DEADLINE_S)[1]:
            worker.kill()

    def _listens(self) -> bool:
        connections = psutil.Process(self.process.pid).net_connections("tcp")
        return any(
            connection.status == psutil.CONN_LISTEN
            and self.address.endswith(f":{connection.laddr.port}")
            for connection in connections
        )

    def _owns(self, command: list[str] | None) -> bool:
        return (
            bool(command)
            and "sparsedash.worker" in command
            and str(self.folder) in command
        )


def answers(process: subprocess.Popen[bytes], address: str) -> bool:
    """Whether a process answers at this address before it has ended or too much time has passed."""
    deadline = time.monotonic() + DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return True
        time.sleep(0.05)
    return False


def ready(page) -> None:
    """Wait until the script of the page has run to its end."""
    page.wait_for_selector("h1.sd-opening")
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")


def press(page, name: str, **options: object) -> None:
    """Press the first button of this name by its key, at the script's end: a press may be lost
    while pages redraw.
    """
    button = page.get_by_role("button", name=name, **options).first
    button.wait_for()
    ready(page)
    button.press("Enter")


def press_key(page, key: str, shown) -> None:
    """Press a key of the page until it shows this.

    Keys are listened to a moment after the buttons are drawn, and a press before that is lost.
    """
    deadline = time.monotonic() + DEADLINE_S
    while not shown.is_visible():
        assert time.monotonic() < deadline, f"“{key}” did nothing"
        page.keyboard.press(key)
        with contextlib.suppress(NotInTime):
            shown.wait_for(timeout=5_000)
        ready(page)


def upload_text(page, address: str, file: dict | Path) -> None:
    """Upload a text on the form, as passages to answer. file: as Playwright takes it."""
    page.goto(f"{address}/prune")
    ready(page)
    page.locator("summary").filter(has_text="Texts and tasks").click()
    page.get_by_role("button", name="Upload a text").first.wait_for()
    # A rerun meanwhile would close it again.
    ready(page)
    page.get_by_role("button", name="Upload a text").first.click()
    page.locator("input[type=file]").first.set_input_files(file)


def taken(page, button) -> tuple[str, bytes, str]:
    """Press a button that gives a file. Returns the file's name, its content and its address.

    By its key: while a chart above is drawn for the first time, the button moves from under the
    mouse.
    """
    button.wait_for()
    ready(page)
    with page.expect_download() as got:
        button.press("Enter")
    return (
        got.value.suggested_filename,
        Path(got.value.path()).read_bytes(),
        got.value.url,
    )


def download(page, name: str, **options: object) -> tuple[str, bytes, str]:
    """The file that the first button of this name gives."""
    return taken(
        page,
        page.get_by_role(
            "button",
            name=name,
            **options,
        ).first,
    )


def free_port() -> int:
    """A port that nobody listens on.

    Each test process has ports of its own, below those that the system gives away: else another
    server may take it before ours has started, and answer in its place.
    """
    first = 10_000 + 1_000 * int(
        os.environ.get("PYTEST_XDIST_WORKER", "gw9").removeprefix("gw")
    )
    # Not by the usual generator: what tests seed and fork would try the same ports everywhere.
    for port in random.SystemRandom().sample(range(first, first + 1_000), 1_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")
