"""The heat strip: how much two models' expectations differ at each token of a passage. Computed on request."""

import streamlit as st

from sparsedash.reporting.html import Html, Table, element, escape, join, paragraph, table, visible
from sparsedash.reporting.record_pair import Pair
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.pair_records import Divergence, Place
from sparsedash.schema.pair_settings import DivergenceSettings
from sparsedash.service.backend import Backend
from sparsedash.ui import frame
from sparsedash.ui.job_watch import watch

LEVELS = (0.01, 0.05, 0.2, 0.8)
"""Nats at which a place is drawn one step stronger; the same for every passage, so that passages can be compared."""

LARGEST = 20
SHOWN_PLACES = 3_000
"""Of a longer text the end is drawn."""


def show_strip(backend: Backend, pair: Pair, text: str) -> None:
    """Draw the strip where it is stored, else the job that computes it, else the button that asks for it."""
    try:
        request = DivergenceSettings(left=pair.left.key, right=pair.right.key, text=text)
    except SettingsError as error:
        frame.note(f"This passage cannot be compared token by token: {error.message}")
        return
    stored = backend.divergence(request.key())
    if stored is not None:
        frame.section("Where the two models' expectations differ")
        _draw(pair, stored)
        return
    job = backend.newest_job(request.key())
    if job is not None and job.state != "done":
        watch(backend, job, brief=True)
        return
    st.button(
        "Show where the two differ",
        key="strip",
        icon=":material/gradient:",
        on_click=frame.attempt,
        args=(lambda: backend.submit_divergence(request),),
        help="Both models read the passage; the places where their expectations differ are marked.",
    )


def level(nats: float) -> int:
    """How strongly a place is drawn, 0 to 4."""
    return sum(nats >= limit for limit in LEVELS)


def _draw(pair: Pair, found: Divergence) -> None:
    largest = set(sorted(range(len(found.places)), key=lambda i: -found.places[i].nats)[:LARGEST])
    skipped = max(0, len(found.places) - SHOWN_PLACES)
    opening = "… " if skipped else found.opening
    spans = [
        _place(pair, found.places[i], i in largest) for i in range(skipped, len(found.places)) if found.places[i].text
    ]
    frame.show(
        paragraph(
            "The thicker the line under a token, the further apart are the two models' expectations at its place. "
            "Point at a token to read the number; the twenty largest are reached with the Tab key and listed in the "
            "table.",
            css="sd-muted sd-small",
        ),
        _legend(),
        element("p", escape(opening), join(*spans), css="sd-passage sd-strip"),
    )
    with st.expander("The numbers as a table"):
        frame.show_table(_table(pair, found, sorted(largest, key=lambda i: -found.places[i].nats)))


def _place(pair: Pair, place: Place, large: bool) -> Html:
    tip = (
        f"{place.nats:.2f} nats: {pair.left_name} expects {_quoted(place.left)}, {pair.right_name} "
        f"{_quoted(place.right)}"
    )
    css = f"sd-heat sd-heat-{level(place.nats)}"
    if not large:
        return element("span", escape(place.text), css=css, title=tip)
    return element(
        "span",
        escape(place.text),
        css=css,
        title=tip,
        data_tip=tip,
        tabindex="0",
        role="img",
        aria_label=f"{place.text}: {tip}",
    )


def _legend() -> Html:
    bounds = ["under 0.01", "from 0.01", "from 0.05", "from 0.2", "0.8 and more"]
    parts = [
        element("span", escape(f"{words} nats" if step == 4 else words), css=f"sd-heat sd-heat-{step}")
        for step, words in enumerate(bounds)
    ]
    return element("p", *parts, css="sd-heat-legend")


def _table(pair: Pair, found: Divergence, largest: list[int]) -> Table:
    caption = (
        f"The {len(largest)} largest of {len(found.places):,} places: KL({pair.left_name} ‖ {pair.right_name}), in "
        "nats, of what each model expects for the token, given all before it. 0: the same. Changing the sides gives "
        "the other direction."
    )
    head = ["Token", "Nats", f"{pair.left_name} expects", f"{pair.right_name} expects"]
    rows = [
        [
            _quoted(found.places[i].text),
            f"{found.places[i].nats:.2f}",
            _quoted(found.places[i].left),
            _quoted(found.places[i].right),
        ]
        for i in largest
    ]
    return table("Where the two models' expectations differ", caption, head, rows)


def _quoted(text: str) -> str:
    return f"“{visible(text.replace(chr(10), '⏎')[:60])}”" if text else "a part of a character"
