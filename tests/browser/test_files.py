"""The runs page: what is ticked at once, overlaid, searched and named; uploads."""

import re

import psutil
import pytest
from playwright.sync_api import expect

from sparsedash.storage.store import Store
from sparsedash.ui.middleware import MAX_FILES
from tests.browser.logins import RawUser
from tests.browser.runs import run_of
from tests.browser.served import DEADLINE_S, press, ready, upload_text
from tests.faults.server_process import eventually
from tests.ui import specimens


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory):
    """A server of three runs."""
    folder = tmp_path_factory.mktemp("files") / "data"
    store = Store(folder)
    run, records = specimens.run()
    parts = [run, *records, specimens.passages()]
    for age_s, model in enumerate(("owner/second", "owner/first")):
        run, others, their_texts = run_of(model, model[6:], age_s - 9)
        parts += [run, *others, their_texts]
    for part in parts:
        store.put(part.key, part)
    store.close()
    return start_server(folder)


def test_runs_are_ticked_at_once_overlaid_and_named(page, server):
    page.goto(f"{server.address}/runs")
    ready(page)
    # The first page that this server was asked for.
    expect(page.get_by_text("Page not found")).to_have_count(0)
    # Rows grow as their answers are read, and a click would hit another one.
    expect(
        page.locator("[class*=st-key-run-row-]", has_text="undecided")
    ).to_have_count(3)
    labels = page.locator("[class*=st-key-tick-] label")
    expect(labels).to_have_count(3)
    boxes = [label.bounding_box() for label in labels.all()]
    assert all(min(box["width"], box["height"]) >= 24 for box in boxes)
    for box in boxes[
        :2
    ]:  # At once: the second click comes before the answer to the first.
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.get_by_text("2 chosen")).to_be_visible()
    press(page, "Overlay")
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    ready(page)
    page.reload()
    ready(page)
    expect(page.get_by_label(re.compile("Word perplexity over"))).to_be_attached()
    press(page, "Clear", exact=True)
    # A box ticked before that would send the old ones again.
    expect(page.get_by_text("2 chosen")).to_have_count(0)
    ready(page)
    page.get_by_role("checkbox", name="Choose SmolLM2 135M").press("Space")
    press(page, "Rename")
    name = page.get_by_role("textbox", name="Name of this run")
    name.fill("For the talk")
    press(page, "Save")
    expect(name).to_have_count(0)
    titles = page.locator("[class*=st-key-run-row-] a")
    expect(titles).to_contain_text(["owner/second", "owner/first", "For the talk"])


N_BYTES = 40_000_000


@pytest.mark.long
def test_uploads_do_not_stay_in_the_server_s_memory(page, start_server, tmp_path):
    text = tmp_path / "long.txt"
    text.write_bytes(
        b"\n\n".join(b"%d" % n + b" word" * (N_BYTES // 30) for n in range(6))
    )
    server = start_server(tmp_path / "data", SPARSEDASH_WORKERS="0")
    process = psutil.Process(server.process.pid)
    raw = RawUser(server.address)
    page.goto(f"{server.address}/prune")
    ready(page)
    before = process.memory_info().rss
    upload_text(page, server.address, text)
    expect(page.get_by_role("combobox", name="Passages to evaluate on")).to_have_value(
        re.compile("^upload:long.txt")
    )
    assert process.memory_info().rss - before < N_BYTES / 2
    before = process.memory_info().rss
    with raw.session() as session:
        assert {
            raw.upload(session, f"file-{number}", b"x" * N_BYTES) for number in range(7)
        } == {
            204,
            429,
        }
        # One more for the page itself.
        assert process.memory_info().rss - before < (MAX_FILES + 2) * N_BYTES
    eventually(lambda: process.memory_info().rss - before <= 1.5 * N_BYTES, DEADLINE_S)
