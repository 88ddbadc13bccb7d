"""Fields of the form: models, texts, uploads, numbers, choices, each kept in the page's address."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import streamlit as st
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from sparsedash.catalog.choices import CALIBRATION_CORPORA, EVALUATION_CORPORA, MODELS, CatalogEntry
from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, element, escape, paragraph
from sparsedash.schema import plain_values
from sparsedash.schema.errors import SparseDashError
from sparsedash.service.backend import Backend
from sparsedash.service.request_checks import ReferenceField
from sparsedash.storage.text_files import MAX_MEGABYTES, MAX_TOTAL_BYTES, TEXT_KINDS, UPLOAD
from sparsedash.storage.users import serving_rules
from sparsedash.ui import address_bar, frame
from sparsedash.ui.address_bar import BOUND

_HOW = (
    "A .jsonl file has one JSON object with a text field in each line, a .txt file blank lines between its texts, a "
    f".parquet file a column named text. At most {MAX_MEGABYTES} MB. It is kept in the server's data folder, where "
)
_SHARED = "everybody who uses this page can choose it, and delete it."
_OWN = "you alone can choose it, and delete it."
_IN_USE = "{taken} of {room} are in use. {whose} Results that were computed from them stay."


def uploaded_texts(backend: Backend) -> list[str]:
    """The references of the texts that were uploaded before, newest first."""
    return list(backend.uploads.kept())


def upload_button(backend: Backend, chooser: str) -> None:
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
            help=_HOW + (_SHARED if serving_rules() is None else _OWN),
            on_change=_keep_upload,
            args=(backend, chooser),
        )
        chosen = str(st.session_state.get(chooser, ""))
        if not refused and chosen.startswith(UPLOAD):
            frame.note(f"Chosen: {wording.reference_title(chosen)}")


def show_uploads(backend: Backend, usual: Mapping[str, str]) -> None:
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
                frame.show(paragraph(f"{wording.reference_title(reference)}, {wording.size(n_bytes)}"))
                st.button(
                    "Delete",
                    key=f"delete-{reference}",
                    type="tertiary",
                    icon=":material/delete:",
                    on_click=frame.attempt,
                    args=(lambda name=reference: _drop(backend, name, usual),),
                )


def _in_use(n_bytes: int) -> str:
    rules = serving_rules()
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


def _keep_upload(backend: Backend, chooser: str) -> None:
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
        free_upload_memory(file)


def free_upload_memory(file: UploadedFile) -> None:
    """Free the memory that a file takes which was read: Streamlit keeps it, twice, for as long as the visitor stays."""
    context = get_script_run_ctx(suppress_warning=True)
    if context is not None and isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        context.uploaded_file_mgr.remove_file(session_id=context.session_id, file_id=file.file_id)
    file.seek(0)
    file.truncate()


def _refusal(chooser: str) -> str:
    return f"{chooser}-refused"


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """A field for a model or a text: a name from the catalog or any other reference.

    key: its name in the address. field: its name in the settings' complaints and problems.
    """

    key: str
    field: ReferenceField
    label: str
    help: str
    choices: tuple[CatalogEntry, ...]

    @property
    def takes_uploads(self) -> bool:
        """Whether it can also be a text of one's own that is uploaded."""
        return self.field != "model"


MODEL_FIELD = Chooser(
    key="model",
    field="model",
    label="Model",
    help="A name from the list, any Hugging Face id (with @revision if you like), a local folder or a .gguf file.",
    choices=MODELS,
)
PASSAGES_FIELD = Chooser(
    key="text",
    field="evaluation text",
    label="Passages to answer",
    help="A name from the list, or file:PATH of a .jsonl, .txt or .parquet file on the server.",
    choices=EVALUATION_CORPORA,
)
CALIBRATION_FIELD = Chooser(
    key="calibration",
    field="calibration text",
    label="Calibration text",
    help="The text whose activations decide what can go. A name from the list, or file:PATH on the server.",
    choices=CALIBRATION_CORPORA,
)


def reference_field(backend: Backend, field: Chooser, usual: str | None = None) -> str | None:
    """The chosen model or text, or None where it cannot be used; the catalog's description is drawn underneath.

    usual: what the field begins with, and goes on with until the visitor chooses; None: the first choice.
    """
    names = [choice.name for choice in field.choices]
    if field.takes_uploads:
        names += uploaded_texts(backend)
    first = names.index(usual or names[0])
    _follow(field.key, names[first])
    name = st.selectbox(
        field.label, names, index=first, key=field.key, bind=BOUND, accept_new_options=True, help=field.help
    )
    usable = validated(field.key, lambda: _usable(backend, field, (name or "").strip()))
    for choice in field.choices:
        if choice.name == name:
            show_hint(f"{choice.title}: {choice.summary}", *_terms(choice))
    if field.takes_uploads:
        upload_button(backend, field.key)
    return usable


def _follow(key: str, usual: str) -> None:
    """Where what is usual has changed and the field still shows what was, let it show what is."""
    before = st.session_state.get(f"usual-{key}", usual)
    st.session_state[f"usual-{key}"] = usual
    if before != usual and st.session_state.get(key) == before:
        st.session_state[key] = usual


def _usable(backend: Backend, field: Chooser, name: str) -> str:
    """The name as it is. Raises SparseDashError where it cannot be used."""
    plain_values.require_reference(field.field, name)
    if problem := backend.reference_problem(field.field, name):
        raise SparseDashError(problem.message)
    return name


def _terms(choice: CatalogEntry) -> list[str]:
    """On what terms a text set comes; nothing of a model."""
    if not choice.reading:
        return []
    return [f"Licence: {choice.licence}. Size: {choice.size}. How it is read: {choice.reading}."]


def whole_number_field(
    key: str, label: str, low: int, high: int, value: int | None, empty: str = "", about: str | None = None
) -> int | None:
    """A field for a whole number; None while it is empty."""
    number = st.number_input(
        label,
        min_value=low,
        max_value=high,
        value=value,
        step=1,
        key=key,
        bind=address_bar.bound(key),
        placeholder=empty or None,
        help=about,
    )
    return None if number is None else int(number)


def choice_field(
    key: str,
    label: str,
    options: tuple[T, ...],
    about: str | None = None,
    *,
    usual: T | None = None,
    disabled: bool = False,
) -> T:
    """A field for one of a few; the usual one, or the first of them, unless the visitor chooses another."""
    first = options[0] if usual is None else usual
    chosen = st.selectbox(
        label, options, index=options.index(first), key=key, bind=BOUND, help=about, filter_mode=None, disabled=disabled
    )
    return chosen or first


def group_heading(heading: str) -> None:
    """Draw a heading over fields that belong together."""
    frame.show(element("h3", escape(heading), css="sd-group"))


def show_hint(*lines: str) -> None:
    """Draw small grey lines under a field; nothing where there are none."""
    if lines:
        frame.show(*(paragraph(line, css="sd-hint") for line in lines))


def validated(key: str, build: Callable[[], T]) -> T | None:
    """What `build` returns; or None where it raises, with the error drawn under the field and its border marked."""
    try:
        return build()
    except SparseDashError as error:
        fields = ("[data-testid=stTextInputRootElement]", "[data-testid=stSelectbox] [role=group]")
        marked = ", ".join(f".st-key-{key} {field}" for field in fields)
        frame.show(Html(f"<style>{marked} {{ border-color: var(--broke) !important }}</style>"))
        message = f"{error.message} {error.advice}".strip()
        frame.show(element("p", escape(message), css="sd-field-error", role="alert"))
        return None
