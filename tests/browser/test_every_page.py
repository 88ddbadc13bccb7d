"""Every page as a deep link: its sentence, no error, no fault of accessibility, nothing too wide,
each of its files.
"""

import csv
import io
import re
import xml.etree.ElementTree as ET
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from sparsedash.ui.navigation import TITLES
from tests.browser.served import ready, taken
from tests.ui import specimens

axe = pytest.importorskip("axe_playwright_python.sync_playwright")

WIDE = ("light", 1440, "rgb(252, 251, 248)")
PHONE = ("dark", 390, "rgb(23, 25, 28)")
"""How a page is looked at: its theme, its width, and the colour behind it."""
NOT_OURS = {"exclude": [["[data-testid=stToast]"]]}
"""A toast is Streamlit's own: a dialog whose name points at nothing."""
OPTIONS = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
AT_REST = """*, *::before, *::after {transition: none !important; animation: none !important}
[data-stale] {opacity: 1 !important}"""
"""No colour that fades: neither into another one, nor of what a part of the page is about to
replace.
"""
FITS = """width => {
  const main = document.querySelector('[data-testid=stMain]');
  return [main, ...main.querySelectorAll('[class*=st-key-run-row-]')].every(e => e.scrollWidth <= e.clientWidth)
    && document.scrollingElement.scrollWidth === width;
}"""
N_STOPS = 12
STOP = """() => {
  const stop = document.activeElement, box = stop.getBoundingClientRect();
  if (stop === document.body) return null;
  return {name: stop.getAttribute('aria-label') || stop.innerText || stop.tagName,
    large: Math.min(box.width, box.height) >= 24 || stop.matches('label input'),
    seen: getComputedStyle(stop).visibility === 'visible' && !stop.closest('[aria-hidden=true]')};
}"""
"""The element with the focus. A field's own box may be small where its label, which is pressed as
well, is not.
"""

CHART = "svg png csv"
SHOWN = [
    ("finished", "", "10 to 30 % of MLP channels are undecided.", CHART),
    (
        "finished",
        "compare",
        "10 % is too close to call on 120 passages",
        f"csv {CHART}",
    ),
    ("finished", "prune?view=published", "20 published results", "csv csv"),
    ("finished", "compare?view=layers", "Half of the layers lost", f"{CHART} csv"),
    ("finished", "prune", "How much of a model can go?", ""),
    (
        "finished",
        "prune?goal=Prune+to+chosen+sparsities",
        "How much of a model can go?",
        "",
    ),
    ("finished", "compare?blind=true", "Which answer is better?", ""),
    ("finished", "runs", "None of 2 runs has a model within", "csv"),
    ("finished", "models", "Export a sparse model.", ""),
    (
        "finished",
        f"models?run={specimens.run()[0].key}",
        "Export a sparse model.",
        "",
    ),
    ("finished", "?answers=1", "How do models compare on your tasks?", ""),
    ("finished", "runs?view=jobs", "Nothing is running.", ""),
    ("finished", "settings", "The data folder takes", ""),
    ("empty", "", "What would pruning cost", ""),
    # Loss against sparsity, and what was forgotten.
    ("empty", "?run=example", "", f"svg png {CHART} csv"),
    ("empty", "runs", "No run has a result yet.", ""),
    ("empty", "prune?sparsity=x&model=builtin:none", "How much of a model can go?", ""),
    ("empty", "compare", "Nothing to compare yet.", ""),
]
"""Each page: its server, path, sentence, and the kinds of the files that can be taken from it, in
their order.
"""


def violations(page) -> dict[str, str]:
    """What axe finds, each with the first place."""
    page.add_style_tag(content=AT_REST)
    # What a rerun is about to replace is drawn pale.
    expect(page.locator("[data-stale=true]")).to_have_count(0)
    faults = axe.Axe().run(page, NOT_OURS, OPTIONS).response["violations"]
    if faults:
        # On a busy machine a part may still be drawn: what is at fault is so a second later.
        page.wait_for_timeout(1000)
        faults = axe.Axe().run(page, NOT_OURS, OPTIONS).response["violations"]
    return {
        fault["id"]: "{html}: {failureSummary}".format(**fault["nodes"][0])
        for fault in faults
    }


def open_all(page) -> None:
    """Open every part of the page that can be opened."""
    closed = page.locator("[data-testid=stMain] details:not([open]) > summary")
    while n_closed := closed.count():
        closed.first.press("Enter")
        expect(closed).to_have_count(n_closed - 1)
        ready(page)


def checked_kind(name: str, content: bytes) -> str:
    """The kind of a file by its name, once it was found to be one."""
    assert re.fullmatch(r"[a-z0-9.-]+", name)
    kind = name.rpartition(".")[2]
    if kind == "svg":
        drawing = ET.fromstring(content)
        texts = [
            text.text or ""
            for text in drawing.findall("{http://www.w3.org/2000/svg}text")
        ]
        assert drawing.tag.endswith("svg")
        assert b"@font-face" in content, "its font travels along"
        assert "perplexity 1.10" in " ".join(texts), "it names the limit"
    elif kind == "png":
        assert content.startswith(b"\x89PNG")
    else:
        head, *rows = csv.reader(io.StringIO(content.decode()))
        assert rows and all(len(row) == len(head) for row in rows)
    return kind


@pytest.mark.parametrize(
    "number", range(len(SHOWN)), ids=["/".join(page[:2]) for page in SHOWN]
)
def test_every_page(number, page, request):
    server, path, sentence, kinds = SHOWN[number]
    theme, width, colour = (WIDE, PHONE)[number % 2]
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{request.getfixturevalue(server).address}/{path}")
    expect(page.locator("h1")).to_contain_text(sentence)
    menu = page.locator(".st-key-menu a")
    expect(menu).to_have_text(list(TITLES.values()))
    expect(page.locator(".st-key-menu a[aria-current=page]")).to_have_text(
        [TITLES[urlsplit(page.url).path[1:] or "overview"]]
    )
    for link in menu.all():
        box = link.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
    expect(page.get_by_test_id("stApp")).to_have_css("background-color", colour)
    ready(page)
    for _ in range(N_STOPS):
        page.keyboard.press("Tab")
        if stop := page.evaluate(STOP):
            assert stop["seen"] and stop["large"], stop
    open_all(page)
    assert violations(page) == {}
    page.wait_for_function(FITS, arg=width)
    other_theme, other_width, _ = (PHONE, WIDE)[number % 2]
    page.emulate_media(color_scheme=other_theme)
    page.set_viewport_size({"width": other_width, "height": 900})
    page.wait_for_function(FITS, arg=other_width)
    assert violations(page) == {}
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 900})
    drawn = page.get_by_test_id("stMain").locator(
        "[data-testid=stDownloadButton] button, .sd-take button"
    )
    files = [taken(page, button) for button in drawn.locator("visible=true").all()]
    assert [checked_kind(name, content) for name, content, _ in files] == kinds.split()
