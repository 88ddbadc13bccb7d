"""The compare page with real workers: words that grow, Stop, the strip; then links, hostile text and blind judging."""

import re
from dataclasses import replace

import pytest
import torch
from playwright.sync_api import expect
from transformers import AutoConfig, AutoModelForCausalLM

from sparsedash.engine.run import pipeline
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import Continuation, ContinuationSettings, Divergence, DivergenceSettings, Place
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.storage.store import Store
from sparsedash.storage.users import UserData
from tests.browser.test_main_job import write_passages
from tests.engine.tiny import CONFIGS, tiny_tokenizer
from tests.ui import specimens

JOB_TIMEOUT_MS = 120_000
MANY_LAYERS = 12
"""So that a tiny model takes its time over a token, and somebody can watch it and stop it."""


def slow_model(folder):
    """A tiny model of many layers that never comes to an end by itself."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **CONFIGS["llama"] | {"num_hidden_layers": MANY_LAYERS})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory, start_server):
    """The address of a server whose data folder holds a run of that model."""
    folder = tmp_path_factory.mktemp("written")
    text = f"file:{write_passages(folder / 'passages.jsonl', 120)}"
    settings = RunSettings(
        model=str(slow_model(folder / "slow")),
        methods=(MethodSettings(width_multiple=8),),
        sparsities_permille=(500,),
        calibration=CalibrationSettings(corpus=text, n_samples=64, length=32),
        evaluation=EvaluationSettings(corpus=text, n_passages=8),
    )
    store = Store(folder / "data")
    pipeline.run(settings, store)
    store.close()
    return start_server(folder / "data")


def ready(page):
    page.wait_for_selector("h1.sd-opening")
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")


def ask(page, prompt, n_tokens):
    page.locator("summary").filter(has_text="More settings").click()
    tokens = page.get_by_label("Tokens to write")
    tokens.fill(str(n_tokens))
    tokens.press("Enter")
    field = page.get_by_label("Prompt", exact=True)
    field.fill(prompt)
    field.press("Control+Enter")
    page.get_by_role("button", name="Continue this prompt").click()


GROWING = "[...document.querySelectorAll('.sd-growing')].map(e => e.innerText)"


def lengths_until_done(page):
    """How long both texts are, each time they have changed, until nothing grows any more."""
    expect(page.locator(".sd-growing").last).not_to_have_text("…", timeout=JOB_TIMEOUT_MS)
    seen = []
    while texts := page.evaluate(GROWING):
        lengths = tuple(map(len, texts))
        if not seen or lengths != seen[-1]:
            seen.append(lengths)
        page.wait_for_timeout(50)
    return seen


def test_both_models_write_a_prompt_before_ones_eyes_and_it_survives_a_reload(page, written):
    page.goto(f"{written}/compare")
    ready(page)
    ask(page, "the lamp and the boat", 300)
    seen = lengths_until_done(page)
    assert len(seen) >= 3
    assert all(later > earlier for side in zip(*seen, strict=True) for earlier, later in [(side[0], side[-1])])
    expect(page.locator(".sd-written")).to_have_count(2)
    page.reload()
    expect(page.locator(".sd-written")).to_have_count(2)
    expect(page.get_by_text("First choices, 300 tokens")).to_be_visible()
    assert page.complaints == []


def test_stop_keeps_what_was_written_by_then(page, written):
    page.goto(f"{written}/compare")
    ready(page)
    ask(page, "the letter went home", 400)
    expect(page.locator(".sd-growing").last).not_to_have_text("…", timeout=JOB_TIMEOUT_MS)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_text("Stopped before the end")).to_be_visible()
    kept = page.locator(".sd-written").first.inner_text()
    assert len(kept) > 0
    page.reload()
    expect(page.locator(".sd-written").first).to_have_text(kept)
    expect(page.get_by_role("button", name="Write it again")).to_be_visible()
    assert page.complaints == []


def test_the_strip_is_computed_and_its_largest_places_speak_by_keyboard(page, written):
    page.goto(f"{written}/compare?filter=both-wrong")
    ready(page)
    page.get_by_role("button", name="Show where the two differ").click()
    strip = page.locator(".sd-strip")
    expect(strip).to_be_visible(timeout=JOB_TIMEOUT_MS)
    passage = page.locator(".sd-passage").first.inner_text()
    assert strip.inner_text().split() == passage.split()
    large = strip.locator("[tabindex='0']").first
    large.focus()
    # Only the keyboard makes a focus visible.
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    tip = large.evaluate("e => getComputedStyle(e, '::after').content")
    assert " nats: " in tip
    page.locator("summary").filter(has_text="The numbers as a table").click()
    expect(page.get_by_role("region", name="Where the two models' expectations differ")).to_be_visible()
    assert page.complaints == []


TEXT = "<img src=x onerror=alert(1)> **b** :red[x] <script>alert(2)</script> $x$ \u202eabc 👩‍🚀 nul\x00 "
SHOWN = "<img src=x onerror=alert(1)> **b** :red[x] <script>alert(2)</script> $x$ ⟨U+202E⟩abc 👩‍🚀 nul␀"
LONG = TEXT + "w" * 100_000


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, start_server):
    """The address of a server on a folder where every text is hostile: passages, answers, prompts, what was written."""
    folder = tmp_path_factory.mktemp("hostile") / "data"
    run, records = specimens.run()
    passages = specimens.passages()
    store = Store(folder)
    for i, record in enumerate(records):
        outcomes = tuple(
            replace(
                o,
                target=TEXT,
                answer=f"{TEXT}{i}",
                tokens=tuple(replace(t, text=TEXT) for t in o.tokens),
                top=tuple(replace(c, text=TEXT) for c in o.top),
            )
            for o in record.outcomes
        )
        store.put(record.key, replace(record, outcomes=outcomes))
    contexts = (LONG,) * 13 + (TEXT,) * 107
    store.put(passages.key, replace(passages, contexts=contexts))
    store.put(run.key, run)
    pair = {"left": records[0].key, "right": records[-1].key}
    asked = ContinuationSettings(**pair, prompt=TEXT)
    UserData(store).keep_prompt(asked)
    store.put(asked.key(), Continuation(key=asked.key(), prompt=TEXT, left=LONG, right=TEXT))
    strip = DivergenceSettings(**pair, text=f"{TEXT} {TEXT}")
    places = (Place(text=TEXT, nats=1.0, left=TEXT, right=TEXT),) * 3
    store.put(strip.key(), Divergence(key=strip.key(), opening=TEXT, places=places))
    store.close()
    return start_server(folder)


@pytest.mark.parametrize("width", [1440, 390])
def test_hostile_text_shows_as_text_wherever_it_comes_from(width, page, hostile):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{hostile}/compare?filter=broke&passage=13")
    ready(page)
    for place in (".sd-passage >> nth=0", ".sd-word >> nth=0", ".sd-strip", ".sd-written >> nth=1"):
        expect(page.locator(place)).to_contain_text(SHOWN)
    main = page.get_by_test_id("stMain")
    drawn = main.locator("[data-testid=stHtml]")
    assert drawn.locator("img, script:not(.sd-take *), strong, em, a, .katex").count() == 0
    assert main.evaluate("e => e.scrollWidth <= e.clientWidth")
    assert "\u202e" not in main.inner_text() and "\x00" not in main.inner_text()
    assert page.complaints == []


def test_hostile_text_typed_into_the_search_is_only_looked_for(page, hostile):
    page.goto(f"{hostile}/compare")
    ready(page)
    field = page.get_by_label("Search in the passages and answers")
    field.fill("<script>alert(2)</script> $x$ \u202eabc 👩‍🚀")
    field.press("Enter")
    expect(page.get_by_role("button", name=re.compile("Broke · 9"))).to_be_visible()
    field.fill("<img src=x onerror=alert(3)> **not there** " + "x" * 100)
    field.press("Enter")
    expect(page.get_by_text("No passage is of this kind.")).to_be_visible()
    page.reload()
    expect(page.get_by_text("No passage is of this kind.")).to_be_visible()
    assert page.complaints == []


def test_a_passage_of_a_hundred_thousand_letters_leaves_the_page_usable(page, hostile):
    page.goto(f"{hostile}/compare?filter=both-wrong&sort=file%20order")
    ready(page)
    expect(page.get_by_text("cannot be continued")).to_be_visible()
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".sd-count")).to_contain_text("2 of")
    assert page.complaints == []


def test_a_copied_link_opens_the_same_view_in_another_browser(page, browser, start_server, folder_with_a_run):
    page.goto(f"{start_server(folder_with_a_run)}/compare?left=10%20%25&right=30%20%25")
    ready(page)
    # Every step waits for what it shows: the browser sends the address it has, which an answer on its way may still
    # change.
    page.get_by_role("button", name="Broke").click()
    expect(page).to_have_url(re.compile("filter=broke"))
    ready(page)
    search = page.get_by_label("Search in the passages and answers")
    search.fill("letter")
    search.press("Enter")
    expect(page.locator(".sd-count")).to_contain_text("1 of 3")
    expect(page).to_have_url(re.compile("letter"))
    ready(page)
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".sd-count")).to_contain_text("2 of 3")
    expect(page).to_have_url(re.compile("letter"))
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    other = context.new_page()
    other.goto(page.url)
    ready(other)
    for place in ("h1", ".sd-count", ".sd-passage", ".sd-answers"):
        expect(other.locator(place).first).to_have_text(page.locator(place).first.inner_text(), use_inner_text=True)
    expect(other.get_by_label("Search in the passages and answers")).to_have_value("letter")
    context.close()


def test_blind_judging_hides_the_sides_until_the_choice_and_counts_it(page, start_server, folder_with_a_run):
    page.goto(f"{start_server(folder_with_a_run)}/compare")
    ready(page)
    page.get_by_text("Blind", exact=True).click()
    expect(page).to_have_url(re.compile("mode=blind"))
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
    expect(page.locator(".sd-answer h3")).to_have_text(["A", "B"])
    page.get_by_role("button", name="Reset the count").click()
    page.get_by_role("button", name="Forget all 1 choices").click()
    expect(page.get_by_text("Nothing has been judged yet.")).to_be_visible()
    assert page.complaints == []
