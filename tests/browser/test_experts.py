"""The grid of a mixture's experts: in both themes, under the pointer, and on a phone."""

from dataclasses import replace

import pytest
from playwright.sync_api import expect

from sparsedash.schema.store_keys import model_shape_note
from sparsedash.storage.store import Store
from tests.browser.served import ready
from tests.factories import MIXTURE_SHAPE
from tests.ui import specimens
from tests.ui.test_mixture_pages import mixture_run

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def layers_address(start_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture") / "data"
    run, records = mixture_run(replace(specimens.SETTINGS, model="owner/mixture"))
    records = [replace(record, model="owner/mixture") for record in records]
    store = Store(folder)
    for value in (*records, specimens.passages(), run):
        store.put(value.key, value)
    store.remember(model_shape_note(records[0].model_identity), MIXTURE_SHAPE.plain())
    store.close()
    return f"{start_server(folder).address}/compare?run={run.key}&view=layers"


def colour_behind(grid):
    """The colour of the page where the grid stands."""
    return grid.evaluate("e => getComputedStyle(e.closest('.stApp')).backgroundColor")


def test_the_grid_names_the_expert_under_the_pointer_follows_the_theme_and_fits_a_phone(
    page, layers_address
):
    page.emulate_media(color_scheme="light")
    page.goto(layers_address)
    ready(page)
    grid = page.locator(".js-plotly-plot:has(.heatmaplayer)").first
    grid.scroll_into_view_if_needed()
    box = grid.locator(".nsewdrag").first.bounding_box()
    # The middle one of three layers, its most chosen expert of four.
    page.mouse.move(box["x"] + box["width"] / 8, box["y"] + box["height"] / 2, steps=4)
    expect(grid.locator(".hoverlayer")).to_contain_text("expert")
    expect(grid.locator(".hoverlayer")).to_contain_text("× even")
    light = colour_behind(grid)
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size(PHONE)
    page.reload()
    ready(page)
    grid.scroll_into_view_if_needed()
    assert colour_behind(grid) != light
    width = grid.bounding_box()["width"]
    assert 200 < width <= PHONE["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    table = page.locator("summary", has_text="The experts of a layer as a table")
    table.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".st-key-experts-of")).to_be_visible()
