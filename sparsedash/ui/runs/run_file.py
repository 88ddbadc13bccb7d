"""A run as one file: taken along, and opened where it was brought to."""

import re

import streamlit as st

from sparsedash.reporting import wording
from sparsedash.reporting.html import element, escape, label, paragraph
from sparsedash.reporting.runs.rows import ADDRESS_LENGTH, RunRow
from sparsedash.schema.errors import SparseDashError
from sparsedash.service.backend import Backend
from sparsedash.storage.run_files import SUFFIX
from sparsedash.storage.texts.uploads import MAX_MEGABYTES
from sparsedash.ui import frame
from sparsedash.ui.runs import choices

_FIELD, _REFUSED = "run-file", "run-file-refused"
_NOT_IN_NAMES = re.compile(r"[^\w.-]+", re.ASCII)
_WHAT = (
    "The run as one file, with its records and passages: “Open a file” on this page of another SparseDash shows it "
    "with the same pages. Names, prompts and blind choices stay here."
)
_HOW = (
    "What “Take along” on this page, or sparsedash pack in a shell, has written on another machine. It is read as "
    "every result is, and refused where anything in it was changed on the way. Trust it as you trust the hand that it "
    "comes from. Larger ones: sparsedash unpack FILE, in a shell on the server."
)


def offer(backend: Backend, row: RunRow) -> None:
    """Draw the button that takes a finished run along; its file is made when it is pressed."""
    if row.run is None or not row.run.finished:
        return
    taking = st.popover("Take along", type="tertiary", icon=":material/download:", key="run-along", on_change="rerun")
    if not taking.open:
        return
    with taking, frame.told():
        packed = backend.transfer.packed(row.key)
        frame.show(paragraph(_WHAT))
        st.download_button(
            f"Download, {wording.size(len(packed))}",
            data=packed,
            file_name=f"{_NOT_IN_NAMES.sub('-', row.title).strip('-.')[:60] or 'run'}-{row.key[:6]}{SUFFIX}",
            mime="application/octet-stream",
            key="run-take-along",
            on_click="ignore",
            type="primary",
        )


def open_one(backend: Backend) -> None:
    """Draw the button that opens a run's file; a refusal is said above the field."""
    with st.popover("Open a file", icon=":material/upload_file:", type="tertiary", key="runs-open"):
        if refused := st.session_state.get(_REFUSED, ""):
            # In the text's own colour: a popover lies outside the app, where our colours do not reach.
            frame.show(element("p", escape(refused), css="sd-field-error", role="alert"))
        # Of any kind: the browser's part of the field refuses every name that ends in what has a hyphen.
        st.file_uploader(
            f"The file of a run ({SUFFIX})",
            key=_FIELD,
            max_upload_size=MAX_MEGABYTES,
            help=_HOW,
            on_change=_take,
            args=(backend,),
        )


def _take(backend: Backend) -> None:
    """Keep the run that was brought, and tick it."""
    file = st.session_state[_FIELD]
    st.session_state[_REFUSED] = ""
    if file is None:
        return
    try:
        run = backend.transfer.opened(file.getvalue())
    except SparseDashError as error:
        st.session_state[_REFUSED] = f"{error.message} {error.advice}".strip()
        return
    choices.choose([run.key[:ADDRESS_LENGTH]])
    name = backend.user_data.name_of(run.key)
    st.toast(label(f"{wording.title_of(run, name)} is among the runs now."), icon=":material/check_circle:")
