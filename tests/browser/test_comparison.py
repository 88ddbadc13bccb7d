"""The compare page by mouse, keyboard and phone; copied links, blind judging and hostile text."""

import re
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from sparsedash.schema.pair_records import Continuation, ContinuationSettings, Divergence, DivergenceSettings, Place
from sparsedash.storage.store import Store
from sparsedash.storage.users import UserData
from tests.browser.served import ready
from tests.ui import specimens

PHONE = {"width": 390, "height": 844}


@pytest.fixture
def compare(page, finished):
    """Opens the compare page with this query."""

    def opened(query: str = "", size: dict[str, int] | None = None):
        if size:
            page.set_viewport_size(size)
        page.goto(f"{finished.address}/compare{query}")
        ready(page)
        return page

    yield opened
    assert page.complaints == []


def test_kinds_and_steps_by_buttons_and_keys_are_remembered_by_the_address_and_keep_the_focus(compare):
    page = compare()
    count = page.locator(".st-key-steps .sd-count")
    expect(page.get_by_role("button", name="Next")).to_be_enabled()
    page.wait_for_timeout(1000)  # The keys are listened to a moment after the buttons are drawn.
    for key, shown in (("j", "2 of 9"), ("j", "3 of 9"), ("k", "2 of 9"), ("f", "1 of 2")):
        page.keyboard.press(key)
        expect(count).to_have_text(shown)
    expect(page).to_have_url(re.compile("filter=(mended|fixed)"))
    for name, shown in (("Broke", "1 of 9"), ("Next", "2 of 9")):
        ready(page)
        page.get_by_role("button", name=name).focus()
        page.keyboard.press("Enter")
        expect(count).to_have_text(shown)
        ready(page)
        expect(page.get_by_role("button", name=name)).to_be_focused()
    page.reload()
    expect(count).to_have_text("2 of 9")


def test_a_row_of_the_table_opens_its_passage_and_keeps_the_focus(compare):
    page = compare("?filter=all&sort=file%20order")
    row = page.locator(".st-key-row-4 button")
    row.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".st-key-steps .sd-count")).to_have_text("5 of 120")
    expect(page).to_have_url(re.compile("passage=4"))
    ready(page)
    expect(row).to_be_focused()


def press_bar(page, n: int) -> None:
    """Press the n-th bar of the histogram that has a height."""
    bars = page.locator(".js-plotly-plot .bars .point path")
    bars.first.wait_for(state="attached")
    heights = bars.evaluate_all("all => all.map(e => e.getBBox().height)")
    box = bars.nth([i for i, height in enumerate(heights) if height > 0][n]).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def test_a_bar_that_is_pressed_filters_the_passages_and_pressed_again_does_not(compare):
    page = compare("?filter=all")
    count = page.locator(".st-key-steps .sd-count")
    expect(count).to_have_text("1 of 120")
    press_bar(page, 0)
    expect(page).to_have_url(re.compile(r"change=\.\.-"))
    expect(count).not_to_have_text("1 of 120")
    n = count.inner_text().removeprefix("1 of ")
    expect(page.get_by_role("button", name=f"All · {n}")).to_be_visible()
    ready(page)
    press_bar(page, 0)
    expect(count).to_have_text("1 of 120")
    expect(page).not_to_have_url(re.compile("change="))


def test_the_first_screen_shows_verdict_passage_answers_and_on_a_phone_the_steps(compare):
    page = compare("?filter=broke", {"width": 1440, "height": 900})
    for seen in ("h1", ".sd-cost", ".sd-passage", ".sd-passage .sd-target"):
        expect(page.locator(seen)).to_be_in_viewport(ratio=0.95)
    page = compare("?filter=broke", PHONE)
    for seen in (".sd-passage .sd-target", ".sd-answers", ".sd-change"):
        expect(page.locator(seen)).to_be_in_viewport(ratio=0.95)
    steps = page.get_by_role("button", name="Next")
    assert steps.bounding_box()["y"] > PHONE["height"] * 0.85
    change, bar = page.locator(".sd-change").bounding_box(), page.locator(".st-key-steps").bounding_box()
    assert change["y"] + change["height"] <= bar["y"]


def test_on_a_phone_one_button_brings_run_models_search_order_and_files(compare):
    page = compare("", PHONE)
    search = page.get_by_label("Search in the passages and answers").locator("visible=true")
    expect(search).to_have_count(0)
    page.get_by_role("button", name="Choose").click()
    expect(search).to_have_count(1)
    expect(search).to_be_in_viewport()
    for name in ("Run", "Left", "Right"):
        expect(page.get_by_role("combobox", name=name, exact=False).first).to_be_visible()
    expect(page.get_by_role("button", name="Download")).to_be_visible()
    ready(page)
    expect(page.get_by_role("button", name="Close")).to_be_focused()
    page.get_by_role("button", name="Close").click()
    expect(search).to_have_count(0)


def test_a_copied_link_opens_the_same_view_in_another_browser(compare, open_page):
    page = compare("?left=10%20%25&right=30%20%25")
    # Each step waits for what it shows: the browser sends the address it has, which an answer under way may change.
    page.get_by_role("button", name="Broke").click()
    expect(page).to_have_url(re.compile("filter=broke"))
    ready(page)
    search = page.get_by_label("Search in the passages and answers")
    search.fill("letter")
    search.press("Enter")
    expect(page.locator(".st-key-steps .sd-count")).to_contain_text("1 of 3")
    expect(page).to_have_url(re.compile("letter"))
    ready(page)
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".st-key-steps .sd-count")).to_contain_text("2 of 3")
    expect(page).to_have_url(re.compile("letter"))
    other = open_page()
    other.goto(page.url)
    ready(other)
    for place in ("h1", ".st-key-steps .sd-count", ".sd-passage", ".sd-answers"):
        expect(other.locator(place).first).to_have_text(page.locator(place).first.inner_text(), use_inner_text=True)
    expect(other.get_by_label("Search in the passages and answers")).to_have_value("letter")


def test_blind_judging_hides_the_sides_until_the_choice_and_counts_it(compare):
    page = compare()
    page.get_by_text("Blind", exact=True).click()
    expect(page.locator("h1")).to_have_text("Which answer is better?")
    expect(page.locator(".sd-answer h3")).to_have_text(["A", "B"])
    source = page.get_by_test_id("stMain").evaluate("e => e.innerHTML")
    assert not re.search(r"sd-dense|sd-sparse|Sparse, 30|>Dense<", source)
    colours = page.locator(".sd-answer").evaluate_all("all => all.map(e => getComputedStyle(e).borderTopColor)")
    assert colours[0] == colours[1]
    page.get_by_role("button", name="A is better").click()
    expect(page.locator(".sd-answer h3")).to_have_text(["Dense", "Sparse, 30 %"])
    expect(page.get_by_text(re.compile("^1 judged"))).to_be_visible()
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".sd-answer h3")).to_have_text(["A", "B"])
    page.reload()
    expect(page.get_by_text(re.compile("^1 judged"))).to_be_visible()
    page.get_by_role("button", name="Reset the count").click()
    page.get_by_role("button", name="Forget all 1 choices").click()
    expect(page.get_by_text("Nothing has been judged yet.")).to_be_visible()


TEXT = "<img src=x onerror=alert(1)> **b** :red[x] <script>alert(2)</script> $x$ \u202eabc 👩‍🚀 nul\x00 "
SHOWN = "<img src=x onerror=alert(1)> **b** :red[x] <script>alert(2)</script> $x$ ⟨U+202E⟩abc 👩‍🚀 nul␀"
LONG = TEXT + "w" * 100_000


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, start_server):
    """A server on a folder where every text is hostile: passages, answers, prompts, what models wrote."""
    folder = tmp_path_factory.mktemp("hostile") / "data"
    run, records = specimens.run()
    passages = specimens.passages()
    store = Store(folder)
    for i, record in enumerate(records):
        outcomes = tuple(
            replace(
                outcome,
                target=TEXT,
                answer=f"{TEXT}{i}",
                tokens=tuple(replace(token, text=TEXT) for token in outcome.tokens),
                top=tuple(replace(candidate, text=TEXT) for candidate in outcome.top),
            )
            for outcome in record.outcomes
        )
        store.put(record.key, replace(record, outcomes=outcomes))
    store.put(passages.key, replace(passages, contexts=(LONG,) * 13 + (TEXT,) * 107))
    store.put(run.key, run)
    pair = {"left": records[0].key, "right": records[-1].key}
    prompt = ContinuationSettings(**pair, prompt=TEXT)
    UserData(store).keep_prompt(prompt)
    store.put(prompt.key(), Continuation(key=prompt.key(), prompt=TEXT, left=LONG, right=TEXT))
    strip = DivergenceSettings(**pair, text=f"{TEXT} {TEXT}")
    places = (Place(text=TEXT, nats=1.0, left=TEXT, right=TEXT),) * 3
    store.put(strip.key(), Divergence(key=strip.key(), opening=TEXT, places=places))
    store.close()
    return start_server(folder)


def test_hostile_text_shows_as_text_wherever_it_comes_from(page, hostile):
    page.goto(f"{hostile.address}/compare?filter=broke&passage=13")
    ready(page)
    main = page.get_by_test_id("stMain")
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        for place in (".sd-passage >> nth=0", ".sd-word >> nth=0", ".sd-strip", ".sd-written >> nth=1"):
            expect(page.locator(place)).to_contain_text(SHOWN)
        drawn = main.locator("[data-testid=stHtml]")
        assert drawn.locator("img, script:not(.sd-take *), strong, em, a, .katex").count() == 0
        assert main.evaluate("e => e.scrollWidth <= e.clientWidth")
        assert "\u202e" not in main.inner_text() and "\x00" not in main.inner_text()
    page.set_viewport_size({"width": 1440, "height": 900})
    field = page.get_by_label("Search in the passages and answers")
    for typed, shown in (
        ("<script>alert(2)</script> $x$ \u202eabc 👩‍🚀", page.get_by_role("button", name=re.compile("Broke · 9"))),
        ("<img src=x onerror=alert(3)> **not** " + "x" * 100, page.get_by_text("No passage is of this kind.")),
    ):
        field.fill(typed)
        field.press("Enter")
        expect(shown).to_be_visible()
    assert page.complaints == []


def test_a_passage_of_a_hundred_thousand_letters_leaves_the_page_usable(page, hostile):
    page.goto(f"{hostile.address}/compare?filter=both-wrong&sort=file%20order")
    ready(page)
    expect(page.get_by_text("cannot be continued")).to_be_visible()
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".st-key-steps .sd-count")).to_contain_text("2 of")
    assert page.complaints == []
