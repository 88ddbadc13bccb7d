"""How much room calibration may take, and the field that changes it."""

import streamlit as st

from sparsedash.reporting import wording
from sparsedash.reporting.html import paragraph
from sparsedash.reporting.storage.held import gigabytes
from sparsedash.service.backend import Backend
from sparsedash.service.upkeep.housekeeping import ArtefactRoom
from sparsedash.storage.upkeep.artefact_room import LEAST_GB, MOST_GB, VARIABLE
from sparsedash.ui import frame

FIELD = "artefact-room"
_HOW = (
    "What was used least recently goes first. It is computed again when a run needs it. What is over a lower limit "
    "goes at once, or with the next calibration where a job waits or runs."
)


def show_room(backend: Backend, room: ArtefactRoom, n_bytes: int) -> None:
    """Draw the limit and what of it is in use, in bytes; and the field, unless the environment says how much."""
    frame.section("Room for calibration")
    used = f"{wording.size(n_bytes) if n_bytes else 'Nothing'} of {gigabytes(room.n_bytes)} in use."
    frame.show(paragraph(f"{used} {_HOW}", css="sd-muted sd-small"))
    if room.fixed:
        frame.note(
            f"{VARIABLE} says how much: {gigabytes(room.n_bytes)}. It goes before whatever is chosen here; change it "
            "where the server is started, or leave it out and start again."
        )
        return
    with (
        st.form("room", border=False, enter_to_submit=True),
        st.container(horizontal=True, vertical_alignment="bottom"),
    ):
        value = room.n_bytes / 2**30
        st.number_input("Room in GB", LEAST_GB, MOST_GB, value, step=1.0, format="%.10g", key=FIELD, width=200)
        st.form_submit_button("Save", on_click=frame.attempt, args=(lambda: _save(backend),))


def _save(backend: Backend) -> None:
    asked = float(st.session_state[FIELD])
    backend.housekeeping.allow(asked)
    st.toast(f"Calibration may take {asked:,.10g} GB from now on.", icon=":material/save:")
