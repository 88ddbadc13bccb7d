"""The overview, the menu and the form: charts by mouse and by keyboard, and what the address
remembers.
"""

import re
import urllib.request

from playwright.sync_api import expect

from tests.browser.logins import RawUser
from tests.browser.served import DEADLINE_S, press, ready

FOCUSED = """() => {
  const e = document.activeElement, style = getComputedStyle(e);
  const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0 || style.boxShadow !== 'none';
  return [e.getAttribute('aria-label') || e.innerText.split('\\n').pop(), ring];
}"""


def test_the_first_screen_says_how_much_at_what_cost_and_its_settings_fill_the_form(
    page, finished
):
    page.goto(finished.address)
    ready(page)
    ruler = page.locator(".sd-ruler")
    chips = page.locator(".sd-chip")
    for width, height in ((1440, 900), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        expect(chips).to_have_count(3)
        for seen in (page.locator("h1"), ruler, chips.nth(2)):
            expect(seen).to_be_in_viewport(ratio=0.95)
    # Which step it is depends on whether the hub answers; the settings are offered in any case.
    page.locator("summary").filter(has_text="Settings and notes").press("Enter")
    page.get_by_role("link", name="Change the settings").press("Enter")
    expect(page).to_have_url(re.compile("/prune"))
    ready(page)
    expect(page.get_by_label(re.compile("^Share to remove"))).to_have_value(
        "10, 20, 30"
    )


def test_the_chart_follows_the_theme_its_measure_stands_in_the_address_and_every_point_is_a_link_after_it(
    page, finished
):
    page.emulate_media(color_scheme="dark")
    page.goto(finished.address)
    ready(page)
    label = page.locator(".js-plotly-plot .annotation-text").filter(has_text="dense")
    expect(label).to_have_css("fill", "rgb(141, 180, 232)")
    page.emulate_media(color_scheme="light")
    expect(label).to_have_css("fill", "rgb(47, 93, 155)")
    expect(
        page.get_by_label(re.compile("Word perplexity over 120 passages"))
    ).to_be_attached()
    press(page, "Measure and axes")
    page.get_by_role("radio", name="word perplexity").focus()
    for key in ("ArrowRight", "ArrowRight", "Space"):
        page.keyboard.press(key)
    expect(page.get_by_label(re.compile("Answers of 120 that broke"))).to_be_attached()
    expect(page).to_have_url(re.compile("measure=flips"))
    page.reload()
    expect(page.get_by_label(re.compile("Answers of 120 that broke"))).to_be_attached()
    press(page, "Measure and axes")
    page.get_by_role("radio", name="flips").focus()
    for name in ("Plot loss against", "Sparsity axis"):
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUSED)[0] == name
    page.keyboard.press("Escape")
    page.get_by_role("button", name="The chart as SVG").focus()
    for name in (
        "The chart as PNG",
        "How to read this chart: flips",
        "Loss by layer",
        "All answers",
    ):
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUSED) == [name, True]
    fold = page.locator("summary").filter(has_text="Numbers and intervals")
    fold.press("Enter")
    for name in (
        "The numbers of this run",
        *(f"{share} % against dense" for share in (10, 20, 30)),
    ):
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUSED) == [name, True]


def test_the_menu_takes_run_and_tolerance_along_back_goes_one_step_back_and_a_point_leads_to_its_comparison(
    page, finished
):
    page.goto(f"{finished.address}/?limits=1.5")
    ready(page)
    menu = page.locator(".st-key-menu")
    for title, address in (
        ("Compare", r"/compare\?run=[0-9a-f]{64}&limits=1.5%2C2$"),
        ("Settings", r"/settings$"),
        ("Models", r"/models\?run=[0-9a-f]{64}&limits=1.5%2C2$"),
    ):
        menu.get_by_role("link", name=title).press("Enter")
        expect(page).to_have_url(re.compile(address))
        ready(page)
    page.go_back()
    expect(page.locator("h1")).to_contain_text("The data folder")
    page.go_back()
    expect(page).to_have_url(re.compile(r"/compare\?run="))
    page.go_back()
    expect(page).to_have_url(f"{finished.address}/?limits=1.5")
    expect(page.get_by_role("button", name="Limit: perplexity 1.50 ×")).to_be_visible()
    ready(page)
    sparse = page.locator(".js-plotly-plot .trace:has(.errorbars) .points path")
    expect(sparse).to_have_count(4)  # Three models, and the dense one behind them.
    box = sparse.nth(1).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page).to_have_url(re.compile(r"/compare\?.*right=20"))


def test_back_goes_one_step_and_finds_the_form_as_it_was_left(page, empty):
    page.goto(f"{empty.address}/prune?goal=Prune+to+chosen+sparsities")
    ready(page)
    field = page.get_by_label("Share to remove, percent", exact=True)
    field.fill("12.5, 40")
    field.press("Enter")
    expect(page).to_have_url(re.compile(r"/prune\?.*sparsity=12.5"))
    ready(page)
    page.locator(".st-key-menu").get_by_role("link", name="Runs").press("Enter")
    expect(page).to_have_url(re.compile("/runs$"))
    ready(page)
    page.go_back()
    expect(field).to_have_value("12.5, 40")
    page.goto(f"{empty.address}/?run=example")
    ready(page)
    # A link that fills in the form: what equals a default leaves the address at once.
    page.get_by_role("link", name="Run this here").press("Enter")
    expect(page).to_have_url(re.compile(r"/prune\?(?!.*fresh=)(?!.*length=)"))
    ready(page)
    page.go_back()
    expect(page).to_have_url(re.compile(r"/\?run=example$"))


def test_a_link_to_the_page_that_is_shown_changes_its_address_and_back_undoes_it(
    page, empty
):
    page.goto(empty.address)
    ready(page)
    page.get_by_role("link", name="Look at an example").press("Enter")
    expect(page).to_have_url(re.compile(r"/\?run=example$"))
    expect(page.get_by_text("Example.")).to_be_visible()
    page.go_back()
    expect(page).to_have_url(re.compile(r"[0-9]/$"))
    expect(page.get_by_role("button", name="Try the built-in model")).to_be_visible()


def test_what_is_still_being_typed_counts_when_start_is_clicked_and_start_stays_in_view(
    page, empty
):
    for width, height, label, typed, message in (
        (1440, 900, "Model", "no such model", "there is no model no such model"),
        (1440, 900, "Share to remove, percent", "abc", "Sparsity must be 0–90 %"),
        (
            390,
            844,
            "Samples",
            "-10",
            "Calibration samples must be a whole number from 1 to 100,000",
        ),
    ):
        page.set_viewport_size({"width": width, "height": height})
        page.goto(f"{empty.address}/prune?seed=1&goal=Prune+to+chosen+sparsities")
        ready(page)
        field = page.get_by_label(label, exact=True)
        start = page.locator(".st-key-start button")
        field.fill(typed)
        expect(start).to_be_in_viewport(ratio=1)
        # By mouse, since an open list hides the rest of the page from assistive technology.
        box = start.bounding_box()
        page.mouse.click(box["x"] + 20, box["y"] + 20)
        expect(page.locator(".sd-field-error")).to_contain_text(message)
        expect(start).to_be_disabled()
        assert "/prune" in page.url


def test_a_word_that_only_filters_the_models_chooses_none(page, empty):
    page.goto(f"{empty.address}/prune")
    ready(page)
    field = page.get_by_label("Model", exact=True)
    before = field.input_value()
    field.press_sequentially("qwen")
    expect(page.get_by_role("option", name=re.compile("Qwen")).first).to_be_visible()
    page.mouse.click(5, 400)
    expect(field).to_have_value(before)


def test_a_server_without_logins_answers_its_own_pages_alone_and_says_what_they_may_do(
    finished,
):
    anybody = RawUser(finished.address)
    assert anybody.connects() and not anybody.connects(Origin="http://127.0.0.1:9")
    assert anybody.get("/", Host="evil.example")[0] == 403
    with urllib.request.urlopen(
        f"{finished.address}/health", timeout=DEADLINE_S
    ) as answer:
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
