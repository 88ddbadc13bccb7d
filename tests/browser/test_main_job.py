"""The main job, as a person does it: a cold deep link, Start, a refresh in the middle, the passages side by side."""

import json
import re
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from tests.engine.tiny import save_tiny

JOB_TIMEOUT_MS = 240_000
WORDS = "the lamp and the boat and the letter went home to the harbour where Anna waited by the door"


def write_passages(path, n):
    words = WORDS.split()
    lines = [" ".join(words[(i + j) % len(words)] for j in range(8 + i % 6)) for i in range(n)]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def request_in_the_address(tmp_path):
    """A tiny model, and small files to calibrate and evaluate it on, as the form's part of the address."""
    return urlencode(
        {
            "model": str(save_tiny(tmp_path / "tiny-llama")),
            "sparsity": "30, 60",
            "text": f"file:{write_passages(tmp_path / 'evaluation.jsonl', 24)}",
            "calibration": f"file:{write_passages(tmp_path / 'calibration.jsonl', 120)}",
            "samples": 64,
            "length": 32,
        }
    )


def test_a_person_prunes_a_model_and_compares_its_answers(page, start_server, tmp_path, request_in_the_address):
    address = start_server(tmp_path / "data")
    page.goto(f"{address}/prune?{request_in_the_address}")
    page.get_by_role("button", name="Start").click()
    cancel = page.get_by_role("button", name="Cancel")
    expect(cancel).to_be_visible()
    expect(page).to_have_url(re.compile(r"\?run=[0-9a-f]{64}$"))

    page.reload()
    expect(cancel).to_be_visible()
    expect(page.get_by_role("progressbar")).to_be_visible()

    done = page.locator(".sd-state-done")
    failed = page.get_by_role("button", name="Try again")
    expect(done.or_(failed)).to_be_visible(timeout=JOB_TIMEOUT_MS)
    assert done.is_visible(), page.locator(".sd-alert").inner_text()
    expect(page.locator("h1")).to_contain_text(re.compile("24 passages"))
    expect(page.locator(".js-plotly-plot")).to_be_visible()

    page.get_by_role("link", name="Compare the answers passage by passage").click()
    page.get_by_role("button", name="Both wrong").click()
    page.get_by_role("combobox", name="Sort by the right word's log-probability").click()
    page.get_by_role("option", name="file order").click()
    expect(page.get_by_text("Passage 1", exact=True)).to_be_visible()
    expect(page.locator(".sd-passage")).to_contain_text("the lamp and the boat")
    expect(page.locator(".sd-answer.sd-dense h3")).to_have_text("Dense")
    expect(page.locator(".sd-answer.sd-sparse h3")).to_have_text("Sparse, 30 %")
    expect(page.locator(".sd-top")).to_have_count(1)

    page.get_by_role("button", name="Continue with both models").click()
    expect(page.get_by_text("Continued by both models")).to_be_visible(timeout=JOB_TIMEOUT_MS)
    expect(page.locator(".sd-written")).to_have_count(2)
    assert page.complaints == []
