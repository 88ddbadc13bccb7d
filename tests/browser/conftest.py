"""A real Chromium, and real servers with data folders of their own.

Without Chromium these tests are skipped, and say so; where the environment variable CI is set that is a failure.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sparsedash.storage.store import Store
from tests.browser.served import DEADLINE_S, Server, chromium
from tests.ui import specimens

StartServer = Callable[[Path], str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


def leave_out(reason: str) -> None:
    """Skip, or fail where these tests must run."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; in CI the browser tests must run")
    pytest.skip(f"{reason}; the browser tests are left out")


@pytest.fixture(scope="package")
def browser():
    """One Chromium for all tests here; each gets its own context. Its event loop must not run on into other tests."""
    executable = chromium()
    if executable is None:
        leave_out("No Chromium found (name one with CHROMIUM=...)")
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        leave_out("Playwright is not installed")
    # The five seconds that are usual are too few on a busy machine.
    expect.set_options(timeout=1000 * DEADLINE_S)
    with sync_playwright() as playwright:
        # Without its own sandbox, which needs privileges that containers do not give.
        opened = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser) -> Iterator[object]:
    """A page of a fresh visitor at 1440 pixels; what its console complained about is in `page.complaints`."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    opened = context.new_page()
    opened.set_default_timeout(1000 * DEADLINE_S)
    opened.complaints = []
    opened.on("console", lambda message: note(opened.complaints, message))
    opened.on("dialog", lambda dialog: opened.complaints.append(f"dialog: {dialog.message}"))
    yield opened
    context.close()


def note(complaints: list[str], message) -> None:
    """Keep an error of the console.

    Streamlit looks for its own routes under the page's path first: those 404 are its way.
    """
    if message.type == "error" and "404 (Not Found)" not in message.text:
        complaints.append(message.text)


@pytest.fixture(scope="module")
def start_server() -> Iterator[StartServer]:
    """Starts a server on a data folder and gives its address; servers and their workers end with the module."""
    with ExitStack() as at_the_end:

        def start(folder: Path) -> str:
            server = Server(folder)
            at_the_end.callback(server.stop)
            server.wait()
            return server.address

        yield start


@pytest.fixture(scope="module")
def folder_with_a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that holds one finished run with made-up answers."""
    folder = tmp_path_factory.mktemp("data") / "finished"
    run, records = specimens.run()
    store = Store(folder)
    for record in (*records, specimens.passages(), run):
        store.put(record.key, record)
    store.close()
    return folder
