"""Files taken from the pages: charts, tables, the report, runs; and the storage page that deletes and verifies."""

import csv
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import expect

from sparsedash.schema.records import about_artefact
from sparsedash.storage.store import Store
from sparsedash.ui.middleware import MOST_FILES
from tests.browser.logins import RawUser
from tests.browser.served import DEADLINE_S, download, ready, upload_text
from tests.faults.house import eventually
from tests.storage.every_kind import flip, harm_entry, unpack
from tests.storage.test_run_files import named
from tests.ui import specimens

OTHERS = ("owner/first", "owner/second")


def table_of(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode())))


@pytest.mark.parametrize(
    ("path", "name", "scheme"),
    [("", "word-perplexity", "light"), ("layers", "layers", "dark"), ("compare", "changes", "dark")],
)
def test_a_chart_is_an_svg_and_a_png(path, name, scheme, page, finished):
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{finished.address}/{path}")
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    file, drawn, _ = download(page, "The chart as SVG")
    assert file.startswith(f"sparsedash-{name}") and file.endswith(".svg")
    assert ET.fromstring(drawn).tag.endswith("svg")
    file, painted, _ = download(page, "The chart as PNG")
    assert file.endswith(".png") and painted.startswith(b"\x89PNG")
    assert page.complaints == []


@pytest.mark.parametrize(("path", "first"), [("", "Model"), ("layers", "Layer"), ("published", "Model")])
def test_a_table_is_a_csv_of_what_is_shown(path, first, page, finished):
    page.goto(f"{finished.address}/{path}")
    ready(page)
    if path != "published":
        page.locator("summary").filter(has_text="The numbers as a table").click()
        ready(page)
    file, content, _ = download(page, "CSV", exact=True)
    read, shown = table_of(content), page.locator(".sd-table").first
    assert file.endswith(".csv") and read[0][0] == first
    assert len(read) == shown.locator("tr").count()
    assert read[1][1] == shown.locator("tbody tr").first.locator("td").first.inner_text().replace("\xa0", " ")


def test_the_tables_of_a_comparison_are_csv(page, finished):
    page.goto(f"{finished.address}/compare?groups=true")
    beside = "[data-testid=stElementContainer]:has(.sd-top) ~ *"
    groups = ".st-key-groups"
    for table, place, first in ((".sd-top", beside, "Next token"), (f"{groups} .sd-table", groups, "Group")):
        expect(page.locator(table)).to_be_visible()
        ready(page)
        button = page.locator(place).get_by_role("button", name="CSV")
        with page.expect_download() as got:
            button.first.click()
        read = table_of(Path(got.value.path()).read_bytes())
        assert read[0][0] == first
        assert len(read) - 1 == page.locator(f"{table} tbody th[scope=row]").count()


def test_the_report_opens_from_disk_and_asks_for_nothing(page, finished, tmp_path):
    page.goto(f"{finished.address}/compare")
    ready(page)
    page.get_by_role("button", name="Download").click()
    path = tmp_path / "report.html"
    path.write_bytes(download(page, "Report, one HTML file")[1])
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    expect(page.get_by_role("img", name=re.compile("Word perplexity over 120 passages"))).to_be_visible()
    expect(page.get_by_role("heading", name="Broke: 9")).to_be_visible()
    numbers = page.get_by_role("region", name="The numbers of this run")
    assert numbers.evaluate("e => e.scrollWidth - e.clientWidth") == 0
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert requests == [path.as_uri()]
    assert page.complaints == []


@pytest.fixture
def folder(tmp_path):
    """A data folder with three runs over the same passages, what a calibration left, and an unpacked model."""
    store = Store(tmp_path / "data")
    run, records, passages = named(*specimens.run(), specimens.passages())
    parts = [passages, *records, run]
    for i, model in enumerate(OTHERS):
        other, others = specimens.run(replace(specimens.SETTINGS, model=model))
        renamed = [replace(each, key=f"{i}-{each.key}", model=model, passages_key=passages.key) for each in others]
        started = other.started_at + i + 1
        sparse = tuple(each.key for each in renamed[1:])
        parts += [*renamed, replace(other, started_at=started, dense=renamed[0].key, sparse=sparse)]
    for part in parts:
        store.put(part.key, part)
    for number in range(3):
        store.put_artefact(f"s{number}", bytes(50_000), about_artefact("statistics", run.model_identity))
    unpack(store, "tiny-0123")
    store.close()
    return tmp_path / "data"


@pytest.fixture
def runs(page, start_server, folder):
    """The page of runs, opened, with every answer read."""
    page.goto(f"{start_server(folder).address}/runs")
    ready(page)
    # Rows grow as their answers are read, and a click would hit another one.
    expect(page.locator("[class*=st-key-run-row-]", has_text="undecided")).to_have_count(3)
    yield page
    assert page.complaints == []


def tick(page, name: str) -> None:
    """Click the box of a run as a person does: the input itself is too small to be hit."""
    page.locator("label", has=page.get_by_role("checkbox", name=f"Choose {name}")).click()


def titles(page):
    return page.locator("[class*=st-key-run-row-] a")


def test_runs_are_ticked_overlaid_searched_named_pinned_and_deleted(runs, folder):
    labels = runs.locator("[class*=st-key-tick-] label")
    expect(labels).to_have_count(3)
    boxes = [label.bounding_box() for label in labels.all()]
    for box in boxes[:2]:  # At once: the second click comes before the answer to the first.
        runs.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(runs.get_by_text("2 chosen")).to_be_visible()
    runs.get_by_role("button", name="Overlay").click()
    expect(runs.get_by_label(re.compile("Word perplexity over 120 passages"))).to_be_attached()
    runs.get_by_label("Search").fill("owner")
    runs.get_by_label("Search").press("Enter")
    runs.wait_for_url(re.compile("contains=owner"))
    expect(titles(runs)).to_have_text(["owner/second", "owner/first"])
    runs.reload()
    ready(runs)
    expect(runs.get_by_label(re.compile("Word perplexity over 120 passages"))).to_be_attached()
    expect(runs.get_by_text("2 chosen")).to_be_visible()

    runs.get_by_role("button", name="Clear", exact=True).click()
    expect(runs.get_by_text("2 chosen")).to_have_count(0)  # A box ticked before that would send the old ones again.
    tick(runs, "owner/first at 10, 20, 30")
    runs.get_by_role("button", name="Rename").click()
    runs.get_by_label("Name of this run").fill("For the talk")
    runs.get_by_role("button", name="Save").click()
    expect(runs.get_by_label("Name of this run")).to_have_count(0)
    runs.get_by_label("Search").fill("")
    runs.get_by_label("Search").press("Enter")
    expect(titles(runs)).to_have_text(["owner/second", "For the talk", "SmolLM2 135M (built in)"])
    runs.get_by_role("button", name="Pin").click()
    expect(titles(runs)).to_have_text(["For the talk", "owner/second", "SmolLM2 135M (built in)"])
    runs.get_by_role("button", name="Delete").click()
    expect(runs.get_by_text("pinned")).to_be_visible()
    runs.keyboard.press("Escape")
    runs.get_by_role("button", name="Unpin").click()
    expect(titles(runs)).to_have_text(["owner/second", "For the talk", "SmolLM2 135M (built in)"])
    runs.get_by_role("button", name="Delete").click()
    runs.get_by_role("button", name="Delete for good").click()
    expect(titles(runs)).to_have_text(["owner/second", "SmolLM2 135M (built in)"])


def test_on_a_phone_no_row_of_the_runs_is_cut_off_and_boxes_are_large_enough(runs):
    runs.emulate_media(color_scheme="dark")
    runs.set_viewport_size({"width": 390, "height": 844})
    ready(runs)
    assert runs.get_by_test_id("stMain").evaluate("e => e.scrollWidth <= e.clientWidth")
    for row in runs.locator("[class*=st-key-run-row-]").all():
        box = row.locator("label").bounding_box()
        assert min(box["width"], box["height"]) >= 24
        assert row.evaluate("e => e.scrollWidth <= e.clientWidth")


def test_a_run_moves_to_another_data_folder_and_a_changed_file_is_refused(runs, start_server, tmp_path):
    tick(runs, "SmolLM2 135M (built in)")
    runs.get_by_role("button", name="Export run").click()
    whole, changed = tmp_path / "whole.sparsedash-run", tmp_path / "changed.sparsedash-run"
    whole.write_bytes(download(runs, "Download,")[1])
    changed.write_bytes(flip(whole.read_bytes()))
    there = start_server(tmp_path / "there").address
    for path, shown in ((changed, runs.get_by_role("alert")), (whole, runs.get_by_role("link", name="SmolLM2 135M"))):
        runs.goto(f"{there}/runs")
        ready(runs)
        runs.get_by_role("button", name="Open a file").click()
        runs.locator("input[type=file]").set_input_files(path)
        expect(shown.first).to_be_visible()
    runs.get_by_role("link", name="SmolLM2 135M (built in)").first.click()
    expect(runs.locator("h1")).to_contain_text("10")


def test_what_is_damaged_is_found_and_deleted_and_so_is_a_kind_and_the_limit_is_kept(page, start_server, folder):
    store = Store(folder)
    harm_entry(store, "artefacts", "s1")
    store.close()
    page.goto(f"{start_server(folder).address}/storage")
    ready(page)
    page.get_by_role("button", name="Check everything").click()
    expect(page.locator(".sd-damaged")).to_contain_text("s1")
    page.get_by_role("button", name="Delete what is damaged").click()
    page.get_by_role("button", name="Delete for good").click()
    expect(page.locator(".sd-damaged")).to_have_count(0)
    expect(page.locator("[class*='st-key-held-statistics']")).to_contain_text("2 entries")
    page.locator(".st-key-delete-models button").click()
    page.get_by_role("button", name="Delete for good").click()
    expect(page.locator(".st-key-held-models")).to_have_count(0)
    field = page.get_by_label("Room in GB")
    field.fill("3.5")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("of 3.5 GB").first).to_be_visible()
    page.reload()
    ready(page)
    expect(page.get_by_label("Room in GB")).to_have_value("3.5")
    assert page.complaints == []


N_BYTES = 40_000_000


@pytest.mark.long
def test_uploads_do_not_stay_in_the_server_s_memory(page, start_server, tmp_path):
    text = tmp_path / "long.txt"
    text.write_bytes(b"word " * 200 * (N_BYTES // 1002) + b"\n\n")
    server = start_server(tmp_path / "data", SPARSEDASH_WORKERS="0")
    process, raw = psutil.Process(server.process.pid), RawUser(server.address)
    page.goto(f"{server.address}/prune")
    ready(page)
    before = process.memory_info().rss
    upload_text(page, server.address, text)
    expect(page.get_by_role("combobox", name="Passages to answer")).to_have_value(re.compile("^upload:long.txt"))
    assert process.memory_info().rss - before < N_BYTES / 2
    before = process.memory_info().rss
    with raw.session() as session:
        assert {raw.upload(session, f"file-{number}", b"x" * N_BYTES) for number in range(7)} == {204, 429}
        # One more for the page itself.
        assert process.memory_info().rss - before < (MOST_FILES + 2) * N_BYTES
    eventually(lambda: process.memory_info().rss - before <= 1.5 * N_BYTES, DEADLINE_S)
