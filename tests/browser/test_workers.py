"""The main job with real workers: Start, a refresh, answers side by side, words that grow, Stop, the heat strip."""

import json
import re
from urllib.parse import urlencode

import pytest
import torch
from playwright.sync_api import expect
from transformers import AutoConfig, AutoModelForCausalLM

from tests.browser.served import ready
from tests.engine.hub_client import environment
from tests.engine.hub_layouts import save_for_a_row, serve_texts_of_rows
from tests.engine.hub_stand_in import Hub
from tests.engine.tiny import CONFIGS, tiny_tokenizer

JOB_TIMEOUT_MS = 240_000
WORDS = "the lamp and the boat and the letter went home to the harbour where Anna waited by the door"
MANY_LAYERS = 12
"""So that a tiny model takes its time over a token, and can be watched and stopped."""


def write_passages(path, n):
    words = WORDS.split()
    lines = [" ".join(words[(i + j) % len(words)] for j in range(8 + i % 6)) for i in range(n)]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    return path


def slow_model(folder):
    """A tiny model of many layers that never comes to an end by itself."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **CONFIGS["llama"] | {"num_hidden_layers": MANY_LAYERS})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def start_and_wait(page) -> None:
    """Press Start on the form, and wait until the run is done."""
    page.get_by_role("button", name="Start").click()
    cancel = page.get_by_role("button", name="Cancel")
    expect(cancel).to_be_visible()
    expect(page).to_have_url(re.compile(r"\?run=[0-9a-f]{64}"))
    page.reload()
    done = page.locator(".sd-state-done")
    expect(done.or_(page.get_by_role("button", name="Try again"))).to_be_visible(timeout=JOB_TIMEOUT_MS)
    assert done.is_visible(), page.locator(".sd-alert").inner_text()


def write_after(page, prompt, n_tokens):
    """Have both models continue a prompt; returns once both have begun."""
    page.locator("summary").filter(has_text="More settings").click()
    tokens = page.get_by_label("Tokens to write")
    tokens.fill(str(n_tokens))
    tokens.press("Enter")
    field = page.get_by_label("Prompt", exact=True)
    field.fill(prompt)
    field.press("Control+Enter")
    page.get_by_role("button", name="Continue this prompt").click()
    expect(page.locator(".sd-growing").last).not_to_have_text("…", timeout=JOB_TIMEOUT_MS)


def lengths_until_done(page):
    """How long both texts are, each time they change, until they are whole."""
    seen = []
    while texts := page.evaluate("[...document.querySelectorAll('.sd-growing')].map(e => e.innerText)"):
        lengths = tuple(map(len, texts))
        if not seen or lengths != seen[-1]:
            seen.append(lengths)
        page.wait_for_timeout(50)
    return seen


def test_a_model_is_pruned_and_its_answers_are_compared(page, start_server, tmp_path):
    query = {
        "model": str(slow_model(tmp_path / "tiny-llama")),
        "sparsity": "30, 60",
        "text": f"file:{write_passages(tmp_path / 'evaluation.jsonl', 24)}",
        "calibration": f"file:{write_passages(tmp_path / 'calibration.jsonl', 120)}",
        "samples": 64,
        "length": 32,
    }
    page.goto(f"{start_server(tmp_path / 'data').address}/prune?{urlencode(query)}")
    ready(page)
    start_and_wait(page)
    expect(page.locator("h1")).to_contain_text(re.compile("24 passages"))
    expect(page.locator(".js-plotly-plot")).to_be_visible()

    page.get_by_role("link", name="Compare the answers passage by passage").click()
    ready(page)
    write_after(page, "the letter went home", 400)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_text("Stopped before the end")).to_be_visible()
    kept = page.locator(".sd-written").first.inner_text()
    assert kept
    page.reload()
    expect(page.locator(".sd-written").first).to_have_text(kept)
    expect(page.get_by_role("button", name="Write it again")).to_be_visible()
    ready(page)
    write_after(page, "the lamp and the boat", 300)
    seen = lengths_until_done(page)
    assert len(seen) >= 3
    assert all(side[-1] > side[0] for side in zip(*seen, strict=True))
    expect(page.get_by_text(re.compile("300 tokens")).first).to_be_visible()

    page.get_by_role("button", name="Both wrong").click()
    page.get_by_role("combobox", name="Sort by the right word's log-probability").click()
    page.get_by_role("option", name="file order").click()
    expect(page.get_by_text("Passage 1", exact=True)).to_be_visible()
    expect(page.locator(".sd-passage").first).to_contain_text("the lamp and the boat")
    expect(page.locator(".sd-answer.sd-dense h3").first).to_have_text("Dense")
    expect(page.locator(".sd-answer.sd-sparse h3").first).to_have_text("Sparse, 30 %")

    page.get_by_role("button", name="Show where the two differ").click()
    strip = page.locator(".sd-strip")
    expect(strip).to_be_visible(timeout=JOB_TIMEOUT_MS)
    assert strip.inner_text().split() == page.locator(".sd-passage").first.inner_text().split()
    large = strip.locator("[tabindex='0']").first
    large.focus()
    # Only the keyboard makes a focus visible.
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert " nats: " in large.evaluate("e => getComputedStyle(e, '::after').content")

    page.get_by_role("button", name="Continue with both models").click()
    expect(page.get_by_text("Continued by both models")).to_be_visible(timeout=JOB_TIMEOUT_MS)
    assert page.complaints == []


MODEL = "EleutherAI/gpt-j-6b"
ROW = re.compile("gpt-j-6b, pile.10k, 10.%, last token")


def choose_row(page):
    field = page.get_by_label("Row", exact=True)
    # A list closes when the page scrolls under it.
    field.scroll_into_view_if_needed()
    field.click()
    page.get_by_role("option", name=ROW).click()
    page.wait_for_url(re.compile("row=gpt-j-6b-pile_10k-10-last-token"))


@pytest.mark.long
def test_a_published_row_is_repeated(page, start_server, tmp_path):
    """From a stand-in for the hub, where the model is one .bin file."""
    hub = Hub()
    hub.add("models", MODEL, save_for_a_row(tmp_path / "model", MODEL))
    serve_texts_of_rows(hub, tmp_path / "texts")
    address = start_server(tmp_path / "data", **environment(hub.url, tmp_path / "home")).address
    facts = page.locator("dl.sd-estimate")
    page.goto(f"{address}/published")
    choose_row(page)
    expect(facts).to_contain_text("not yet")
    # By the row's whole name: the link of the row before it may still be on the page.
    page.get_by_role("link", name=ROW).click()
    expect(page.get_by_label("Model", exact=True)).to_have_value(MODEL)
    start_and_wait(page)
    page.get_by_role("link", name="Published", exact=True).first.click()
    choose_row(page)
    expect(facts).to_contain_text(re.compile(r"% of 12 → [\d.]+.% of 12"))
    assert page.complaints == []
    hub.stop()
