"""The field of the model on the form: suggestions, the look-up on the hub, and what is known before
it is loaded.
"""

from collections.abc import Sequence
from functools import partial

import streamlit as st

from sparsedash.catalog.choices import MODELS
from sparsedash.reporting import wording
from sparsedash.schema.errors import SparseDashError
from sparsedash.schema.fields import FieldRow
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.settings import RunSettings
from sparsedash.service.backend import Backend
from sparsedash.service.request_checks import is_hub_id
from sparsedash.ui import form_fields, widgets


def model_field(backend: Backend, row: FieldRow) -> str | None:
    """Draw the field, what is known of its model, and suggestions. Returns None where it cannot be
    used.
    """
    model = form_fields.reference_field(backend, row)
    with st.container():
        if model is not None:
            _show_model_facts(backend, model)
    widgets.popover(
        "Suggested models", "suggested", partial(_suggest_models, row.key), "lists"
    )
    return model


def _suggest_models(field: str) -> None:
    """Draw the suggested models in their groups; a click fills in the field with this key."""

    def choose(key: str) -> None:
        if st.session_state[key]:
            st.session_state[field] = st.session_state[key]

    for group in dict.fromkeys(choice.group for choice in MODELS if choice.group):
        titles = {
            choice.name: choice.title for choice in MODELS if choice.group == group
        }
        key = f"suggested-{group}"
        chosen = st.session_state[field]
        st.session_state[key] = chosen if chosen in titles else None
        st.pills(
            group,
            titles,
            format_func=titles.__getitem__,
            key=key,
            on_change=choose,
            args=(key,),
        )


_NOT_FOUND = "look-up-failed"
"""A model that was looked up on the hub in vain, and the error."""


def was_refused(settings: RunSettings | FindSettings | None) -> bool:
    """Whether the model was looked up on the hub in vain."""
    model, _ = st.session_state.get(_NOT_FOUND, ("", None))
    return settings is not None and settings.model == model


def _look_up(backend: Backend, model: str) -> None:
    st.session_state.pop(_NOT_FOUND, None)
    try:
        backend.fetch_config(model)
    except SparseDashError as error:
        st.session_state[_NOT_FOUND] = (model, error)


def _show_model_facts(backend: Backend, model: str) -> None:
    """Draw the family and sizes of the model, as far as they are known before it is loaded."""
    named = backend.named_model(model)
    if named is None:
        where = "Not on this machine yet. " if is_hub_id(model) else ""
        form_fields.show_hint(
            f"{where}Family, memory and time are known once it has been read."
        )
        if is_hub_id(model):
            widgets.action_button(
                "Look it up on the hub",
                lambda: _look_up(backend, model),
                key="look-up",
                kind="tertiary",
                icon="travel_explore",
                help="Fetches config.json, a few kilobytes and no weights, to estimate time and memory.",
            )
            about, error = st.session_state.get(_NOT_FOUND, ("", None))
            if about == model:
                form_fields.show_problem("model", error)
        return
    if named.shape is None and not named.problem:
        with st.spinner("Reading the structure of the model"):
            backend.inspect_config(model)
        named = backend.named_model(model) or named
    shape = named.shape
    family = f"Family: {named.family}. " if named.family else ""
    if named.problem:
        form_fields.show_hint(f"{family}{named.problem}")
        return
    if shape is None:
        form_fields.show_hint(
            f"{family}Sizes, memory and time are known once it has been read."
        )
        return
    hint = (
        f"{family}{_blocks_words(shape)}, {wording.weights_of(shape, shape.whole)}, "
        f"{wording.size(4 * shape.n_parameters)} in FP32."
    )
    if shape.n_beside:
        tower = wording.weights(shape.n_beside)
        hint += f" Only its language model is pruned: the {tower} weights beside it stay as they are."
    form_fields.show_hint(hint)


def _blocks_words(shape: ModelShape) -> str:
    """ "30 blocks of 1,536 channels"; of a mixture how many blocks have how many experts."""
    words = wording.quantity(len(shape.widths), "block")
    widths = _counts_words(shape.widths)
    mixtures = list(shape.structure.mixtures.values())
    if not mixtures:
        return f"{words} of {widths} channels" if widths else words
    if len(mixtures) < len(shape.widths):
        words += f", {len(mixtures)} of them"
    n_chosen = _counts_words([layout.n_chosen for layout in mixtures])
    words += f" with {_counts_words(shape.experts)} experts, {n_chosen} for each token"
    return f"{words}; MLPs of {widths} channels" if widths else words


def _counts_words(counts: Sequence[int]) -> str:
    """ "1,536", "512 to 1,536": those above 0; empty where there are none."""
    ends = sorted(set(counts) - {0})
    return " to ".join(f"{end:,}" for end in dict.fromkeys([*ends[:1], *ends[-1:]]))
