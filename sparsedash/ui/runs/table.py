"""Draws all runs as a table whose rows can be ticked, a part at a time."""

from collections.abc import Collection, Sequence

import streamlit as st

from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, element, escape, join, label
from sparsedash.reporting.runs import listing
from sparsedash.reporting.runs.rows import RunRow, removed, state
from sparsedash.ui import carried, frame
from sparsedash.ui.address_bar import go
from sparsedash.ui.runs import choices

_HEAD = ("Run", "Method", "Removed", "Verdict", "Cost", "Started")
_UNDER = (
    "Verdict and cost are of one model of each run, the one that its page speaks of: by the best method, the largest "
    "sparsity within what may be lost; where there is none, the smallest beyond it. Cost: word perplexity as a "
    "multiple of the dense model's, with the interval of the verdict, and the change of accuracy. The last line of a "
    "row says how long the run took."
)


def show_table(rows: Sequence[RunRow], chosen: Collection[str]) -> None:
    """Draw these rows under their heads. chosen: the keys of those that are ticked."""
    number, n_parts = choices.part(rows)
    shown = rows[number * choices.A_PAGE : (number + 1) * choices.A_PAGE]
    with st.container(key="runs", gap=None):
        frame.show(element("div", *(element("span", escape(name)) for name in _HEAD), css="sd-runs-head"))
        for row in shown:
            with st.container(horizontal=True, key=f"run-row-{row.address}", gap=None):
                _draw(row, shown, row.key in chosen)
    if n_parts > 1:
        _steps(number, n_parts, len(rows))
    frame.offer_table(listing.listing_file(rows, frame.zone()))
    frame.show(element("p", escape(_UNDER), css="sd-muted sd-small"))


def _draw(row: RunRow, shown: Sequence[RunRow], is_chosen: bool) -> None:
    choices.tick(row, shown, is_chosen)
    with st.container(gap=None):
        title = row.mark.name or wording.title(row.settings.model)
        frame.link("overview", label(title), **_address(row))
        pinned = element("b", escape("★ pinned · ")) if row.mark.pinned else Html("")
        frame.show(element("p", pinned, escape(listing.what_it_is(row)), css="sd-run-about"))
    frame.show(element("div", *_cells(row), css="sd-run-cells"))


def _cells(row: RunRow) -> list[Html]:
    verdict, which = listing.verdict(row)
    how, far = state(row)
    factor, interval, points = listing.cost(row)
    started, took = listing.when(row, frame.zone())
    taken, steps = removed(row)
    judged = row.model.verdict.verdict if row.model else ""
    said = [(verdict, f"sd-run-{judged}" if judged else ""), (which, "sd-muted")]
    # Under a verdict so far it is a remark; where there is none yet, it is what there is to say.
    said += (
        [(", ".join(filter(None, (how, far))), "sd-muted")] if verdict else [(how, "sd-run-state"), (far, "sd-muted")]
    )
    lost = [(factor, "sd-run-factor"), (interval, "sd-muted"), (points, "")]
    return [
        _cell("Method", [(wording.methods(row.settings), "")], "sd-run-method"),
        _cell("Removed", [(taken, ""), (steps, "sd-muted")], "sd-run-removed"),
        _cell("Verdict", said, "sd-run-verdict"),
        _cell("Cost", lost, "sd-run-cost"),
        _cell("Started", [(started, ""), (took, "sd-muted")], "sd-run-when"),
    ]


def _cell(head: str, lines: Sequence[tuple[str, str]], css: str) -> Html:
    """A cell with these lines, each with its class; its head is there for those who hear it."""
    drawn = [element("span", escape(text), css=of) for text, of in lines if text]
    heard = element("span", escape(f"{head}: "), css="sd-heard")
    return element("div", heard, join(*drawn), css=css)


def _address(row: RunRow) -> dict[str, str]:
    """A search is judged by what it was asked for, unless the address says otherwise: so it says so here."""
    allowed = carried.tolerance()
    judged = {carried.RATIO: f"{allowed.ratio:g}", carried.POINTS: f"{allowed.points:g}"}
    return {"run": row.key} | (judged if row.search is not None else {})


def _steps(number: int, n_parts: int, n_rows: int) -> None:
    first, last = number * choices.A_PAGE + 1, min(n_rows, (number + 1) * choices.A_PAGE)
    with st.container(horizontal=True, vertical_alignment="center"):
        for name, icon, to in (("Previous", "chevron_left", number - 1), ("Next", "chevron_right", number + 1)):
            st.button(
                name,
                key=f"runs-{name}",
                icon=f":material/{icon}:",
                disabled=not 0 <= to < n_parts,
                on_click=go,
                args=({choices.PAGE: str(to + 1) if to else ""},),
            )
        frame.show(element("p", escape(f"{first} to {last} of {n_rows}"), css="sd-muted sd-count"))
