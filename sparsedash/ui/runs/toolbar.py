"""What can be done with the runs that are ticked: lay them over each other, pin, name, delete."""

from collections.abc import Sequence

import streamlit as st

from sparsedash.reporting.html import element, escape, label, paragraph
from sparsedash.reporting.runs import deleting
from sparsedash.reporting.runs.listing import told_away
from sparsedash.reporting.runs.rows import RunRow
from sparsedash.service.backend import Backend
from sparsedash.storage.user_data import LONGEST_NAME
from sparsedash.ui import frame
from sparsedash.ui.address_bar import go
from sparsedash.ui.runs import choices, run_file
from sparsedash.ui.tolerance import choose_tolerance

_HINT = "Tick runs to lay them over each other in one chart, to pin, name, take along or delete them."


def show_toolbar(backend: Backend, rows: Sequence[RunRow], chosen: Sequence[RunRow], listed: Sequence[RunRow]) -> None:
    """Draw the buttons for the runs that are ticked. rows: all runs. listed: those that the table shows."""
    with st.container(horizontal=True, vertical_alignment="center", key="runs-toolbar"):
        if chosen:
            _act(backend, rows, chosen, listed)
        else:
            frame.show(paragraph(_HINT, css="sd-muted"))
            run_file.open_one(backend)
        choose_tolerance()


def _act(backend: Backend, rows: Sequence[RunRow], chosen: Sequence[RunRow], listed: Sequence[RunRow]) -> None:
    keys = [row.key for row in chosen]
    parts = [f"{len(chosen)} chosen", told_away(keys, listed)]
    frame.show(element("p", escape(", ".join(filter(None, parts))), css="sd-count"))
    _lay_together(chosen)
    pin = not all(row.mark.pinned for row in chosen)
    st.button(
        "Pin" if pin else "Unpin",
        key="runs-pin",
        type="tertiary",
        icon=":material/push_pin:",
        on_click=frame.attempt,
        args=(lambda: backend.user_data.pin_runs(keys, pin),),
    )
    if len(chosen) == 1:
        _name(backend, chosen[0])
        run_file.offer(backend, chosen[0])
    if stored := [row for row in chosen if row.run is not None]:
        _delete(backend, rows, stored)
    st.button("Clear", key="runs-clear", type="tertiary", on_click=choices.choose, args=([],))


def _lay_together(chosen: Sequence[RunRow]) -> None:
    shown = choices.together()
    st.button(
        "Close the chart" if shown else "Lay over each other" if len(chosen) > 1 else "Show the chart",
        type="secondary" if shown else "primary",
        key="runs-together",
        on_click=go,
        args=({choices.TOGETHER: "" if shown else "1"},),
    )


def _name(backend: Backend, row: RunRow) -> None:
    place, field = f"name-of-{row.address}", f"name-{row.address}"

    def save() -> None:
        backend.user_data.name_run(row.key, st.session_state[field])
        st.session_state[place] = False

    with (
        st.popover("Name", type="tertiary", icon=":material/edit:", key=place, on_change="rerun"),
        st.form(f"form-{row.address}", border=False),
    ):
        st.text_input("What this run is called", row.mark.name, key=field, max_chars=LONGEST_NAME)
        frame.show(paragraph("Shown wherever the run is; an empty one takes the name away.", css="sd-small"))
        st.form_submit_button("Save", on_click=frame.attempt, args=(save,))


def _delete(backend: Backend, rows: Sequence[RunRow], stored: Sequence[RunRow]) -> None:
    titles = {row.key: row.title for row in rows}
    keys = [row.key for row in stored]

    def remove() -> None:
        gone = backend.removal.remove(keys)
        left = {run.key for run in gone.runs}
        choices.choose([row.address for row in stored if row.key not in left])
        st.toast(label(deleting.told(gone, titles)), icon=":material/delete:", duration="long")

    asking = st.popover("Delete", type="tertiary", icon=":material/delete:", key="runs-delete", on_change="rerun")
    if not asking.open:
        return
    with asking:
        plan = backend.removal.plan(keys)
        for said in deleting.asked(plan, titles):
            frame.show(paragraph(said))
        if plan.runs:
            st.button("Delete for good", type="primary", on_click=frame.attempt, args=(remove,))
