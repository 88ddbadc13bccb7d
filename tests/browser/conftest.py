"""A real Chromium, and servers with data folders of their own.

Without Chromium these tests are skipped; where the environment variable CI is set that is a failure.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sparsedash.storage.store import Store
from tests.browser.served import DEADLINE_S, Server, chromium
from tests.ui import specimens

StartServer = Callable[..., Server]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


def leave_out(reason: str) -> None:
    """Skip, or fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; in CI the browser tests must run")
    pytest.skip(f"{reason}; the browser tests are left out")


@pytest.fixture(scope="package")
def browser():
    """One Chromium for all tests here; each gets its own context."""
    executable = chromium()
    if executable is None:
        leave_out("No Chromium found (name one with CHROMIUM=...)")
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        leave_out("Playwright is not installed")
    # The default of five seconds is too short on a busy machine.
    expect.set_options(timeout=1000 * DEADLINE_S)
    with sync_playwright() as playwright:
        # Chromium's own sandbox needs privileges that containers do not give.
        opened = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., object]]:
    """Opens a page of a new user at 1440 pixels; `page.complaints` holds the errors of its console and its dialogs.

    Options are those of Playwright's `new_context`.
    """
    with ExitStack() as at_the_end:

        def opened(**options: object):
            context = browser.new_context(**{"viewport": {"width": 1440, "height": 1000}} | options)
            at_the_end.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(1000 * DEADLINE_S)
            page.complaints = []
            page.on("console", lambda message: note(page.complaints, message))
            page.on("dialog", lambda dialog: page.complaints.append(f"dialog: {dialog.message}"))
            return page

        yield opened


@pytest.fixture
def page(open_page):
    return open_page()


def note(complaints: list[str], message) -> None:
    """Keep an error of the console.

    Streamlit looks for its own routes under the page's path first: those 404 are expected.
    """
    if message.type == "error" and "404 (Not Found)" not in message.text:
        complaints.append(message.text)


@pytest.fixture(scope="package")
def start_server() -> Iterator[StartServer]:
    """Starts a server on a data folder; servers and their workers end with the tests here."""
    with ExitStack() as at_the_end:

        def start(folder: Path, **environment: str) -> Server:
            server = Server(folder, **environment)
            at_the_end.callback(server.stop)
            server.wait()
            return server

        yield start


@pytest.fixture(scope="package")
def finished(start_server, tmp_path_factory) -> Server:
    """A server whose data folder holds one finished run with made-up answers; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("finished") / "data"
    run, records = specimens.run()
    store = Store(folder)
    for record in (*records, specimens.passages(), run):
        store.put(record.key, record)
    store.close()
    return start_server(folder)


@pytest.fixture(scope="package")
def empty(start_server, tmp_path_factory) -> Server:
    """A server whose data folder holds nothing; tests leave it as it is."""
    return start_server(tmp_path_factory.mktemp("empty") / "data")
