"""Every chart as SVG and PNG: two buttons under it, and what the chart must be told for them."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import streamlit as st

from sparsedash.reporting.html import Html, element, escape, join

_SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
_SCALE = 3
"""Pixels of a PNG for each one on the page, so that it can be printed."""


def chart_script_digest() -> str:
    """The script as the content security policy names it: without this the browser does not run it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()}"


def chart_config(name: str) -> dict[str, Any]:
    """The `config` of a chart that can be taken along. name: of its files, without their ending."""
    return {
        "displayModeBar": True,
        "displaylogo": False,
        "modeBarButtons": [["toImage"]],
        "toImageButtonOptions": {"filename": f"sparsedash-{name}", "scale": _SCALE},
        "responsive": True,
    }


def offer_chart() -> None:
    """Draw the buttons for the chart that was drawn last."""
    buttons = [
        element("button", escape(form.upper()), type="button", value=form, aria_label=f"The chart as {form.upper()}")
        for form in ("svg", "png")
    ]
    script = Html(f"<script>{_SCRIPT}</script>")
    st.html(element("div", join(*buttons), script, css="sd-take"), unsafe_allow_javascript=True)
