"""The visitors' own texts: the list of uploads, the upload button, and a delete button for each."""

from collections.abc import Mapping

import streamlit as st
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from sparsedash.reporting import wording
from sparsedash.reporting.html import element, escape, paragraph
from sparsedash.schema.errors import SparseDashError
from sparsedash.service.backend import Backend
from sparsedash.storage.serving_file import serving
from sparsedash.storage.texts.text_refs import TEXT_KINDS, UPLOAD
from sparsedash.storage.texts.uploads import MAX_MEGABYTES, MAX_TOTAL_BYTES
from sparsedash.ui import frame

_HOW = (
    "A .jsonl file has one JSON object with a text field in each line, a .txt file blank lines between its texts, a "
    f".parquet file a column named text. At most {MAX_MEGABYTES} MB. It is kept in the server's data folder, where "
)
_SHARED = "everybody who uses this page can choose it, and delete it."
_OWN = "you alone can choose it, and delete it."
_IN_USE = "{taken} of {room} are in use. {whose} Results that were computed from them stay."


def offered(backend: Backend) -> list[str]:
    """The references of the texts that were uploaded before, newest first."""
    return list(backend.uploads.kept())


def field(backend: Backend, chooser: str) -> None:
    """Draw the upload button. chooser: the key of the field that is then set to the uploaded text."""
    with st.popover("Upload a text", icon=":material/upload_file:", type="tertiary"):
        refused = st.session_state.get(_refusal(chooser), "")
        if refused:
            # In the text's own colour: a popover lies outside the app, where our colours do not reach. Above the file,
            # since what is below it may be cut off by the window.
            frame.show(element("p", escape(refused), css="sd-field-error", role="alert"))
        st.file_uploader(
            "A file of texts",
            [kind.removeprefix(".") for kind in TEXT_KINDS],
            key=f"{chooser}-upload",
            max_upload_size=MAX_MEGABYTES,
            help=_HOW + (_SHARED if serving() is None else _OWN),
            on_change=_take,
            args=(backend, chooser),
        )
        chosen = str(st.session_state.get(chooser, ""))
        if not refused and chosen.startswith(UPLOAD):
            frame.note(f"Chosen: {wording.title(chosen)}")


def show_kept(backend: Backend, usual: Mapping[str, str]) -> None:
    """Draw the uploads with their sizes and a delete button each; nothing where there are none.

    usual: what a field goes back to, by its key, when the text that it has chosen is deleted.
    """
    kept = backend.uploads.kept()
    if not kept:
        return
    # Under another label it would be another one, and close when a text goes.
    shown = st.expander("Uploaded texts", key="uploads", on_change="rerun")
    if not shown.open:
        return
    with shown:
        frame.show(paragraph(_in_use(sum(kept.values())), css="sd-muted sd-small"))
        for reference, n_bytes in kept.items():
            with st.container(horizontal=True, wrap=False, vertical_alignment="center"):
                frame.show(paragraph(f"{wording.title(reference)}, {wording.size(n_bytes)}"))
                st.button(
                    "Delete",
                    key=f"delete-{reference}",
                    type="tertiary",
                    icon=":material/delete:",
                    on_click=frame.attempt,
                    args=(lambda name=reference: _drop(backend, name, usual),),
                )


def _in_use(n_bytes: int) -> str:
    rules = serving()
    if rules is None:
        room, whose = MAX_TOTAL_BYTES, "Everybody who uses this page can choose these texts, and delete them."
    else:
        room, whose = rules.quota.upload_mb * 1_000_000, "You alone can choose these texts, and delete them."
    return _IN_USE.format(taken=wording.size(n_bytes), room=wording.size(room), whose=whose)


def _drop(backend: Backend, reference: str, usual: Mapping[str, str]) -> None:
    """Delete it, and choose something else where it was chosen."""
    backend.drop_upload(reference)
    for chooser, name in usual.items():
        if str(st.session_state.get(chooser, "")).partition("[")[0] == reference:
            st.session_state[chooser] = name


def _take(backend: Backend, chooser: str) -> None:
    """Keep what was brought and choose it; a refusal leaves the choice as it is, and stands until the next file."""
    file = st.session_state[f"{chooser}-upload"]
    if file is None:
        return
    st.session_state[_refusal(chooser)] = ""
    try:
        st.session_state[chooser] = backend.uploads.keep(file.name, file.getvalue())
    except SparseDashError as error:
        st.session_state[_refusal(chooser)] = f"{error.message} {error.advice}".strip()
    finally:
        _let_go(file)


def _let_go(file: UploadedFile) -> None:
    """Free the memory that the file takes: Streamlit keeps it for as long as the visitor's page is open, twice."""
    context = get_script_run_ctx()
    if context is not None and isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        context.uploaded_file_mgr.remove_file(session_id=context.session_id, file_id=file.file_id)
    file.seek(0)
    file.truncate()


def _refusal(chooser: str) -> str:
    return f"{chooser}-refused"
