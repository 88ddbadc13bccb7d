"""The passages that are shown as a table, a page at a time: every row is a button that opens its passage."""

from collections.abc import Sequence

import streamlit as st

from sparsedash.reporting.html import Html, element, escape, label
from sparsedash.reporting.passages.changes import signed
from sparsedash.reporting.record_pair import Pair
from sparsedash.schema.records import Outcome, Passages
from sparsedash.ui import address_bar, frame
from sparsedash.ui.compare.continuation import NOTHING
from sparsedash.ui.compare.selectors import Shown

ROWS = 12
"""A page of the table is about as high as the passage beside it."""
_MOST_LETTERS = 40


def show_table(shown: Shown, pair: Pair, passages: Passages | None, at: int) -> None:
    """Draw the page of the table that holds the passage at this place among those shown, and the way to other pages."""
    first = at - at % ROWS
    page = shown.positions[first : first + ROWS]
    hidden = shown.kind is None
    with st.container(key="rows-hidden" if hidden else "rows", gap=None):
        frame.show(_head([] if hidden else [pair.left_name, pair.right_name]))
        for i, position in enumerate(page):
            number = f"{pair.left.outcomes[position].index + 1:,}"
            cells = _opening(position, passages) if hidden else _cells(position, pair)
            st.button(
                # Marked in its words: a button of another type would be a new one, and lose the focus.
                f"{f'`▸ {number}`' if first + i == at else number} {cells}",
                key=f"row-{i}",
                type="tertiary",
                width="stretch",
                on_click=address_bar.go,
                args=(_to(shown, pair, first + i),),
            )
    if len(shown.positions) > ROWS:
        _pages(shown, pair, first)


def _pages(shown: Shown, pair: Pair, first: int) -> None:
    n = len(shown.positions)
    with st.container(horizontal=True, vertical_alignment="center", key="pages"):
        for name, icon, to in (("Earlier", "arrow_upward", first - ROWS), ("Later", "arrow_downward", first + ROWS)):
            inside = 0 <= to < n
            st.button(
                name,
                key=f"page-{name}",
                icon=f":material/{icon}:",
                type="tertiary",
                disabled=not inside,
                on_click=address_bar.go,
                args=(_to(shown, pair, to) if inside else {},),
            )
        frame.show(element("p", escape(f"{first + 1:,} to {min(n, first + ROWS):,} of {n:,}"), css="sd-muted sd-small"))


def _to(shown: Shown, pair: Pair, at: int) -> dict[str, str]:
    """What the address says of the passage at this place."""
    return {"filter": shown.kind or "", "passage": str(pair.left.outcomes[shown.positions[at]].index)}


def _head(names: Sequence[str]) -> Html:
    """The heads of the columns; while the models are hidden, of what tells nothing."""
    heads = ["Passage", *(["Right word", *names, "Change"] if names else ["begins with"])]
    return element("div", *(element("span", escape(head)) for head in heads), css="sd-row-heads", aria_hidden="true")


def _cells(position: int, pair: Pair) -> str:
    left, right = pair.outcomes(position)
    target = label(left.target[:_MOST_LETTERS]) or "–"
    return f"**{target}** *{_said(left)}* *{_said(right)}* {signed(-pair.fall(position))}"


def _said(outcome: Outcome) -> str:
    """ "✓", or "✕" and what was said instead."""
    return "✓" if outcome.last_word_right else f"✕ {label(outcome.answer[:_MOST_LETTERS]) or NOTHING}"


def _opening(position: int, passages: Passages | None) -> str:
    return f"**{label(passages.contexts[position][:_MOST_LETTERS]) or '–'}**" if passages else ""
