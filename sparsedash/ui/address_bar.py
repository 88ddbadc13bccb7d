"""A user's choices, kept in the page's address so that a refresh or a copied link shows the same: select boxes and the
fields of the tolerance.
"""

from collections.abc import Mapping
from contextlib import suppress
from math import isinf
from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparsedash.reporting.html import visible
from sparsedash.schema.fields import field_rows
from sparsedash.schema.settings import FindSettings
from sparsedash.ui import frame
from sparsedash.ui.navigation import current_tolerance

Query = dict[str, str | list[str]]
"""What an address says after its question mark; a parameter may have several values."""

BOUND: Literal["query-params"] = "query-params"
"""The `bind` of a widget whose key and own value stand in the address as they are; Streamlit looks after them."""

NAME_SHOWN = 80
"""Characters of what an address asks for; what is longer was not typed by a person."""


def query_value(name: str) -> str:
    """The value of a parameter of the address, or nothing."""
    return st.query_params.get(name, "")


def set_query(parameters: Mapping[str, str]) -> None:
    """Change these parameters of the address; an empty value removes one."""
    for name, value in parameters.items():
        if value:
            st.query_params[name] = value
        else:
            st.query_params.pop(name, None)


def bound(name: str) -> Literal["query-params"] | None:
    """How the field for a whole number is bound to the address; not at all where that says what no float can hold.

    Streamlit lets a bound field keep its own value for whatever else is no number, but raises for this.
    """
    with suppress(ValueError):
        if any(isinf(float(value)) for value in st.query_params.get_all(name)):
            return None
    return BOUND


def select(
    name: str,
    title: str,
    options: Mapping[str, str],
    usual: str,
    *,
    along: Mapping[str, str] | None = None,
    noun: str = "",
    said_in: DeltaGenerator | None = None,
) -> str:
    """The value of the parameter `name`, chosen in a select box; the usual one where the address names no option.

    options: what is shown for each value. along: what else the address says after a change. noun: what the options are;
    where it is given, an address that asks for something else is answered in words, in `said_in` or under the box.
    """
    wanted, key = query_value(name), f"chosen-{name}"
    chosen = wanted if wanted in options else usual
    st.session_state[key] = chosen
    st.selectbox(
        title,
        list(options),
        key=key,
        on_change=lambda: set_query({**(along or {}), name: st.session_state[key]}),
        filter_mode="contains",
        format_func=lambda value: visible(options[value]),
    )
    if noun and wanted and wanted != chosen:
        with said_in or st.container():
            frame.note(
                f"The address asks for “{wanted[:NAME_SHOWN]}”; there is no such {noun} here. "
                f"Shown instead is {options[chosen]}."
            )
    return chosen


def choose_tolerance() -> None:
    """Draw the two fields of the tolerance."""
    allowed = current_tolerance()
    with st.popover("What may be lost", type="tertiary"):
        ratio_field(allowed.ratio)
        points_field(allowed.points)
        frame.note(
            "Within: the whole interval of word perplexity lies inside. Beyond: that of either measure lies outside."
        )


def ratio_field(value: float) -> None:
    """Draw the field of the word perplexity that is allowed, as a multiple of the dense model's."""
    _tolerance_field("ratio", value, 0.05)


def points_field(value: float) -> None:
    """Draw the field of the points of accuracy that may be lost."""
    _tolerance_field("points", value, 0.5)


def _tolerance_field(name: str, value: float, step: float) -> None:
    row = field_rows(FindSettings)[name]
    key = f"chosen-{row.key}"
    st.session_state[key] = min(max(value, row.low), row.high)
    st.number_input(
        row.label,
        min_value=row.low,
        max_value=row.high,
        step=step,
        format="%.2f",
        key=key,
        on_change=lambda: set_query({row.key: f"{st.session_state[key]:g}"}),
    )
