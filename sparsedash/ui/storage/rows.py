"""Rows that say what takes how much room, each with the question that deletes it."""

from collections.abc import Callable, Mapping

import streamlit as st

from sparsedash.reporting.html import Html, element, escape, label, paragraph
from sparsedash.reporting.storage import deleting
from sparsedash.reporting.storage.held import HeldRow
from sparsedash.service.upkeep.cleanup import Cleanup
from sparsedash.ui import frame

Draw = Callable[[], None]

_HEADS = ("How many", "Size", "Last use")


def draw_heads(first: str) -> None:
    """Draw the heads of the columns. first: of the first one."""
    cells = element("div", *(element("span", escape(head)) for head in _HEADS), css="sd-held-cells")
    frame.show(element("div", element("span", escape(first)), cells, css="sd-held-head"))


def draw_row(name: str, row: HeldRow, delete: Draw | None, link: Draw | None = None) -> None:
    """Draw one row. name: what tells it from others. delete: draws its question; None: it stays. link: its title."""
    with st.container(horizontal=True, key=f"held-{name}", gap=None):
        with st.container(gap=None):
            if link is not None:
                link()
            title = [] if link is not None else [element("p", escape(row.title), css="sd-held-title")]
            about = [paragraph(row.about, css="sd-muted sd-small")] if row.about else []
            if title or about:
                frame.show(*title, *about)
        frame.show(_cells(row))
        if delete is not None:
            delete()


def _cells(row: HeldRow) -> Html:
    texts = zip(_HEADS, (row.number, row.size, row.used), strict=True)
    drawn = (element("div", element("span", escape(f"{head}: "), css="sd-heard"), escape(text)) for head, text in texts)
    return element("div", *drawn, css="sd-held-cells")


def ask(
    name: str,
    plan: Callable[[], Cleanup],
    remove: Callable[[], Cleanup],
    titles: Mapping[str, str],
    text: str = "Delete",
) -> None:
    """Draw the button that opens the question, and in it what goes, what stays, and the button that deletes.

    name: what tells it from others. titles: of the runs, by their keys. text: on the button.
    """

    def done() -> None:
        st.toast(label(deleting.told(remove(), titles)), icon=":material/delete:", duration="long")

    key = f"delete-{name}"
    asking = st.popover(text, type="tertiary", icon=":material/delete:", key=key, on_change="rerun")
    if not asking.open:
        return
    with asking, frame.told():
        planned = plan()
        question, *more = deleting.asked(planned, titles)
        frame.show(paragraph(question))
        frame.show(paragraph(" ".join(more), css="sd-small"))
        if planned.deletes:
            st.button("Delete for good", key=f"{key}-sure", type="primary", on_click=frame.attempt, args=(done,))
