"""House kept by a person: a run taken to another data folder, what is damaged found and deleted, a kind deleted."""

import pytest
from playwright.sync_api import expect

from sparsedash.schema.records import about_artefact
from sparsedash.storage.store import Store
from tests.browser.test_pages import ready
from tests.storage.every_kind import flip, harm_entry, unpack
from tests.storage.test_run_files import named
from tests.ui import specimens


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data folder with a run, what a calibration left and an unpacked model; and one with nothing."""
    parent = tmp_path_factory.mktemp("storage")
    store = Store(parent / "here")
    run, records, passages = named(*specimens.run(), specimens.passages())
    for part in (*records, passages, run):
        store.put(part.key, part)
    for number in range(3):
        store.put_artefact(f"s{number}", bytes(50_000), about_artefact("statistics", run.model_identity))
    unpack(store, "tiny-0123")
    store.close()
    return parent / "here", parent / "there"


@pytest.fixture(scope="module")
def addresses(start_server, folders):
    return [start_server(folder) for folder in folders]


def bring(page, address, path):
    page.goto(f"{address}/runs")
    ready(page)
    page.get_by_role("button", name="Open a file").click()
    page.locator("input[type=file]").set_input_files(path)


def test_a_run_moves_to_another_data_folder_and_one_that_was_changed_is_refused(page, addresses, tmp_path):
    here, there = addresses
    page.goto(f"{here}/runs")
    ready(page)
    page.locator("[class*='st-key-tick-'] label").first.click()
    page.get_by_role("button", name="Take along").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download,").click()
    whole, changed = tmp_path / "whole.sparsedash-run", tmp_path / "changed.sparsedash-run"
    download.value.save_as(whole)
    changed.write_bytes(flip(whole.read_bytes()))
    bring(page, there, changed)
    expect(page.get_by_role("alert")).to_contain_text("Write the file anew where the run was made.")
    expect(page.locator("h1")).to_have_text("No run has a result yet.")
    bring(page, there, whole)
    expect(page.locator("h1")).to_contain_text("The one run with a result")
    page.get_by_role("link", name="SmolLM2 135M (built in)").first.click()
    expect(page.locator("h1")).to_contain_text("10")
    assert page.complaints == []


def test_what_is_damaged_is_found_by_a_real_worker_and_deleted_after_a_question(page, addresses, folders):
    address, store = addresses[0], Store(folders[0])
    harm_entry(store, "artefacts", "s1")
    store.close()
    page.goto(f"{address}/storage")
    ready(page)
    page.get_by_role("button", name="Verify everything").click()
    expect(page.get_by_role("alert")).to_contain_text("was damaged when everything was read")
    expect(page.locator(".sd-damaged")).to_contain_text("What calibration left s1")
    page.get_by_role("button", name="Delete what is damaged").click()
    page.get_by_role("button", name="Delete for good").click()
    expect(page.locator(".sd-damaged")).to_have_count(0)
    expect(page.locator("[class*='st-key-held-statistics']")).to_contain_text("2 entries")
    assert page.complaints == []


def test_a_kind_is_deleted_after_a_question_and_the_room_is_kept(page, addresses):
    page.goto(f"{addresses[0]}/storage")
    ready(page)
    page.locator(".st-key-delete-models button").click()
    expect(page.get_by_text("Delete 1 unpacked model, 96 kB? It cannot be undone.")).to_be_visible()
    page.get_by_role("button", name="Delete for good").click()
    expect(page.locator(".st-key-held-models")).to_have_count(0)
    field = page.get_by_label("Room in GB")
    field.fill("3.5")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("of 3.5 GB that it may take")).to_be_visible()
    page.reload()
    ready(page)
    expect(page.get_by_label("Room in GB")).to_have_value("3.5")
    assert page.complaints == []
