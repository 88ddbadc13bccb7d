"""Fields of the form, drawn from the rows of the field table, with errors underneath; uploads of texts.

The address of the page holds their values.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from sparsedash.catalog.choices import OFFERED
from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, element, escape, paragraph
from sparsedash.schema.errors import SparseDashError
from sparsedash.schema.fields import FieldRow
from sparsedash.service.backend import Backend
from sparsedash.service.request_checks import ReferenceField
from sparsedash.storage.text_files import MAX_MEGABYTES, MAX_TOTAL_BYTES, TEXT_KINDS, UPLOAD
from sparsedash.storage.users import serving_rules
from sparsedash.ui import address_bar, frame
from sparsedash.ui.address_bar import BOUND

T = TypeVar("T")

_UPLOAD_HELP = (
    "A .jsonl file has one JSON object with a text field in each line, a .txt file blank lines between its texts, a "
    f".parquet file a column named text. At most {MAX_MEGABYTES} MB. It is kept in the server's data folder, where"
)


def setting_field(row: FieldRow) -> Any:
    """Draw the field of a setting. Returns its value: the default while the field is empty."""
    about = row.help or None
    match row.kind:
        case "switch":
            return st.toggle(row.label, key=row.key, bind=BOUND, help=about)
        case "choice":
            usual = row.options.index(row.default)
            chosen = st.selectbox(
                row.label, row.options, index=usual, key=row.key, bind=BOUND, help=about, filter_mode=None
            )
            return chosen or row.default
        case _:
            number, step, shown = (int, 1, None) if row.kind == "whole" else (float, 0.01, "%.3g")
            value = st.number_input(
                row.label,
                min_value=number(row.low),
                max_value=number(row.high),
                value=row.default,
                step=step,
                format=shown,
                key=row.key,
                bind=address_bar.bound(row.key),
                placeholder=row.empty or None,
                help=about,
            )
            return row.default if value is None else number(value)


def setting_fields(rows: Sequence[FieldRow], n_columns: int = 1) -> dict[str, Any]:
    """Draw fields side by side in so many columns. Returns their values by the keys of the settings."""
    values, columns = {}, list[DeltaGenerator]()
    for row in rows:
        columns = columns or st.columns(n_columns)
        with columns.pop(0):
            values[row.key] = setting_field(row)
    return values


def reference_field(backend: Backend, row: FieldRow, usual: str | None = None) -> str | None:
    """Draw the field of a model or a text, and what the catalog says of it. Returns None where it cannot be used.

    usual: its value until the user chooses another; None: the setting's default.
    """
    names = [choice.name for choice in OFFERED[row.title]]
    is_text = row.title != "model"
    if is_text:
        names += backend.uploads.kept()
    usual = usual or row.default
    # Where the usual value has changed and the field still shows the former one, it follows.
    before = st.session_state.get(f"usual-{row.key}", usual)
    st.session_state[f"usual-{row.key}"] = usual
    if before != usual and st.session_state.get(row.key) == before:
        st.session_state[row.key] = usual
    name = st.selectbox(
        row.label, names, index=names.index(usual), key=row.key, bind=BOUND, accept_new_options=True, help=row.help
    )
    usable = validated(row.key, lambda: _usable_reference(backend, row, (name or "").strip()))
    for choice in OFFERED[row.title]:
        if choice.name == name:
            terms = f"Licence: {choice.licence}. Size: {choice.size}. How it is read: {choice.reading}."
            show_hint(f"{choice.title}: {choice.summary}", *([terms] if choice.reading else []))
    if is_text:
        upload_button(backend, row.key)
    return usable


def _usable_reference(backend: Backend, row: FieldRow, name: str) -> str:
    """The name as it is. Raises SparseDashError where it cannot be used."""
    row.check(name)
    if problem := backend.reference_problem(cast(ReferenceField, row.title), name):
        raise SparseDashError(problem.message)
    return name


def expander(label: str, key: str, names: Sequence[str], opened: bool = False) -> DeltaGenerator:
    """An expander that is open at first where the address has a value for one of these fields, or if `opened`."""
    st.session_state.setdefault(key, opened or any(map(address_bar.query_value, names)))
    return st.expander(label, key=key, on_change="rerun")


def group_heading(heading: str) -> None:
    """Draw a heading over fields that belong together."""
    frame.show(element("h3", escape(heading), css="sd-group"))


def show_hint(*lines: str) -> None:
    """Draw small grey lines under a field."""
    if lines:
        frame.show(*(paragraph(line, css="sd-hint") for line in lines))


def validated(key: str, build: Callable[[], T]) -> T | None:
    """The value that `build` returns. Where it raises: None, with the error under the field and a red border."""
    try:
        return build()
    except SparseDashError as error:
        fields = ("[data-testid=stTextInputRootElement]", "[data-testid=stSelectbox] [role=group]")
        marked = ", ".join(f".st-key-{key} {field}" for field in fields)
        frame.show(Html(f"<style>{marked} {{ border-color: var(--broke) !important }}</style>"))
        _show_error(error)
        return None


def _show_error(error: SparseDashError) -> None:
    message = f"{error.message} {error.advice}".strip()
    frame.show(element("p", escape(message), css="sd-field-error", role="alert"))


def upload_button(backend: Backend, chooser: str) -> None:
    """Draw the upload button. chooser: the key of the field that is then set to the uploaded text."""
    with st.popover("Upload a text", icon=":material/upload_file:", type="tertiary"):
        refused: SparseDashError | None = st.session_state.get(f"{chooser}-refused")
        if refused:
            # Above the file: the window may cut off what is below it.
            _show_error(refused)
        st.file_uploader(
            "A file of texts",
            [kind.removeprefix(".") for kind in TEXT_KINDS],
            key=f"{chooser}-upload",
            max_upload_size=MAX_MEGABYTES,
            help=f"{_UPLOAD_HELP} {_who()} can choose it, and delete it.",
            on_change=_keep_upload,
            args=(backend, chooser),
        )
        chosen = str(st.session_state.get(chooser, ""))
        if not refused and chosen.startswith(UPLOAD):
            frame.note(f"Chosen: {wording.reference_title(chosen)}")


def show_uploads(backend: Backend, usual: Mapping[str, str]) -> None:
    """Draw the uploaded texts with their sizes and a delete button each; nothing where there are none.

    usual: the text that a field goes back to, by its key, when the one it has chosen is deleted.
    """
    kept = backend.uploads.kept()
    # The label stays the same: another one would make another expander, which is closed.
    if not kept or not (shown := st.expander("Uploaded texts", key="uploads", on_change="rerun")).open:
        return
    with shown:
        rules = serving_rules()
        room = wording.size(MAX_TOTAL_BYTES if rules is None else rules.quota.upload_mb * 1_000_000)
        frame.remark(
            f"{wording.size(sum(kept.values()))} of {room} are in use.",
            f"{_who().capitalize()} can choose these texts, and delete them.",
            "Results that were computed from them stay.",
        )
        for reference, n_bytes in kept.items():
            with st.container(horizontal=True, wrap=False, vertical_alignment="center"):
                frame.show(paragraph(f"{wording.reference_title(reference)}, {wording.size(n_bytes)}"))
                delete = partial(_delete_upload, backend, reference, usual)
                frame.action_button("Delete", delete, key=f"delete-{reference}", icon="delete", kind="tertiary")


def _who() -> str:
    return "everybody who uses this page" if serving_rules() is None else "you alone"


def _delete_upload(backend: Backend, reference: str, usual: Mapping[str, str]) -> None:
    """Delete an upload; fields that have chosen it go back to their usual text."""
    backend.uploads.drop(reference)
    for chooser, name in usual.items():
        if str(st.session_state.get(chooser, "")).partition("[")[0] == reference:
            st.session_state[chooser] = name


def _keep_upload(backend: Backend, chooser: str) -> None:
    """Store the uploaded file and choose it; a refusal leaves the choice as it is, and is shown until the next file."""
    file = st.session_state[f"{chooser}-upload"]
    if file is None:
        return
    st.session_state[f"{chooser}-refused"] = None
    try:
        st.session_state[chooser] = backend.uploads.keep(file.name, file.getvalue())
    except SparseDashError as error:
        st.session_state[f"{chooser}-refused"] = error
    finally:
        free_upload_memory(file)


def free_upload_memory(file: UploadedFile) -> None:
    """Free the memory of a file that was read: Streamlit keeps two copies for as long as the session lasts."""
    context = get_script_run_ctx(suppress_warning=True)
    if context is not None and isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        context.uploaded_file_mgr.remove_file(session_id=context.session_id, file_id=file.file_id)
    file.seek(0)
    file.truncate()
