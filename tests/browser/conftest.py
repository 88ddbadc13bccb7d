"""A real Chromium, and servers with data folders of their own.

Without Chromium these tests are skipped; where the environment variable CI is set that is a failure.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sparsedash.storage.store import Store
from tests.browser.hostile import put_hostile
from tests.browser.served import DEADLINE_S, Server, chromium
from tests.ui import specimens

StartServer = Callable[..., Server]
SCREEN = {"width": 1440, "height": 1000}


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


@pytest.fixture(scope="package")
def visitor(browser):
    """The context of most pages here, which keeps Streamlit's scripts from one test to the next."""
    context = browser.new_context(viewport=SCREEN)
    yield context
    context.close()


@pytest.fixture
def page(visitor):
    """A page of that visitor; fails at its end where the console held an error or a dialog came up."""
    opened = page_of(visitor)
    yield opened
    opened.close()
    assert opened.complaints == []


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., object]]:
    """Opens a page of a new user. Options are those of Playwright's `new_context`."""
    with ExitStack() as at_the_end:

        def opened(**options: object):
            context = browser.new_context(viewport=SCREEN, **options)
            at_the_end.callback(context.close)
            return page_of(context)

        yield opened


def page_of(context):
    """A new page; its `complaints` are the errors of its console and its dialogs."""
    page = context.new_page()
    page.set_default_timeout(1000 * DEADLINE_S)
    page.complaints = []
    page.on("console", lambda message: note(page.complaints, message))
    page.on("dialog", lambda dialog: page.complaints.append(f"dialog: {dialog.message}"))
    return page


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
    """A server whose data folder holds a finished run, and an older one of hostile texts; tests leave it as it is.

    hostile: the key of the older run.
    """
    folder = tmp_path_factory.mktemp("finished") / "data"
    run, records = specimens.run()
    store = Store(folder)
    for value in (*records, specimens.passages(), run):
        store.put(value.key, value)
    hostile = put_hostile(store)
    store.close()
    server = start_server(folder)
    server.hostile = hostile
    return server


@pytest.fixture(scope="package")
def empty(start_server, tmp_path_factory) -> Server:
    """A server whose data folder holds nothing; tests leave it as it is."""
    return start_server(tmp_path_factory.mktemp("empty") / "data")
