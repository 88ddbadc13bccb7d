"""What an upload leaves in the server's memory while its visitor stays."""

import re
import time

import psutil
import pytest
from playwright.sync_api import expect

from sparsedash.ui.middleware import MOST_FILES
from tests.browser.raw import Raw
from tests.browser.served import DEADLINE_S, Server, bring

N_BYTES = 40_000_000


@pytest.fixture
def server(tmp_path):
    started = Server(tmp_path / "data", SPARSEDASH_WORKERS="0")
    started.wait()
    yield started
    started.stop()


def test_an_upload_does_not_stay_in_memory(page, server, tmp_path):
    text = tmp_path / "long.txt"
    text.write_bytes(b"word " * 200 * (N_BYTES // 1002) + b"\n\n")
    process = psutil.Process(server.process.pid)
    page.goto(f"{server.address}/prune")
    page.wait_for_selector("h1.sd-opening")
    before = process.memory_info().rss
    bring(page, server.address, text)
    expect(page.get_by_role("combobox", name="Passages to answer")).to_have_value(re.compile("^upload:long.txt"))
    assert process.memory_info().rss - before < N_BYTES / 2


def test_uploads_that_no_page_asked_for_are_few_and_go_with_their_page(server):
    raw, process = Raw(server.address), psutil.Process(server.process.pid)
    before = process.memory_info().rss

    def taken():
        return process.memory_info().rss - before

    with raw.session() as session:
        assert {raw.upload(session, f"file-{number}", b"x" * N_BYTES) for number in range(7)} == {204}
        # One more for what the page itself takes.
        assert taken() < (MOST_FILES + 2) * N_BYTES
    deadline = time.monotonic() + DEADLINE_S
    while taken() > 1.5 * N_BYTES and time.monotonic() < deadline:
        time.sleep(0.05)
    assert taken() <= 1.5 * N_BYTES
