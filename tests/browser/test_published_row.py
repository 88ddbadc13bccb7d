"""One published row, as a person runs it: found on its page, opened in the form, started, and seen beside the row."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.test_main_job import JOB_TIMEOUT_MS
from tests.engine.hub_client import environment
from tests.engine.hub_layouts import save_for_a_row, serve_texts_of_rows
from tests.engine.hub_stand_in import Hub

MODEL = "EleutherAI/gpt-j-6b"
ROW = re.compile("gpt-j-6b, pile.10k, 10.%, last token")


@pytest.fixture
def address(start_server, tmp_path, monkeypatch):
    """A server whose worker fetches from a stand-in for the hub, where the model is one .bin file."""
    hub = Hub()
    hub.add("models", MODEL, save_for_a_row(tmp_path / "model", MODEL))
    serve_texts_of_rows(hub, tmp_path / "texts")
    for name, value in environment(hub.url, tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    yield start_server(tmp_path / "data")
    hub.stop()


def choose_row(page):
    """Choose the row in the list, as a person does."""
    field = page.get_by_label("Row", exact=True)
    # A list closes when the page scrolls under it.
    field.scroll_into_view_if_needed()
    field.click()
    page.get_by_role("option", name=ROW).click()
    page.wait_for_url(re.compile("row=gpt-j-6b-pile_10k-10-last-token"))


def facts(page):
    """What is said of the row that is chosen."""
    return page.locator("dl.sd-estimate")


def test_a_person_repeats_a_published_row(page, address):
    page.goto(f"{address}/published")
    choose_row(page)
    expect(facts(page)).to_contain_text("not yet")
    # By the row's whole name: the link of the row before it may still be on the page.
    page.get_by_role("link", name=ROW).click()

    expect(page.get_by_label("Model", exact=True)).to_have_value(MODEL)
    page.get_by_role("button", name="Start").click()
    done = page.locator(".sd-state-done")
    failed = page.get_by_role("button", name="Try again")
    expect(done.or_(failed)).to_be_visible(timeout=JOB_TIMEOUT_MS)
    assert done.is_visible(), page.locator(".sd-alert").inner_text()

    page.get_by_role("link", name="Published", exact=True).first.click()
    expect(page.locator("h1")).to_contain_text("20 published results of pruning without retraining")
    choose_row(page)
    expect(facts(page)).to_contain_text(re.compile(r"% of 12 → [\d.]+.% of 12"))
    expect(facts(page)).to_contain_text("retrain-free (published)")
    assert page.complaints == []
