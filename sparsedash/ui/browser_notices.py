"""What the browser itself says: a notice when a job ends, where the visitor asked for it; and to screen readers how far
a job is.
"""

import base64
import hashlib
from pathlib import Path

import streamlit as st

from sparsedash.reporting.html import Html, element, join, visible

_SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")

_OFFER = {
    "data_ask": "Tell me when a run is done",
    "data_stop": "Tell me no more",
    "data_on": "This browser will say when a run ends, as long as a page of SparseDash is open in it.",
    "data_denied": "The browser refuses notices from this page. They can be allowed in its settings for this site.",
    "data_insecure": "This browser can say nothing here: it does so only over https, or on the machine itself.",
}


def notice_script_digest() -> str:
    """The script as the content security policy names it: without this the browser does not run it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()}"


def offer_notices() -> None:
    """Draw the button that asks the browser for leave, or what stands against it. The choice is kept in the browser."""
    button = element("button", type="button", hidden="hidden")
    _show(button, element("span", role="status"), css="sd-browser-notice", **_OFFER)


def notify(title: str, body: str, tag: str) -> None:
    """Have the browser say this, if the visitor asked for it. Text may be foreign. tag: one notice of each is shown."""
    css = "sd-browser-notice sd-unseen"
    _show(css=css, data_title=visible(title), data_body=visible(body), data_tag=tag)


def announce(words: str) -> None:
    """Have a screen reader say this, once for as long as it stays the same. Text may be foreign."""
    _show(css="sd-browser-notice sd-unseen", data_heard=visible(words))


def _show(*inside: Html, **attributes: str) -> None:
    # Not a word of a script is foreign: what is said stands in attributes, escaped.
    script = Html(f"<script>{_SCRIPT}</script>")
    st.html(element("div", join(*inside), script, **attributes), unsafe_allow_javascript=True)
