"""How long a newcomer waits, in a real Chromium: python -m tests.browser.first_run NEW_DATA_DIR.

Prints seconds since the server was started, cold, and since the click; with the load of the machine, since the numbers
mean little where it is not idle. Nothing here is a test. The folder must not be there yet.
"""

import os
import re
import sys
import time
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.browser.served import Server, chromium

PATIENCE_MS = 1_800_000


def main(data_dir: Path) -> None:
    """Start a server on the folder, open the example, start the first run, and wait for its end."""
    begun = time.monotonic()
    server = Server(data_dir)
    try:
        server.wait()
        _say("the server answers", begun)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(server.address)
            expect(page.locator("h1.sd-opening")).to_be_visible(timeout=PATIENCE_MS)
            paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0")
            shown = page.evaluate("performance.now()")
            print(f"the empty overview is read {(shown - paint) / 1000:.1f} s after first paint")
            _open_example(page)
            _first_run(page)
            browser.close()
        _say("all of it", begun)
    finally:
        server.stop()


def _open_example(page: Page) -> None:
    clicked = time.monotonic()
    page.get_by_role("link", name="Look at an example").click()
    expect(page.get_by_text("this run ships with SparseDash")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator(".js-plotly-plot")).to_be_visible(timeout=PATIENCE_MS)
    _say("the example with its chart is shown", clicked)
    page.go_back()


def _first_run(page: Page) -> None:
    told = page.get_by_text(re.compile("akes about"))
    expect(told).to_be_visible(timeout=PATIENCE_MS)
    print(told.inner_text())
    clicked = time.monotonic()
    page.get_by_role("button", name="Try the built-in model").click()
    expect(page.locator(".js-plotly-plot")).to_be_visible(timeout=PATIENCE_MS)
    _say("dense has answered", clicked)
    answered = page.locator(".sd-numbers .sd-sparse").filter(has_not_text="once the model is evaluated")
    expect(answered.first).to_be_visible(timeout=PATIENCE_MS)
    _say("a sparse model has answered", clicked)
    expect(page.locator(".sd-state-done")).to_be_visible(timeout=PATIENCE_MS)
    _say("the run has ended", clicked)


def _say(what: str, since: float) -> None:
    print(f"{time.monotonic() - since:6.1f} s  {what}  (load {os.getloadavg()[0]:.1f})", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
