"""The compare page by mouse, keyboard and phone; blind judging and hostile text."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.runs import N_LONG, SHOWN
from tests.browser.served import download, press, press_key, ready

PHONE = {"width": 390, "height": 844}


@pytest.fixture
def compare(page, finished):
    """Opens the compare page with this query, at the most pruned model."""

    def opened(query: str = "?"):
        page.goto(f"{finished.address}/compare{query}&right=30+%25")
        ready(page)
        return page

    return opened


def test_kinds_steps_and_rows_by_keys_and_buttons_keep_the_focus_and_the_address_brings_them_back(
    compare,
):
    page = compare()
    count = page.locator(".st-key-steps .sd-count")
    expect(count).to_have_text("1 of 9")
    press_key(page, "j", count.filter(has_text="2 of 9"))
    press_key(page, "k", count.filter(has_text="1 of 9"))
    press_key(page, "f", count.filter(has_text="1 of 2"))
    expect(page).to_have_url(re.compile("filter=(fixed|fixed)"))
    for button, shown in (
        (page.get_by_role("button", name="Broke"), "1 of 9"),
        (page.get_by_role("button", name="Next"), "2 of 9"),
        (page.locator("[class*=st-key-row-] button").nth(3), "4 of 9"),
    ):
        ready(page)
        button.focus()
        page.keyboard.press("Enter")
        expect(count).to_have_text(shown)
        ready(page)
        expect(button).to_be_focused()
    search = page.get_by_label("Search", exact=True)
    search.fill("letter")
    search.press("Enter")
    expect(count).to_contain_text("of 2")
    expect(page).to_have_url(re.compile("letter"))
    ready(page)
    places = ("h1", ".st-key-steps .sd-count", ".sd-passage", ".sd-answers")
    before = [page.locator(place).first.inner_text() for place in places]
    page.reload()
    for place, text in zip(places, before, strict=True):
        expect(page.locator(place).first).to_have_text(text, use_inner_text=True)
    expect(search).to_have_value("letter")


def press_bar(page, n: int) -> None:
    """Press the n-th bar of the histogram that has a height."""
    bars = page.locator(".js-plotly-plot .bars .point path")
    bars.first.wait_for(state="attached")
    heights = bars.evaluate_all("all => all.map(e => e.getBBox().height)")
    box = bars.nth(
        [i for i, height in enumerate(heights) if height > 0][n]
    ).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def test_a_bar_that_is_pressed_filters_the_passages_and_pressed_again_does_not(compare):
    page = compare("?filter=all")
    count = page.locator(".st-key-steps .sd-count")
    expect(count).to_have_text("1 of 120")
    press_bar(page, 0)
    expect(page).to_have_url(re.compile(r"change=\.\.-"))
    expect(count).not_to_have_text("1 of 120")
    ready(page)
    press_bar(page, 0)
    expect(count).to_have_text("1 of 120")
    expect(page).not_to_have_url(re.compile("change="))


def test_the_first_screen_shows_verdict_passage_answers_and_a_phone_the_steps_and_the_rest_by_one_button(
    compare,
):
    page = compare("?filter=broke")
    page.set_viewport_size({"width": 1440, "height": 900})
    for seen in ("h1", ".sd-passage", ".sd-passage .sd-target"):
        expect(page.locator(seen)).to_be_in_viewport(ratio=0.95)
    page.set_viewport_size(PHONE)
    page.reload()
    ready(page)
    for seen in (".sd-passage .sd-target", ".sd-answers", ".sd-change"):
        expect(page.locator(seen)).to_be_in_viewport(ratio=0.95)
    change = page.locator(".sd-change").bounding_box()
    bar = page.locator(".st-key-steps").bounding_box()
    assert change["y"] + change["height"] <= bar["y"]
    assert (
        page.get_by_role("button", name="Next").bounding_box()["y"]
        > PHONE["height"] * 0.85
    )
    search = page.get_by_label("Search", exact=True).locator("visible=true")
    expect(search).to_have_count(0)
    press(page, "Choose")
    expect(search).to_be_in_viewport()
    for name in ("Run", "Left", "Right"):
        expect(
            page.get_by_role(
                "combobox",
                name=name,
                exact=False,
            ).first
        ).to_be_visible()
    expect(page.get_by_role("button", name="Download")).to_be_visible()
    ready(page)
    close = page.get_by_role("button", name="Close")
    expect(close).to_be_focused()
    close.press("Enter")
    expect(search).to_have_count(0)


def test_blind_judging_hides_the_sides_until_the_choice(compare):
    page = compare("?blind=true")
    expect(page.locator(".sd-answer h3")).to_have_text(["A", "B"])
    source = page.get_by_test_id("stMain").evaluate("e => e.innerHTML")
    assert not re.search(r"sd-dense|sd-sparse|Sparse, 30|>Dense<", source)
    colours = page.locator(".sd-answer").evaluate_all(
        "all => all.map(e => getComputedStyle(e).borderTopColor)"
    )
    assert colours[0] == colours[1]
    press_key(page, "a", page.get_by_text(re.compile("^1 judged")))
    expect(page.locator(".sd-answer h3")).to_have_text(["Dense", "Sparse, 30 %"])
    press(page, "Undo this choice")
    expect(page.get_by_text("No choice yet.")).to_be_visible()


def test_hostile_text_shows_as_text_wherever_it_comes_from_and_a_very_long_one_leaves_the_page_usable(
    compare, finished
):
    page = compare(
        f"?run={finished.hostile}&filter=all&sort=file%20order&passage={N_LONG}"
    )
    expect(page.get_by_text("cannot be continued")).to_be_visible()
    press(page, "Next")
    expect(page.locator(".st-key-steps .sd-count")).to_contain_text(f"{N_LONG + 1} of")
    main = page.get_by_test_id("stMain")
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        for place in (
            ".sd-passage >> nth=0",
            ".sd-word >> nth=0",
            ".sd-strip",
            ".sd-written >> nth=1",
        ):
            expect(page.locator(place)).to_contain_text(SHOWN)
        drawn = main.locator("[data-testid=stHtml]")
        assert (
            drawn.locator(
                "img, script:not(.sd-take *, .sd-unseen *), strong, em, a, .katex"
            ).count()
            == 0
        )
        page.wait_for_function(
            "document.querySelector('[data-testid=stMain]').scrollWidth <= innerWidth"
        )
        assert "\u202e" not in main.inner_text() and "\x00" not in main.inner_text()
    page.set_viewport_size({"width": 1440, "height": 900})
    field = page.get_by_label("Search", exact=True)
    field.fill("<img src=x onerror=alert(3)> **not** " + "x" * 100)
    field.press("Enter")
    expect(page.get_by_text("No passage matches.")).to_be_visible()


def test_the_report_opens_from_disk_and_asks_for_nothing(compare, tmp_path):
    page = compare()
    press(page, "Download")
    path = tmp_path / "report.html"
    path.write_bytes(download(page, "Report, one HTML file")[1])
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    expect(
        page.get_by_role("img", name=re.compile("Word perplexity over 120 passages"))
    ).to_be_visible()
    expect(page.get_by_role("heading", name="Broke: 9")).to_be_visible()
    numbers = page.get_by_role("region", name="The numbers of this run")
    assert numbers.evaluate("e => e.scrollWidth - e.clientWidth") == 0
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.documentElement.scrollWidth === 390")
    assert requests == [path.as_uri()]
