"""Charts with their files, and the scripts of pages: notices, screen readers, downloads."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import streamlit as st

from sparsedash.reporting.html import Html, element, escape, join, visible

_NOTICES, _CHARTS, _TYPED, _BACK = (
    Path(__file__).with_name(name).read_text(encoding="utf-8")
    for name in (
        "browser_notices.js",
        "chart_files.js",
        "typed_choice.js",
        "back_steps.js",
    )
)
_MENU = """(() => {
  const mark = () => document.querySelectorAll(".st-key-menu a").forEach((link) =>
    link.textContent === window.sparseDashPage ? link.ariaCurrent = "page" : link.removeAttribute("aria-current"));
  window.sparseDashPage = document.currentScript.parentElement.dataset.page;
  if (!window.sparseDashMenu) {
    window.sparseDashMenu = new MutationObserver(mark);
    window.sparseDashMenu.observe(document.body, { childList: true, subtree: true });
  }
  mark();
})();"""
"""Streamlit shows in bold alone which link leads to the page itself, and draws the links again as
it likes.
"""


class ChartFile(NamedTuple):
    """Name of a chart's file, and the text above its drawing. Texts may be foreign.

    name: without its ending. about: lines under the title: model, limit, date.
    """

    name: str
    title: str
    about: Sequence[str]


_OFFER = {
    "data_ask": "Notify me when a run ends",
    "data_stop": "Stop notifying me",
    "data_on": "This browser notifies you when a run ends, while a page of SparseDash is open in it.",
    "data_denied": "The browser blocks notifications from this page. Allow them in its settings for this site.",
    "data_insecure": "The browser allows notifications only over https, or on the server's own machine.",
}


def content_hashes(scripts: list[str]) -> list[str]:
    """Hashes of these scripts and of this module's, as a content security policy lists them."""
    hashes = []
    for script in (*scripts, _NOTICES, _CHARTS, _TYPED, _BACK, _MENU):
        digest = hashlib.sha256(script.encode()).digest()
        hashes.append(f"'sha256-{base64.b64encode(digest).decode()}'")
    return hashes


def offer_notices() -> None:
    """Draw the button that asks the browser's permission for notices, or why it is denied."""
    button = element("button", type="button", hidden="hidden")
    _run(
        _NOTICES,
        button,
        element("span", role="status"),
        css="sd-browser-notice",
        **_OFFER,
    )


def notify(title: str, body: str, tag: str) -> None:
    """Show a browser notice, if the user asked for them. tag: one notice of each is shown."""
    css = "sd-browser-notice sd-unseen"
    _run(
        _NOTICES,
        css=css,
        data_title=visible(title),
        data_body=visible(body),
        data_tag=tag,
    )


def announce(words: str) -> None:
    """Have a screen reader say this, once for as long as it stays the same. Text may be foreign."""
    _run(
        _NOTICES,
        css="sd-browser-notice sd-unseen",
        data_heard=visible(words),
    )


def confirm_typed_choices() -> None:
    """Have a model or text that was typed into the form count as soon as its field is left."""
    _run(_TYPED, css="sd-unseen")


def _run(script: str, *inside: Html, **attributes: str) -> None:
    # Not a word of a script is foreign: texts stand in attributes, escaped.
    markup = element(
        "div", join(*inside), Html(f"<script>{script}</script>"), **attributes
    )
    st.html(markup, unsafe_allow_javascript=True)


def shorten_back() -> None:
    """Have each act of the user add one step to the browser's Back at most."""
    _run(_BACK, css="sd-unseen")


def mark_current_page(title: str) -> None:
    """Have the menu's link with this title say to a screen reader that its page is shown."""
    _run(_MENU, css="sd-unseen", data_page=title)


def show_chart(
    figure: object,
    file: ChartFile,
    alt: str,
    key: str,
    on_select: Callable[[], None] | Literal["rerun", "ignore"] = "rerun",
) -> list[Any]:
    """Draw a chart with its downloads. Returns the pressed points, where that reruns the page."""
    drawn: Any = st.plotly_chart(
        figure,
        theme=None,
        config={
            "displayModeBar": False,
            "responsive": True,
        },
        alt=alt,
        key=key,
        on_select=on_select,
        selection_mode="points",
    )
    buttons = []
    for form in ("svg", "png"):
        label = f"The chart as {form.upper()}"
        text = escape(form.upper())
        buttons.append(
            element(
                "button",
                text,
                type="button",
                value=form,
                aria_label=label,
            )
        )
    _run(
        _CHARTS,
        *buttons,
        css="sd-take",
        data_name=file.name,
        data_title=visible(file.title),
        data_about="\n".join(map(visible, file.about)),
    )
    return drawn["selection"]["points"] if on_select == "rerun" else []
