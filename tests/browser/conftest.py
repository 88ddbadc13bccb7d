"""A real Chromium, and servers with data folders of their own.

Without Chromium these tests are skipped; where the environment variable CI is set that is a
failure.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sparsedash.storage.store import Store
from tests.browser.runs import put_hostile
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
        opened = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="package")
def tab(browser):
    """The one tab of most tests: what Chromium has compiled of Streamlit's scripts stays with
    it.
    """
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def page(tab):
    """A page in that tab; fails at its end where the console held an error or a dialog came up."""
    tab.set_viewport_size(SCREEN)
    tab.emulate_media(color_scheme="light")
    with watched(tab):
        yield tab
        tab.goto("about:blank")
        assert tab.complaints == []


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., object]]:
    """Opens a page of a new user. Options are those of Playwright's `new_context`."""
    with ExitStack() as at_the_end:

        def opened(**options: object):
            context = browser.new_context(viewport=SCREEN, **options)
            at_the_end.callback(context.close)
            return at_the_end.enter_context(watched(context.new_page()))

        yield opened


@contextmanager
def watched(page):
    """The page with the errors of its console and its dialogs in `complaints`."""
    page.set_default_timeout(1000 * DEADLINE_S)
    page.complaints = []

    def hear(message):
        # Streamlit looks for its own routes under the page's path first: those 404 are expected. So
        # is that of a file which a rerun has replaced while the page asked for it.
        expected = "404 (Not Found)", "Download Button source error - 404"
        if message.type == "error" and not any(
            text in message.text for text in expected
        ):
            page.complaints.append(message.text)

    def ask(dialog):
        page.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("console", hear)
    page.on("dialog", ask)
    yield page
    page.remove_listener("console", hear)
    page.remove_listener("dialog", ask)


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
    """A server whose data folder holds a finished run, and an older one of hostile texts; tests
    leave it as it is.

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
