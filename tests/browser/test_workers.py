"""The main job with real workers: Start, a refresh, answers side by side, words that grow, Stop,
the heat strip.
"""

import re
from urllib.parse import urlencode

import torch
from playwright.sync_api import expect
from transformers import AutoConfig, AutoModelForCausalLM

from tests.browser.served import press, ready
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny import CONFIGS, tiny_tokenizer

JOB_TIMEOUT_MS = 240_000
MANY_LAYERS = 12
"""So that a tiny model takes its time over a token, and can be watched and stopped."""


LENGTHS = "[...document.querySelectorAll('.sd-growing')].map(e => e.innerText.length)"
"""Of the texts that both models are writing."""
GROWN = f"(now => now.length === 2 && now.every((length, i) => length > (before[i] ?? 1)))({LENGTHS})"


def slow_model(folder):
    """A tiny model of many layers that never comes to an end by itself."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", **CONFIGS["llama"] | {"num_hidden_layers": MANY_LAYERS}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def start_and_wait(page) -> None:
    """Press Start on the form, and wait until the run is done."""
    press(page, "Start")
    cancel = page.get_by_role("button", name="Cancel")
    expect(cancel).to_be_visible()
    expect(page).to_have_url(re.compile(r"\?run=[0-9a-f]{64}"))
    page.reload()
    done = page.locator(".sd-state-done")
    expect(done.or_(page.get_by_role("button", name="Resume"))).to_be_visible(
        timeout=JOB_TIMEOUT_MS
    )
    assert done.is_visible(), page.locator(".sd-alert").inner_text()


def test_a_model_is_pruned_and_its_answers_are_compared(page, start_server, tmp_path):
    query = {
        "model": str(slow_model(tmp_path / "tiny-llama")),
        "sparsity": "30",
        "text": f"file:{write_jsonl(tmp_path / 'evaluation.jsonl', passages(24))}",
        "calibration": f"file:{write_jsonl(tmp_path / 'calibration.jsonl', passages(60))}",
        "samples": 32,
        "length": 32,
    }
    page.goto(f"{start_server(tmp_path / 'data').address}/prune?{urlencode(query)}")
    ready(page)
    start_and_wait(page)
    expect(page.locator("h1")).to_contain_text(re.compile("24 passages"))
    # Loss against sparsity, and what was forgotten.
    expect(page.locator(".js-plotly-plot")).to_have_count(2)
    ready(page)

    page.get_by_role("link", name="All answers").press("Enter")
    expect(page).to_have_url(re.compile("/compare"))
    ready(page)
    page.locator("summary").filter(has_text="More settings").press("Enter")
    tokens = page.get_by_label("Tokens to write")
    tokens.fill("400")
    tokens.press("Enter")
    ready(page)
    field = page.get_by_label("Prompt", exact=True)
    field.fill("the letter went home")
    field.press("Control+Enter")
    press(page, "Continue this prompt")
    for _ in range(2):
        lengths = page.evaluate(LENGTHS)
        page.wait_for_function(
            f"before => {GROWN}",
            arg=lengths,
            timeout=JOB_TIMEOUT_MS,
        )
    press(page, "Stop", exact=True)
    expect(page.get_by_text("Stopped early")).to_be_visible()
    kept = page.locator("[class*=st-key-tried] .sd-written").first.inner_text()
    assert kept
    page.reload()
    expect(page.locator("[class*=st-key-tried] .sd-written").first).to_have_text(kept)
    expect(page.get_by_role("button", name="Write it again")).to_be_visible()
    ready(page)

    press(page, "Both wrong")
    expect(page).to_have_url(re.compile("filter=both-wrong"))
    ready(page)
    expect(page.locator(".sd-answer.sd-dense h3").first).to_have_text("Dense")
    expect(page.locator(".sd-answer.sd-sparse h3").first).to_have_text("Sparse, 30 %")
    press(page, "Show where the two differ")
    strip = page.locator(".sd-strip")
    expect(strip).to_be_visible(timeout=JOB_TIMEOUT_MS)
    assert (
        strip.inner_text().split()
        == page.locator(".sd-passage").first.inner_text().split()
    )
    ready(page)
    large = strip.locator("[tabindex='0']").first
    large.focus()
    # Only the keyboard makes a focus visible.
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert " nats: " in large.evaluate("e => getComputedStyle(e, '::after').content")
    press(page, "Continue with both models")
    expect(page.get_by_text("Continued by both models")).to_be_visible(
        timeout=JOB_TIMEOUT_MS
    )
