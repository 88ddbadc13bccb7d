"""Every page as a deep link: its sentence, no error, no fault of accessibility, nothing wider than a phone."""

import pytest
from playwright.sync_api import expect

from tests.browser.served import ready

axe = pytest.importorskip("axe_playwright_python.sync_playwright")

LOOKS = (("light", 1440), ("dark", 390))
NOT_OURS = {"exclude": [["[data-testid=stToast]"]]}
"""A toast is Streamlit's own: a dialog whose name points at nothing."""
OPTIONS = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
N_STOPS = 12
STOP = """() => {
  const stop = document.activeElement, box = stop.getBoundingClientRect();
  if (stop === document.body) return null;
  return {name: stop.getAttribute('aria-label') || stop.innerText || stop.tagName,
    large: Math.min(box.width, box.height) >= 24 || stop.matches('label input'),
    seen: getComputedStyle(stop).visibility === 'visible' && !stop.closest('[aria-hidden=true]')};
}"""
"""The element with the focus. A field's own box may be small where its label, which is pressed as well, is not."""

FINISHED = {
    "": "too close to call on 120 passages",
    "prune": "Choose a model",
    "prune?goal=How+much+can+go%3F&sparsity=x": "Choose a model",
    "jobs": "Nothing has run yet.",
    "runs": "The one run with a result has no model within",
    "compare": "30 % is too close to call on 120 passages",
    "compare?blind=true": "Which answer is better?",
    "layers": "Half of the layers lost",
    "models": "No model has been exported yet.",
    "published": "20 published results",
    "storage": "The data folder takes",
}
EMPTY = {
    "": "What would pruning cost",
    "prune?sparsity=x&model=builtin:none": "Choose a model",
    "runs": "No run has a result yet.",
    "compare": "Nothing to compare yet.",
    "layers": "",
    "models": "",
    "?run=example": "",
    "?run=nowhere": "",
}


def violations(page) -> dict[str, str]:
    """What axe finds, each with the first place."""
    found = axe.Axe().run(page, NOT_OURS, OPTIONS).response["violations"]
    return {each["id"]: each["nodes"][0]["html"] for each in found}


def open_all(page) -> None:
    """Open every part of the page that can be opened."""
    closed = page.locator("[data-testid=stMain] details:not([open]) > summary")
    while n_closed := closed.count():
        closed.first.click()
        expect(closed).to_have_count(n_closed - 1)
        ready(page)


def look_at(page, theme: str, width: int) -> None:
    """Change theme and width, and assert that nothing is wrong with the page then."""
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(500)  # The colours fade from one theme to the other.
    assert violations(page) == {}
    assert page.evaluate("document.scrollingElement.scrollWidth") == width
    assert page.get_by_test_id("stMain").evaluate("e => e.scrollWidth <= e.clientWidth")


@pytest.mark.parametrize(("path", "sentence"), FINISHED.items(), ids=lambda value: value or "overview")
def test_a_page_with_a_finished_run(path, sentence, page, finished):
    page.goto(f"{finished.address}/{path}")
    expect(page.locator("h1")).to_contain_text(sentence)
    expect(page.locator(".st-key-menu a")).to_have_count(9)
    ready(page)
    for _ in range(N_STOPS):
        page.keyboard.press("Tab")
        if stop := page.evaluate(STOP):
            assert stop["seen"] and stop["large"], stop
    open_all(page)
    for theme, width in LOOKS:
        look_at(page, theme, width)
    assert page.complaints == []


@pytest.mark.parametrize(("path", "sentence"), EMPTY.items(), ids=lambda value: value or "overview")
def test_a_page_before_anything_has_run(path, sentence, page, empty):
    page.goto(f"{empty.address}/{path}")
    expect(page.locator("h1")).to_contain_text(sentence)
    ready(page)
    for theme, width in LOOKS:
        look_at(page, theme, width)
    assert page.complaints == []


def test_a_deep_link_is_the_first_request_that_a_server_answers(page, start_server, tmp_path):
    page.goto(f"{start_server(tmp_path / 'data').address}/overview")
    ready(page)
    expect(page.locator(".st-key-menu a")).to_have_count(9)
    expect(page.get_by_text("Page not found")).to_have_count(0)
    assert page.complaints == []
