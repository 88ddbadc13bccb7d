"""The list beside the passage or question that is compared: a row each, which are buttons."""

from collections.abc import Callable, Sequence

import streamlit as st

from sparsedash.reporting.html import element, escape, readable, widget_label
from sparsedash.ui import address_bar, widgets

ROWS = 12
_MAX_LETTERS = 40


def show_rows(
    key: str,
    heads: Sequence[str],
    n: int,
    row: Callable[[int], tuple[str, str]],
    at: int,
    query: Callable[[int], dict[str, str] | None],
) -> None:
    """Draw the page of the list with the row at this place, and the buttons to other pages.

    key: of the container, which the style sheet knows. n: rows of all pages. row: makes the number
    and the cells, in Markdown, of the row at a place. query: what the address says of the row at a
    place; None outside.
    """
    first = at - at % ROWS
    head = element(
        "div",
        *(element("span", escape(name)) for name in heads),
        css="sd-row-heads",
        aria_hidden="true",
    )
    with st.container(key=key, gap=None):
        widgets.show(head)
        for i in range(min(ROWS, n - first)):
            number, cells = row(first + i)
            # Marked in its words: a button of another type would be new, and lose the focus.
            label = f"`▸ {number}` {cells}" if first + i == at else f"{number} {cells}"
            st.button(
                label,
                f"row-{i}",
                type="tertiary",
                width="stretch",
                on_click=address_bar.set_query,
                args=(query(first + i) or {},),
            )
    if n > ROWS:
        steps = [
            ("Earlier", "arrow_upward", query(first - ROWS), None),
            ("Later", "arrow_downward", query(first + ROWS), None),
        ]
        place = f"{first + 1:,} to {min(n, first + ROWS):,} of {n:,}"
        address_bar.draw_steps("page", steps, place, "tertiary")


def short_cell(text: str) -> str:
    """A text's beginning, for a cell."""
    return widget_label(readable(text)[:_MAX_LETTERS])
