"""Pictures of every page in both themes and widths: python -m tests.browser.screenshots DATA_DIR OUT_DIR.

Looks at what is in the data folder; an empty one shows the empty states.
"""

import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from sparsedash.ui.navigation import TITLES
from tests.browser.served import Server, chromium, ready

WIDTHS = {1440: 900, 390: 844}
SETTLING_MS = 1000
VIEWS = ("prune?view=published", "runs?view=jobs", "compare?view=layers")


def main(data_dir: Path, out: Path) -> None:
    """Start a server on the folder and photograph it."""
    out.mkdir(parents=True, exist_ok=True)
    server = Server(data_dir)
    try:
        server.wait()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            for theme in ("light", "dark"):
                for width in WIDTHS:
                    photograph(browser, server.address, theme, width, out)
            browser.close()
    finally:
        server.stop()


def photograph(browser: Browser, address: str, theme: str, width: int, out: Path) -> None:
    """Every page and view once, as high as its content."""
    page = browser.new_page(color_scheme=theme, device_scale_factor=2)
    for name in (*TITLES, *VIEWS):
        page.set_viewport_size({"width": width, "height": WIDTHS[width]})
        page.goto(f"{address}/{name}")
        ready(page)
        page.wait_for_timeout(SETTLING_MS)
        # Streamlit scrolls inside the page, so a full-page picture needs a window as high as the content.
        height = page.get_by_test_id("stMain").evaluate("e => e.scrollHeight")
        page.set_viewport_size({"width": width, "height": max(WIDTHS[width], height)})
        page.wait_for_timeout(SETTLING_MS)
        page.screenshot(path=out / f"{name.replace('?view=', '-')}-{width}-{theme}.png")
    page.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
