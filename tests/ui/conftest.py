"""Pages run by Streamlit's AppTest against a backend that a test has filled."""

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from streamlit.components.v2.component_manager import BidiComponentManager
from streamlit.testing.v1 import AppTest

from sparsedash.catalog import choices
from sparsedash.catalog.choices import EXAMPLE, example_key
from sparsedash.schema.records import Run
from sparsedash.ui import frame
from sparsedash.ui.navigation import TITLES
from tests.ui import specimens
from tests.ui.filled_backend import FilledBackend

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
"""Text as a model or a user may bring it."""
STORABLE = [text for text in HOSTILE if "\ud83d" not in text]
"""Such text as a file can hold it: UTF-8."""

FAILED = {
    "error_text": "The model cannot be reached.",
    "error_advice": "Name a local folder.",
}


@pytest.fixture
def backend(tmp_path, monkeypatch) -> Iterator[FilledBackend]:
    """A backend with nothing in it."""
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    filled = FilledBackend(tmp_path / "data")
    yield filled
    filled.close()


@pytest.fixture
def finished(backend: FilledBackend) -> FilledBackend:
    """A backend with one finished run."""
    backend.add_run(specimens.run())
    return backend


@pytest.fixture
def two_runs(backend: FilledBackend) -> tuple[Run, Run]:
    """An older run and a newer one, of two models."""
    run, records = specimens.run(
        replace(
            specimens.SETTINGS,
            model="owner/model",
            sparsities_permille=(100,),
        )
    )
    newer = replace(run, started_at=run.started_at + 60.0), records
    return backend.add_run(specimens.run()), backend.add_run(newer)


@pytest.fixture
def example(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run that ships with the program."""
    run, records = specimens.run()
    texts = replace(specimens.passages(), key=example_key("passages"))
    records = [
        replace(record, key=example_key(record.key), passages_key=texts.key)
        for record in records
    ]
    sparse = tuple(record.key for record in records[1:])
    shipped = replace(
        run,
        key=EXAMPLE,
        dense=records[0].key,
        sparse=sparse,
        made_on="a mainframe",
    )
    choices.write_example([*records, texts, shipped], tmp_path / "example.jsonl.xz")
    monkeypatch.setattr(choices, "EXAMPLE_FILE", tmp_path / "example.jsonl.xz")
    return shipped


@pytest.fixture
def open_page(backend: FilledBackend, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    """Opens a page of the app with these parameters in its address; fails when the page raises."""
    monkeypatch.setattr(frame, "backend", lambda: backend)

    def opened(name: str, **address: str) -> AppTest:
        app = client(name)
        for key, value in address.items():
            app.query_params[key] = value
        app.run()
        assert not app.exception
        return app

    return opened


@pytest.fixture
def open_compare(open_page: OpenPage) -> OpenPage:
    """Opens Compare at the most pruned model, of which most is said, unless another is named."""
    return lambda **address: open_page("compare", **{"right": "30 %"} | address)


def client(name: str) -> AppTest:
    """A client that has asked for this page and not run it yet."""
    app = AppTest.from_file(str(APP), default_timeout=30)
    # Each client would look through all installed packages for components: most of a test's time.
    app._bidi_component_manager = BidiComponentManager()
    return app if name == "overview" else app.switch_page(f"pages/{name}.py")


def markup(app: AppTest) -> str:
    """All markup that the page drew itself."""
    return "\n".join(element.proto.body for element in app.get("html"))


def words(app: AppTest) -> str:
    """The text of that markup as a reader sees it, spaces made plain."""
    without_style = re.sub(
        r"<(style|script)>.*?</\1>",
        "",
        markup(app),
        flags=re.DOTALL,
    )
    text = html.unescape(re.sub(r"<[^>]+>", " ", without_style))
    return " ".join(text.split())


def links(app: AppTest) -> dict[str, str]:
    """Where the page's links to other pages lead, by their label; those of the menu are left
    out.
    """
    return {
        label: address
        for label, address in _all_links(app).items()
        if label not in TITLES.values()
    }


def menu_links(app: AppTest) -> dict[str, str]:
    """Where the links of the menu lead, by their label."""
    return {
        label: address
        for label, address in _all_links(app).items()
        if label in TITLES.values()
    }


def _all_links(app: AppTest) -> dict[str, str]:
    return {
        link.proto.label: f"{link.proto.page}?{link.proto.query_string}"
        for link in app.get("page_link")
    }


def query_of(address: str) -> dict[str, str]:
    """The parameters of a link's address, the empty ones as well."""
    return dict(parse_qsl(address.partition("?")[2], keep_blank_values=True))


def button(app: AppTest, label: str) -> Any:
    """The button with this label, whatever count follows it; of the form that which starts."""
    if label == "Start":
        return app.button(key="start-run")
    return next(b for b in app.button if b.label.split(" · ")[0] == label)


def opened(app: AppTest, key: str) -> AppTest:
    """The page with the popover or expander of this key opened."""
    app.session_state[key] = True
    return app.run()


def shows_as_text(drawn: str) -> None:
    """Fails where a character is left that turns the reading direction, ends a string, or cannot be
    sent.
    """
    drawn.encode()
    assert not set(drawn) & set("\u202e\x00")
