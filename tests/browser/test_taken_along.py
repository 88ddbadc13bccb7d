"""Charts and tables as files, in a real browser: what is downloaded is what is shown."""

import csv
import io
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from playwright.sync_api import expect


@pytest.fixture(scope="module")
def address(start_server, folder_with_a_run):
    return start_server(folder_with_a_run)


def taken(page, button) -> tuple[str, bytes]:
    with page.expect_download() as download:
        button.click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


@pytest.mark.parametrize(("path", "name"), [("", "word-perplexity"), ("layers", "layers"), ("compare", "changes")])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_chart_is_an_svg_and_a_png(path, name, scheme, page, address):
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{address}/{path}")
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    file, drawn = taken(page, page.get_by_role("button", name="The chart as SVG"))
    assert file.startswith(f"sparsedash-{name}") and file.endswith(".svg")
    assert ET.fromstring(drawn).tag.endswith("svg")
    file, painted = taken(page, page.get_by_role("button", name="The chart as PNG"))
    assert file.endswith(".png") and painted.startswith(b"\x89PNG")
    assert page.complaints == []


@pytest.mark.parametrize(("table", "first"), [(".sd-top", "Next token"), (".sd-slices", "Grouped by")])
def test_the_tables_of_a_comparison_are_csv(table, first, page, address):
    page.goto(f"{address}/compare?groups=true")
    expect(page.locator(table)).to_be_visible()
    # The button that follows the table.
    button = page.locator(f"[data-testid=stElementContainer]:has({table}) ~ *").get_by_role("button", name="CSV").first
    file, lines = taken(page, button)
    read = list(csv.reader(io.StringIO(lines.decode())))
    assert file.endswith(".csv") and read[0][0] == first
    assert len(read) - 1 == page.locator(f"{table} tbody th[scope=row]").count()


@pytest.mark.parametrize(
    ("path", "first"),
    [("", "Model"), ("layers", "Layer"), ("published", "Model")],
    ids=["overview", "layers", "published"],
)
def test_a_table_is_a_csv_of_what_is_shown(path, first, page, address):
    page.goto(f"{address}/{path}")
    page.wait_for_selector("h1.sd-opening")
    if path != "published":
        page.locator("summary").filter(has_text="The numbers as a table").click()
    file, lines = taken(page, page.get_by_role("button", name="CSV", exact=True).first)
    assert file.endswith(".csv")
    read = list(csv.reader(io.StringIO(lines.decode())))
    shown = page.locator(".sd-table").first
    assert read[0][0] == first
    assert len(read) == shown.locator("tr").count()
    assert read[1][1] == shown.locator("tbody tr").first.locator("td").first.inner_text().replace("\xa0", " ")
