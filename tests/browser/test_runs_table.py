"""The page with all runs in a real browser: a walk through everything that can be done with them."""

import re
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from sparsedash.schema.records import Run
from sparsedash.storage.store import Store
from tests.browser.test_pages import ready
from tests.ui import specimens

MODELS = ("builtin:smollm2-135m", "owner/first", "owner/second")


@pytest.fixture
def folder(tmp_path):
    """A data folder with a run of each of MODELS over the same passages, the last one started last."""
    store = Store(tmp_path / "data")
    store.put("passages", specimens.passages())
    for i, model in enumerate(MODELS):
        run, records = specimens.run(replace(specimens.SETTINGS, model=model))
        renamed = [replace(record, key=f"{i}-{record.key}", model=model) for record in records]
        run = replace(
            run, started_at=run.started_at + i, dense=renamed[0].key, sparse=tuple(r.key for r in renamed[1:])
        )
        for part in (*renamed, run):
            store.put(part.key, part)
    store.close()
    return tmp_path / "data"


@pytest.fixture
def runs(page, start_server, folder):
    """The page with all runs, opened."""
    page.goto(f"{start_server(folder)}/runs")
    ready(page)
    # Rows grow as their answers are read, and a click would meet another one.
    expect(page.locator("[class*=st-key-run-row-]", has_text="undecided")).to_have_count(len(MODELS))
    return page


def tick(page, name):
    """Click the box of a run as a visitor does: the input itself is too small to be hit."""
    page.locator("label", has=page.get_by_role("checkbox", name=f"Choose {name}")).click()


def titles(page):
    return page.locator("[class*=st-key-run-row-] a")


def test_runs_are_ticked_laid_over_each_other_and_a_copied_link_shows_the_same(runs):
    tick(runs, "owner/second at 10, 20, 30")
    tick(runs, "owner/first at 10, 20, 30")
    expect(runs.get_by_text("2 chosen")).to_be_visible()
    runs.get_by_role("button", name="Lay over each other").click()
    expect(runs.get_by_label(re.compile("Word perplexity over 120 passages"))).to_be_attached()
    runs.get_by_role("radio", name="flips").click()
    runs.wait_for_url(re.compile("measure=flips"))
    runs.get_by_label("Search").fill("owner")
    runs.get_by_label("Search").press("Enter")
    runs.wait_for_url(re.compile("contains=owner"))
    expect(titles(runs)).to_have_text(["owner/second", "owner/first"])
    runs.reload()
    ready(runs)
    expect(runs.get_by_label(re.compile("Answers of 120 that broke"))).to_be_attached()
    expect(runs.get_by_text("2 chosen")).to_be_visible()
    expect(runs.get_by_label("Search")).to_have_value("owner")
    expect(titles(runs)).to_have_text(["owner/second", "owner/first"])
    assert runs.complaints == []


def test_two_boxes_clicked_at_once_are_both_ticked(runs):
    labels = runs.locator("[class*=st-key-tick-] label")
    expect(labels).to_have_count(len(MODELS))  # all() waits for none of them.
    boxes = [label.bounding_box() for label in labels.all()[:2]]
    for box in boxes:
        runs.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(runs.get_by_text("2 chosen")).to_be_visible()


def test_a_run_is_named_pinned_and_deleted_after_a_question(runs, folder):
    tick(runs, "owner/first at 10, 20, 30")
    runs.get_by_role("button", name="Name").click()
    runs.get_by_label("What this run is called").fill("For the talk")
    runs.get_by_role("button", name="Save").click()
    expect(titles(runs)).to_have_text(["owner/second", "For the talk", "SmolLM2 135M (built in)"])
    expect(runs.get_by_label("What this run is called")).to_have_count(0)
    runs.get_by_role("button", name="Pin").click()
    expect(titles(runs)).to_have_text(["For the talk", "owner/second", "SmolLM2 135M (built in)"])
    runs.get_by_role("button", name="Delete").click()
    expect(runs.get_by_text("“For the talk” stays: it is pinned; unpin it first.")).to_be_visible()
    runs.keyboard.press("Escape")
    runs.get_by_role("button", name="Unpin").click()
    expect(titles(runs)).to_have_text(["owner/second", "For the talk", "SmolLM2 135M (built in)"])
    runs.get_by_role("button", name="Delete").click()
    expect(runs.get_by_text("Delete “For the talk”, with the answers of 4 models?")).to_be_visible()
    runs.get_by_role("button", name="Delete for good").click()
    expect(runs.get_by_text("For the talk was deleted, with the answers of 4 models.")).to_be_visible()
    expect(titles(runs)).to_have_text(["owner/second", "SmolLM2 135M (built in)"])
    expect(runs).not_to_have_url(re.compile("chosen"))
    store = Store(folder)
    assert len(list(store.keys(Run))) == 2
    store.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_no_row_is_cut_off_and_boxes_are_large_enough(scheme, runs):
    runs.emulate_media(color_scheme=scheme)
    runs.set_viewport_size({"width": 390, "height": 844})
    for row in runs.locator("[class*=st-key-run-row-]").all():
        cut = "e => [...e.querySelectorAll('*')].filter(x => x.getBoundingClientRect().right > 390).length"
        assert row.evaluate(cut) == 0
    box = runs.locator("[class*=st-key-tick-] label").first.bounding_box()
    assert min(box["width"], box["height"]) >= 24
    expect(runs.locator(".sd-runs-head")).to_be_hidden()
    expect(runs.locator(".sd-run-verdict").first).to_be_visible()
