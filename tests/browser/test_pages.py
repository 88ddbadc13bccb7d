"""What only a browser can tell: cold deep links, headers, width, what the address remembers."""

import json
import re
import socket
import urllib.request

import pytest
from playwright.sync_api import expect

from sparsedash.jobs.local_runner import hold_lock, slot_lock
from sparsedash.storage.store import Store
from tests.ui import specimens

SLOW_MS = 30_000

PAGES = {
    "": "too close to call on 120 passages",
    "prune": "Choose a model",
    "jobs": "Nothing has run yet.",
    "runs": "The one run with a result has no model within",
    "compare": "is too close to call on 120 passages",
    "layers": "Half of the layers lost",
    "models": "No model has been exported yet.",
    "storage": "The data folder takes",
}


@pytest.fixture(scope="module")
def address(start_server, folder_with_a_run):
    return start_server(folder_with_a_run)


def ready(page):
    """Wait until the script of the page has run to its end."""
    page.wait_for_selector("h1.sd-opening")
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")


@pytest.mark.parametrize(("path", "sentence"), PAGES.items(), ids=lambda value: value or "overview")
def test_a_deep_link_is_the_first_thing_a_fresh_server_answers(path, sentence, page, start_server, folder_with_a_run):
    page.goto(f"{start_server(folder_with_a_run)}/{path}")
    expect(page.locator("h1")).to_contain_text(sentence)
    expect(page.locator(".st-key-menu a")).to_have_count(9)
    assert page.complaints == []


@pytest.mark.parametrize("path", PAGES, ids=lambda value: value or "overview")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_never_scrolls_sideways(path, scheme, page, address):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{address}/{path}")
    ready(page)
    for widened in page.get_by_test_id("stExpander").all():
        widened.locator("summary").click()
    assert page.evaluate("document.scrollingElement.scrollWidth") == 390
    main = page.get_by_test_id("stMain")
    assert main.evaluate("e => e.scrollWidth <= e.clientWidth")


def test_the_overview_is_found_by_its_own_name(page, address):
    page.goto(f"{address}/overview")
    ready(page)
    expect(page.locator("h1")).to_contain_text(PAGES[""])
    expect(page.get_by_text("Page not found")).to_have_count(0)


def test_the_chart_is_drawn_and_named(page, address):
    page.goto(address)
    expect(page.locator(".js-plotly-plot .annotation-text").filter(has_text="dense")).to_be_visible()
    expect(page.get_by_label(re.compile("Word perplexity over 120 passages"))).to_be_attached()


def test_the_measure_is_chosen_by_keyboard_and_kept_in_the_address(page, address):
    page.goto(address)
    ready(page)
    page.get_by_role("radio", name="word perplexity").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    expect(page.get_by_label(re.compile("Answers of 120 that broke"))).to_be_attached(timeout=SLOW_MS)
    page.wait_for_url(re.compile("measure=flips"))
    page.reload()
    expect(page.get_by_label(re.compile("Answers of 120 that broke"))).to_be_attached(timeout=SLOW_MS)


def test_a_chart_leads_to_the_layers_and_back(page, address):
    page.goto(address)
    page.get_by_role("link", name="See what each layer lost").click()
    expect(page.locator("h1")).to_contain_text("Half of the layers lost")
    expect(page.get_by_label(re.compile("Share of the MLP output"))).to_be_attached()
    page.get_by_role("link", name="Compare its answers with the dense model's").click()
    expect(page.locator("h1")).to_contain_text("10 % is too close to call")
    expect(page).to_have_url(re.compile("right=10"))
    page.get_by_role("link", name="See what each layer lost").click()
    page.get_by_role("link", name="Back to the chart").click()
    expect(page.locator("h1")).to_contain_text("too close to call on 120 passages")


def test_the_chart_follows_a_change_of_theme(page, address):
    page.emulate_media(color_scheme="dark")
    page.goto(address)
    label = page.locator(".js-plotly-plot .annotation-text").filter(has_text="dense")
    expect(label).to_have_css("fill", "rgb(141, 180, 232)")
    page.emulate_media(color_scheme="light")
    expect(label).to_have_css("fill", "rgb(47, 93, 155)")


def test_what_is_typed_goes_into_the_address_and_survives_a_refresh(page, address):
    page.goto(f"{address}/prune")
    ready(page)
    field = page.get_by_label("Share of MLP channels to remove, percent", exact=True)
    field.fill("12.5, 40")
    field.press("Enter")
    page.wait_for_url(re.compile("sparsity=12.5"))
    model = page.get_by_label("Model", exact=True)
    model.fill("some/model@main")
    model.press("Enter")
    page.wait_for_url(re.compile("model=some"))
    page.reload()
    ready(page)
    expect(field).to_have_value("12.5, 40")
    expect(model).to_have_value("some/model@main")


def test_how_sure_a_run_shall_be_goes_into_the_address_as_its_passages(page, address):
    page.goto(f"{address}/prune?passages=50")
    ready(page)
    expect(page.get_by_role("radio", name="As chosen below")).to_be_checked()
    page.get_by_text("Decide", exact=True).click()
    expect(page).to_have_url(re.compile(r"text=builtin%3Acloze-402"))
    expect(page).not_to_have_url(re.compile("passages="))
    ready(page)
    page.reload()
    expect(page.get_by_role("radio", name="Decide")).to_be_checked()
    expect(page.get_by_label("Passages to answer", exact=True)).to_have_value("builtin:cloze-402")


def test_steps_through_passages_are_remembered_by_the_address(page, address):
    page.goto(f"{address}/compare")
    page.get_by_role("button", name="Fixed").click()
    expect(page.locator(".sd-count")).to_have_text("1 of 2")
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".sd-count")).to_have_text("2 of 2")
    page.reload()
    expect(page.locator(".sd-count")).to_have_text("2 of 2")
    page.go_back()
    expect(page.locator("h1")).to_contain_text("30 % is too close to call")


def press_bar(page, n):
    """Press the n-th bar of the histogram that has a height, and give what its list then says is chosen."""
    bars = page.locator(".js-plotly-plot .bars .point path")
    bars.first.wait_for(state="attached")
    heights = bars.evaluate_all("all => all.map(e => e.getBBox().height)")
    box = bars.nth([i for i, height in enumerate(heights) if height > 0][n]).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def test_a_bar_that_is_pressed_filters_the_passages_and_pressed_again_does_not(page, address):
    page.goto(f"{address}/compare?filter=all")
    ready(page)
    count = page.locator(".sd-count")
    expect(count).to_have_text("1 of 120")
    press_bar(page, 0)
    expect(page).to_have_url(re.compile(r"change=\.\.-"))
    expect(count).not_to_have_text("1 of 120")
    n = count.inner_text().removeprefix("1 of ")
    expect(page.get_by_role("button", name=f"All · {n}")).to_be_visible()
    page.reload()
    ready(page)
    expect(count).to_have_text(f"1 of {n}")
    press_bar(page, 0)
    expect(count).to_have_text("1 of 120")
    expect(page).not_to_have_url(re.compile("change="))
    assert page.complaints == []


def test_a_row_opens_its_passage_and_rows_and_kinds_keep_the_focus(page, address):
    page.goto(f"{address}/compare?filter=all&sort=file%20order")
    ready(page)
    row = page.locator(".st-key-row-4 button")
    row.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".sd-count")).to_have_text("5 of 120")
    expect(page).to_have_url(re.compile("passage=4"))
    ready(page)
    expect(row).to_be_focused()
    kind = page.get_by_role("button", name="Both right")
    kind.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".sd-count")).to_have_text("1 of 27")
    ready(page)
    expect(kind).to_be_focused()
    assert page.complaints == []


def test_a_click_on_a_point_opens_its_comparison_and_a_link_leads_back(page, address):
    page.goto(address)
    ready(page)
    points = page.locator(".js-plotly-plot .scatterlayer .trace .points path")
    expect(points.first).to_be_attached()
    sparse = page.locator(".js-plotly-plot .trace:has(.errorbars) .points path")
    box = sparse.nth(2).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("h1")).to_contain_text("20 % is too close to call")
    expect(page).to_have_url(re.compile("right=20"))
    page.get_by_role("link", name="Back to the chart").click()
    expect(page.locator(".js-plotly-plot")).to_be_visible()


def test_the_menu_takes_the_run_and_what_may_be_lost_along_and_back_goes_one_step_back(page, address):
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
    expect(page).to_have_url(re.compile("/jobs$"))
    page.go_back()
    expect(page).to_have_url(re.compile(r"/compare\?run="))
    page.go_back()
    expect(page).to_have_url(f"{address}/?within=1.5")
    expect(page.locator("h1")).to_contain_text("1.5 × the word perplexity")


def test_a_link_to_the_page_that_is_shown_changes_its_address_and_back_undoes_it(page, start_server, tmp_path):
    page.goto(start_server(tmp_path))
    ready(page)
    page.get_by_role("link", name="Look at an example").click()
    expect(page).to_have_url(re.compile(r"/\?run=example$"))
    expect(page.get_by_text("this run ships with SparseDash")).to_be_visible()
    page.go_back()
    expect(page).to_have_url(re.compile(r"[0-9]/$"))
    expect(page.get_by_role("button", name="Try the built-in model")).to_be_visible()


FOCUSED = """() => {
  const e = document.activeElement, style = getComputedStyle(e);
  const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0 || style.boxShadow !== 'none';
  return [e.getAttribute('aria-label') || e.innerText.split('\\n').pop(), ring];
}"""


def test_every_point_is_a_link_with_a_visible_focus_after_the_chart(page, address):
    page.goto(address)
    ready(page)
    expect(page.get_by_label("Loss against").first).to_be_visible()
    page.get_by_role("radio", name="flips").focus()
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED)[0] == "Loss against"
    for name in ("The chart as SVG", "The chart as PNG", "The numbers as a table"):
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUSED) == [name, True]
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == ["The numbers of this run", True]
    for name in ("10 % beside dense", "20 % beside dense", "30 % beside dense"):
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUSED) == [name, True]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("20 % is too close to call")
    expect(page).to_have_url(re.compile("right=20"))
    page.get_by_role("link", name="Back to the chart").click()
    expect(page.locator(".js-plotly-plot")).to_be_visible()


def test_the_compare_page_is_walked_by_keys(page, address):
    page.goto(f"{address}/compare")
    ready(page)
    count = page.locator(".sd-count")
    expect(page.get_by_role("button", name="Next")).to_be_enabled()
    # The keys are listened to a moment after the buttons are drawn.
    page.wait_for_timeout(1000)
    page.keyboard.press("j")
    expect(count).to_have_text("2 of 9")
    page.keyboard.press("j")
    expect(count).to_have_text("3 of 9")
    page.keyboard.press("k")
    expect(count).to_have_text("2 of 9")
    page.keyboard.press("f")
    expect(count).to_have_text("1 of 2")
    expect(page).to_have_url(re.compile("filter=mended"))


def test_a_wide_screen_shows_verdict_cost_and_passage_of_a_comparison_at_once(page, address):
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(f"{address}/compare?filter=broke")
    ready(page)
    for seen in ("h1", ".sd-cost", ".sd-passage", ".sd-passage .sd-target"):
        expect(page.locator(seen)).to_be_in_viewport(ratio=0.95)


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_the_first_screen_of_a_run_says_how_much_at_what_cost_how_sure_and_what_next(width, height, page, address):
    page.set_viewport_size({"width": width, "height": height})
    page.goto(address)
    ready(page)
    for seen in (page.locator("h1"), page.locator(".sd-next"), page.get_by_role("link", name="Test on more passages")):
        expect(seen).to_be_in_viewport(ratio=0.95)
    numbers = page.locator(".sd-numbers > div")
    expect(numbers).to_have_count(3)
    expect(numbers.nth(2)).to_be_in_viewport(ratio=0.95)


def test_what_to_do_next_fills_the_form_in(page, address):
    page.goto(address)
    ready(page)
    page.get_by_role("link", name="Test on more passages").click()
    page.wait_for_url(re.compile("/prune"))
    ready(page)
    expect(page.get_by_role("radio", name=re.compile("^(Decide|Paper)"), checked=True)).to_have_count(1)
    assert page.complaints == []


def test_a_phone_shows_passage_answers_change_and_the_steps_in_its_first_screen(page, address):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{address}/compare?filter=broke")
    ready(page)
    for seen in (".sd-passage .sd-target", ".sd-answers", ".sd-change"):
        expect(page.locator(seen)).to_be_in_viewport(ratio=0.95)
    steps = page.get_by_role("button", name="Next")
    assert steps.bounding_box()["y"] > 844 * 0.85
    change, bar = page.locator(".sd-change").bounding_box(), page.locator(".st-key-steps").bounding_box()
    assert change["y"] + change["height"] <= bar["y"]
    for _ in range(3):
        before = page.locator(".sd-count").inner_text()
        steps.click()
        expect(page.locator(".sd-count")).not_to_have_text(before)
        ready(page)
    assert page.complaints == []


def test_on_a_phone_one_button_brings_run_models_search_order_and_files(page, address):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{address}/compare")
    ready(page)
    search = page.get_by_label("Search in the passages and answers")
    expect(search.locator("visible=true")).to_have_count(0)
    page.get_by_role("button", name="Choose").click()
    # While the page draws itself anew there may be two, one of which is not seen.
    expect(search.locator("visible=true")).to_have_count(1)
    expect(search.locator("visible=true")).to_be_in_viewport()
    for name in ("Run", "Left", "Right"):
        expect(page.get_by_role("combobox", name=name, exact=False).first).to_be_visible()
    expect(page.get_by_role("button", name="Download")).to_be_visible()
    ready(page)
    expect(page.get_by_role("button", name="Close")).to_be_focused()
    page.get_by_role("button", name="Close").click()
    expect(search.locator("visible=true")).to_have_count(0)
    assert page.complaints == []


def test_the_report_opens_from_disk_and_asks_for_nothing(page, address, tmp_path):
    page.goto(f"{address}/compare")
    ready(page)
    page.get_by_role("button", name="Download").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Report, one HTML file").click()
    path = tmp_path / "report.html"
    download.value.save_as(path)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    expect(page.get_by_role("img", name=re.compile("Word perplexity over 120 passages"))).to_be_visible()
    expect(page.get_by_role("heading", name="Broke: 9")).to_be_visible()
    numbers = page.get_by_role("region", name="The numbers of this run")
    assert numbers.evaluate("e => e.scrollWidth - e.clientWidth") == 0
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert asked == [path.as_uri()]
    assert page.complaints == []


def test_hostile_text_is_shown_and_does_nothing(page, start_server, tmp_path):
    text = "<img src=x onerror=alert(1)> **bold** :red[x] <script>alert(2)</script> \u202eabc 👩‍🚀 nul\x00"
    run, records = specimens.run()
    passages = specimens.passages()
    store = Store(tmp_path / "data")
    hostile = type(passages)(
        key=passages.key, indices=passages.indices, contexts=(text,) * 120, targets=passages.targets
    )
    for record in (*records, hostile, run):
        store.put(record.key, record)
    store.close()
    page.goto(f"{start_server(tmp_path / 'data')}/compare")
    shown = page.locator(".sd-passage")
    expect(shown).to_contain_text("<img src=x onerror=alert(1)> **bold** :red[x] <script>alert(2)</script> ⟨U+202E⟩abc")
    expect(shown).to_contain_text("👩‍🚀 nul␀")
    expect(shown.locator("img, script, strong")).to_have_count(0)
    assert page.complaints == []


def test_every_answer_carries_the_security_headers(address):
    for path in ("/", "/health", "/_stcore/health"):
        with urllib.request.urlopen(address + path, timeout=30) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe-eval" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_health_is_plain_json(address):
    with urllib.request.urlopen(f"{address}/health", timeout=30) as answer:
        assert json.load(answer)["status"] == "ok"


def test_a_session_is_refused_to_another_host_name(address):
    host, port = address.removeprefix("http://").split(":")
    asked = (
        "GET /_stcore/stream HTTP/1.1\r\nHost: evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(asked.encode())
        assert connection.recv(64).startswith(b"HTTP/1.1 403")


def test_a_search_started_on_the_form_opens_its_run_judged_by_the_same_tolerance(page, start_server, tmp_path):
    folder = tmp_path / "data"
    Store(folder).close()
    # With the slot taken no worker starts: the job waits.
    with hold_lock(slot_lock(folder, 0)):
        page.goto(f"{start_server(folder)}/prune?goal=How+much+can+go%3F&within=1.3")
        ready(page)
        page.get_by_role("button", name="Start").click()
        expect(page.locator("h1")).to_have_text("This run waits for its turn.")
        expect(page).to_have_url(re.compile(r"/\?run=\w+&within=1\.3&points=2$"))
