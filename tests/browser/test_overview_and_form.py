"""The overview, the menu and the form: charts by mouse and by keyboard, and what the address remembers."""

import json
import re
import socket
import urllib.request

import pytest
from playwright.sync_api import expect

from sparsedash.jobs.lock_files import hold_lock, slot_lock
from sparsedash.storage.store import Store
from tests.browser.served import ready

FOCUSED = """() => {
  const e = document.activeElement, style = getComputedStyle(e);
  const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0 || style.boxShadow !== 'none';
  return [e.getAttribute('aria-label') || e.innerText.split('\\n').pop(), ring];
}"""


@pytest.fixture
def address(finished):
    return finished.address


def test_the_chart_is_named_follows_the_theme_and_its_measure_is_kept_in_the_address(page, address):
    page.emulate_media(color_scheme="dark")
    page.goto(address)
    ready(page)
    label = page.locator(".js-plotly-plot .annotation-text").filter(has_text="dense")
    expect(label).to_have_css("fill", "rgb(141, 180, 232)")
    page.emulate_media(color_scheme="light")
    expect(label).to_have_css("fill", "rgb(47, 93, 155)")
    expect(page.get_by_label(re.compile("Word perplexity over 120 passages"))).to_be_attached()
    page.get_by_role("radio", name="word perplexity").focus()
    for key in ("ArrowRight", "ArrowRight", "Space"):
        page.keyboard.press(key)
    expect(page.get_by_label(re.compile("Answers of 120 that broke"))).to_be_attached()
    page.wait_for_url(re.compile("measure=flips"))
    page.reload()
    expect(page.get_by_label(re.compile("Answers of 120 that broke"))).to_be_attached()
    assert page.complaints == []


def test_a_point_leads_to_its_comparison_and_on_to_the_layers_and_back(page, address):
    page.goto(address)
    ready(page)
    sparse = page.locator(".js-plotly-plot .trace:has(.errorbars) .points path")
    expect(sparse).to_have_count(4)  # Three models, and the dense one behind them.
    box = sparse.nth(1).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("h1")).to_contain_text("20 % is too close to call")
    expect(page).to_have_url(re.compile("right=20"))
    page.get_by_role("link", name="See what each layer lost").click()
    expect(page.get_by_label(re.compile("of the layers lost"))).to_be_attached()
    page.get_by_role("link", name="Compare its answers with the dense model's").click()
    expect(page).to_have_url(re.compile("right=20"))
    page.get_by_role("link", name="Back to the chart").click()
    expect(page.locator(".js-plotly-plot")).to_be_visible()


def test_every_point_is_a_link_with_a_visible_focus_after_the_chart(page, address):
    page.goto(address)
    ready(page)
    expect(page.get_by_label("Plot loss against").first).to_be_visible()
    page.get_by_role("radio", name="flips").focus()
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED)[0] == "Plot loss against"
    for name in ("The chart as SVG", "The chart as PNG", "The numbers as a table"):
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUSED) == [name, True]
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == ["The numbers of this run", True]
    for name in ("10 % against dense", "20 % against dense", "30 % against dense"):
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUSED) == [name, True]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("right=20"))


def test_the_first_screen_says_how_much_at_what_cost_and_its_next_step_fills_the_form(page, address):
    page.goto(address)
    ready(page)
    for width, height in ((1440, 900), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        for seen in (
            page.locator("h1"),
            page.locator(".sd-next"),
            page.get_by_role("link", name="Test on more passages"),
        ):
            expect(seen).to_be_in_viewport(ratio=0.95)
        numbers = page.locator(".sd-numbers > div")
        expect(numbers).to_have_count(3)
        expect(numbers.nth(2)).to_be_in_viewport(ratio=0.95)
    page.get_by_role("link", name="Test on more passages").click()
    page.wait_for_url(re.compile("/prune"))
    ready(page)
    expect(page.get_by_role("radio", name=re.compile("^(Decide|Paper)"), checked=True)).to_have_count(1)
    assert page.complaints == []


def test_the_menu_takes_the_run_and_the_tolerance_along_and_back_goes_one_step_back(page, address):
    page.goto(f"{address}/?within=1.5")
    ready(page)
    menu = page.locator(".st-key-menu")
    for title, found in (
        ("Compare", r"/compare\?run=[0-9a-f]{64}&within=1.5$"),
        ("Jobs", r"/jobs$"),
        ("Layers", r"/layers\?run=[0-9a-f]{64}&within=1.5$"),
    ):
        menu.get_by_role("link", name=title).click()
        expect(page).to_have_url(re.compile(found))
        ready(page)
    page.go_back()
    expect(page.locator("h1")).to_contain_text("Nothing has run yet.")
    page.go_back()
    expect(page).to_have_url(re.compile(r"/compare\?run="))
    page.go_back()
    expect(page).to_have_url(f"{address}/?within=1.5")
    expect(page.locator("h1")).to_contain_text("limit 1.5 ×")


def test_a_link_to_the_page_that_is_shown_changes_its_address_and_back_undoes_it(page, empty):
    page.goto(empty.address)
    ready(page)
    page.get_by_role("link", name="Look at an example").click()
    expect(page).to_have_url(re.compile(r"/\?run=example$"))
    expect(page.get_by_text("this run ships with SparseDash")).to_be_visible()
    page.go_back()
    expect(page).to_have_url(re.compile(r"[0-9]/$"))
    expect(page.get_by_role("button", name="Try the built-in model")).to_be_visible()


def test_what_is_typed_or_chosen_goes_into_the_address_and_survives_a_refresh(page, address):
    page.goto(f"{address}/prune?passages=50")
    ready(page)
    expect(page.get_by_role("radio", name="As chosen below")).to_be_checked()
    page.get_by_text("Decide", exact=True).click()
    expect(page).to_have_url(re.compile(r"text=builtin%3Acloze-402"))
    expect(page).not_to_have_url(re.compile("passages="))
    ready(page)
    for label, typed, key in (
        ("Share of MLP channels to remove, percent", "12.5, 40", "sparsity=12.5"),
        ("Model", "some/model@main", "model=some"),
    ):
        field = page.get_by_label(label, exact=True)
        field.fill(typed)
        field.press("Enter")
        page.wait_for_url(re.compile(key))
    page.reload()
    ready(page)
    expect(page.get_by_label("Share of MLP channels to remove, percent", exact=True)).to_have_value("12.5, 40")
    expect(page.get_by_label("Model", exact=True)).to_have_value("some/model@main")
    expect(page.get_by_role("radio", name="Decide")).to_be_checked()
    expect(page.get_by_label("Passages to answer", exact=True)).to_have_value("builtin:cloze-402")


def test_a_search_started_on_the_form_opens_its_run_judged_by_the_same_tolerance(page, start_server, tmp_path):
    folder = tmp_path / "data"
    Store(folder).close()
    # With the slot taken no worker starts: the job waits.
    with hold_lock(slot_lock(folder, 0)):
        page.goto(f"{start_server(folder).address}/prune?goal=How+much+can+go%3F&within=1.3")
        ready(page)
        page.get_by_role("button", name="Start").click()
        expect(page.locator("h1")).to_have_text("This run waits for its turn.")
        expect(page).to_have_url(re.compile(r"/\?run=\w+&within=1\.3&points=2$"))


def test_every_answer_carries_the_security_headers_and_health_is_json(address):
    for path in ("/", "/health", "/_stcore/health"):
        with urllib.request.urlopen(address + path, timeout=30) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
            assert "unsafe-eval" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            if path == "/health":
                assert json.load(answer)["status"] == "ok"


def test_a_session_is_refused_to_another_host_name(address):
    host, port = address.removeprefix("http://").split(":")
    request = (
        "GET /_stcore/stream HTTP/1.1\r\nHost: evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request.encode())
        assert connection.recv(64).startswith(b"HTTP/1.1 403")
