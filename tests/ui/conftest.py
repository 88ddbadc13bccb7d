"""Pages run by Streamlit's AppTest against a backend that a test has filled."""

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from streamlit.testing.v1 import AppTest

from sparsedash.catalog.choices import EXAMPLE, example_key
from sparsedash.schema.records import Run
from sparsedash.ui import frame
from sparsedash.ui.navigation import TITLES
from tests.ui import specimens
from tests.ui.fake_backend import FakeBackend

APP = Path(__file__).parents[2] / "app.py"

OpenPage = Callable[..., AppTest]
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "**bold** [x](javascript:alert(1))",
    ":red[x] :material/delete: $x$",
    "abc\u202egnp",
    "nul\x00byte",
    "👩‍🚀 \ud83d",
    "</p></div><style>*{display:none}</style>",
)
"""Text as a model or a visitor may bring it."""

FAILED = {"error_text": "The model cannot be reached.", "error_advice": "Name a local folder."}


@pytest.fixture
def backend() -> FakeBackend:
    """A backend with nothing in it."""
    return FakeBackend()


@pytest.fixture
def finished(backend: FakeBackend) -> FakeBackend:
    """A backend with one finished run."""
    backend.add_run(specimens.run())
    return backend


@pytest.fixture
def example(backend: FakeBackend) -> Run:
    """A backend in which nothing has run, with the run that ships."""
    run, records = specimens.run()
    texts = replace(specimens.passages(), key=example_key("passages"))
    renamed = [replace(record, key=example_key(record.key), passages_key=texts.key) for record in records]
    shipped = replace(
        run, key=EXAMPLE, dense=renamed[0].key, sparse=tuple(r.key for r in renamed[1:]), made_on="a mainframe"
    )
    backend.stored_records |= {record.key: record for record in renamed}
    backend.stored_passages[texts.key] = texts
    backend.stored_example = shipped
    return shipped


@pytest.fixture
def open_page(backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    """Opens a page of the app with these parameters in its address; fails when the page raises."""
    monkeypatch.setattr(frame, "backend", lambda: backend)

    def opened(name: str, **address: str) -> AppTest:
        app = AppTest.from_file(str(APP), default_timeout=30)
        app.run()
        for key, value in address.items():
            app.query_params[key] = value
        app.switch_page(f"pages/{name}.py").run()
        assert not app.exception
        return app

    return opened


def markup(app: AppTest) -> str:
    """All markup that the page drew itself."""
    return "\n".join(element.proto.body for element in app.get("html"))


def words(app: AppTest) -> str:
    """The text of that markup as a reader sees it, spaces made plain."""
    without_style = re.sub(r"<(style|script)>.*?</\1>", "", markup(app), flags=re.DOTALL)
    text = html.unescape(re.sub(r"<[^>]+>", " ", without_style))
    return " ".join(text.split())


def links(app: AppTest) -> dict[str, str]:
    """Where the page's links to other pages lead, by their label; those of the menu are left out."""
    return {label: address for label, address in _all_links(app).items() if label not in TITLES.values()}


def menu_links(app: AppTest) -> dict[str, str]:
    """Where the links of the menu lead, by their label."""
    return {label: address for label, address in _all_links(app).items() if label in TITLES.values()}


def _all_links(app: AppTest) -> dict[str, str]:
    return {link.proto.label: f"{link.proto.page}?{link.proto.query_string}" for link in app.get("page_link")}


def query_of(address: str) -> dict[str, str]:
    """The parameters of a link's address, the empty ones as well."""
    return dict(parse_qsl(address.partition("?")[2], keep_blank_values=True))


def button(app: AppTest, label: str) -> Any:
    """The button with this label, whatever count follows it."""
    return next(b for b in app.button if b.label.split(" · ")[0] == label)


def shows_as_text(drawn: str) -> None:
    """Fails where a character is left that turns the reading direction, ends a string, or cannot be sent."""
    drawn.encode()
    assert not set(drawn) & set("\u202e\x00")
