"""The fields of the form. Each keeps its value in the page's address and shows under itself what is wrong with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import streamlit as st

from sparsedash.catalog.choices import CALIBRATION_CORPORA, EVALUATION_CORPORA, MODELS, Choice
from sparsedash.reporting.html import Html, element, escape, paragraph
from sparsedash.schema import validation
from sparsedash.schema.errors import SparseDashError
from sparsedash.service.backend import Backend
from sparsedash.service.problems import ReferenceField
from sparsedash.ui import address_bar, frame
from sparsedash.ui.address_bar import BOUND
from sparsedash.ui.form import uploads

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A field for a model or a text: a name from the catalog or any other reference.

    key: its name in the address. field: its name in the settings' complaints and problems.
    """

    key: str
    field: ReferenceField
    label: str
    help: str
    choices: tuple[Choice, ...]

    @property
    def takes_uploads(self) -> bool:
        """Whether it can also be a text of one's own that is uploaded."""
        return self.field != "model"


MODEL = Reference(
    key="model",
    field="model",
    label="Model",
    help="A name from the list, any Hugging Face id (with @revision if you like), a local folder or a .gguf file.",
    choices=MODELS,
)
PASSAGES = Reference(
    key="text",
    field="evaluation text",
    label="Passages to answer",
    help="A name from the list, or file:PATH of a .jsonl, .txt or .parquet file on the server.",
    choices=EVALUATION_CORPORA,
)
CALIBRATION = Reference(
    key="calibration",
    field="calibration text",
    label="Calibration text",
    help="The text whose activations decide what can go. A name from the list, or file:PATH on the server.",
    choices=CALIBRATION_CORPORA,
)


def reference(backend: Backend, field: Reference, usual: str | None = None) -> str | None:
    """The chosen model or text, or None where it cannot be used; the catalog's description is drawn underneath.

    usual: what the field begins with, and goes on with until the visitor chooses; None: the first choice.
    """
    names = [choice.name for choice in field.choices]
    if field.takes_uploads:
        names += uploads.offered(backend)
    first = names.index(usual or names[0])
    _follow(field.key, names[first])
    name = st.selectbox(
        field.label, names, index=first, key=field.key, bind=BOUND, accept_new_options=True, help=field.help
    )
    usable = checked(field.key, lambda: _usable(backend, field, (name or "").strip()))
    for choice in field.choices:
        if choice.name == name:
            hint(f"{choice.title}: {choice.summary}", *_terms(choice))
    if field.takes_uploads:
        uploads.field(backend, field.key)
    return usable


def _follow(key: str, usual: str) -> None:
    """Where what is usual has changed and the field still shows what was, let it show what is."""
    before = st.session_state.get(f"usual-{key}", usual)
    st.session_state[f"usual-{key}"] = usual
    if before != usual and st.session_state.get(key) == before:
        st.session_state[key] = usual


def _usable(backend: Backend, field: Reference, name: str) -> str:
    """The name as it is. Raises SparseDashError where it cannot be used."""
    validation.reference(field.field, name)
    if problem := backend.reference_problem(field.field, name):
        raise SparseDashError(problem.message)
    return name


def _terms(choice: Choice) -> list[str]:
    """On what terms a text set comes; nothing of a model."""
    if not choice.reading:
        return []
    return [f"Licence: {choice.licence}. Size: {choice.size}. How it is read: {choice.reading}."]


def whole(
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


def one_of(
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


def group(heading: str) -> None:
    """Draw a heading over fields that belong together."""
    frame.show(element("h3", escape(heading), css="sd-group"))


def hint(*lines: str) -> None:
    """Draw small grey lines under a field; nothing where there are none."""
    if lines:
        frame.show(*(paragraph(line, css="sd-hint") for line in lines))


def checked(key: str, build: Callable[[], T]) -> T | None:
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
