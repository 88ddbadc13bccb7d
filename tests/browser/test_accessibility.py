"""Every page for those who hear it or walk it by keyboard: axe finds nothing, in both themes and at both widths."""

import pytest
from playwright.sync_api import expect

from tests.browser.test_growing_run import Worker
from tests.browser.test_pages import ready

axe = pytest.importorskip("axe_playwright_python.sync_playwright")

PAGES = ("", "prune", "jobs", "runs", "compare", "layers", "models", "published", "storage")
WIDTHS, THEMES = (1440, 390), ("light", "dark")
NOT_OURS = {"exclude": [["[data-testid=stToast]"]]}
"""A toast is Streamlit's own: a dialog whose name points at nothing."""
OPTIONS = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
STOPS = 12
STOP = """() => {
  const stop = document.activeElement, box = stop.getBoundingClientRect();
  return {name: stop.getAttribute('aria-label') || stop.innerText || stop.tagName, wide: box.width, high: box.height,
    seen: getComputedStyle(stop).visibility === 'visible' && !stop.closest('[aria-hidden=true]')};
}"""


def violations(page):
    """What axe finds, in both themes and at both widths, each with the first place."""
    found = {}
    for theme in THEMES:
        for width in WIDTHS:
            page.emulate_media(color_scheme=theme)
            page.set_viewport_size({"width": width, "height": 900})
            # What fades from one theme to the other is on its way for so long.
            page.wait_for_timeout(500)
            for each in axe.Axe().run(page, NOT_OURS, OPTIONS).response["violations"]:
                found.setdefault((each["id"], each["nodes"][0]["html"]), (theme, width))
    return found


def open_all(page):
    """Open every part of the page that can be opened."""
    closed = page.locator("[data-testid=stMain] details:not([open]) > summary")
    while n_closed := closed.count():
        closed.first.click()
        expect(closed).to_have_count(n_closed - 1)
        ready(page)


@pytest.fixture(scope="module")
def finished(start_server, folder_with_a_run):
    return start_server(folder_with_a_run)


@pytest.fixture(scope="module")
def nothing_yet(start_server, tmp_path_factory):
    return start_server(tmp_path_factory.mktemp("empty") / "data")


@pytest.mark.parametrize("path", [*PAGES, "compare?mode=blind", "prune?goal=How+much+can+go%3F&sparsity=x"])
def test_axe_finds_nothing_on_a_page_with_a_run_and_all_of_it_open(path, page, finished):
    page.goto(f"{finished}/{path}")
    ready(page)
    open_all(page)
    assert violations(page) == {}


BEFORE = [*PAGES[:7], *PAGES[8:], "?run=example", "?run=nowhere", "prune?sparsity=x&model=builtin:none"]


@pytest.mark.parametrize("path", BEFORE)
def test_axe_finds_nothing_on_a_page_before_anything_has_run(path, page, nothing_yet):
    page.goto(f"{nothing_yet}/{path}")
    ready(page)
    assert violations(page) == {}


def test_axe_finds_nothing_while_a_run_waits_grows_and_ends_and_a_screen_reader_hears_how_far(
    page, start_server, tmp_path
):
    worker = Worker(tmp_path / "data")
    address = start_server(worker.store.folder)
    page.goto(f"{address}/?run={worker.run.key}")
    heard = page.locator("#sd-heard")
    expect(heard).to_have_text("SmolLM2 135M (built in) at 10, 20, 30 %: Starts as soon as a worker is free.")
    found = violations(page)
    worker.begin()
    expect(heard).to_have_text("Starting the engine, 0 percent done")
    found |= violations(page)
    worker.answer(1)
    worker.say("evaluate", 1, 60, 120)
    expect(heard).to_contain_text("sparse model 2 of 3")
    found |= violations(page)
    worker.table.fail(worker.job, "SomeError", "It broke.", "Try again.")
    expect(page.locator(".sd-state-failed")).to_be_visible()
    found |= violations(page)
    page.goto(f"{address}/jobs")
    ready(page)
    found |= violations(page)
    worker.close()
    assert found == {}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", ["", "prune", "compare"])
def test_whatever_the_tab_key_reaches_is_seen_and_large_enough(path, width, page, finished):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{finished}/{path}")
    ready(page)
    for _ in range(STOPS):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            continue
        stop = page.evaluate(STOP)
        assert stop["seen"], stop
        # A field's own box is small where its label, which is pressed as well, is not.
        assert min(stop["wide"], stop["high"]) >= 24 or page.evaluate(
            "document.activeElement.matches('label input')"
        ), stop


@pytest.mark.parametrize("name", ["Next", "Broke"])
def test_the_focus_stays_on_what_was_pressed(name, page, finished):
    page.goto(f"{finished}/compare")
    ready(page)
    button = page.get_by_role("button", name=name)
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    ready(page)
    expect(page.get_by_role("button", name=name)).to_be_focused()
