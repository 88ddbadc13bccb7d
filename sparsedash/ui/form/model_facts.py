"""What is said of a model under its field, as soon as it is named."""

import streamlit as st

from sparsedash.reporting import wording
from sparsedash.service.backend import Backend
from sparsedash.service.problems import is_hub_id
from sparsedash.ui import frame
from sparsedash.ui.form.fields import hint


def show_facts(backend: Backend, model: str) -> None:
    """Draw family and sizes as far as they are known without loading it, or that they are not."""
    named = backend.named_model(model)
    if named is None:
        hint("It is not on this machine yet: family, memory and time are known once it has been read.")
        if is_hub_id(model):
            _offer_config(backend, model)
        return
    counted = named.counted
    if counted is None:
        hint(f"Family: {named.family}. Its sizes, and so memory and time, are known once it has been read.")
        return
    family = f"Family: {named.family}. " if named.family else ""
    widths = sorted(set(counted.widths))
    width = f"{widths[0]:,}" if len(widths) == 1 else f"{widths[0]:,} to {widths[-1]:,}"
    hint(
        f"{family}{len(counted.widths)} blocks of {width} channels, "
        f"{wording.weights(counted.n_parameters)} weights, {wording.size(4 * counted.n_parameters)} in FP32."
    )


def _offer_config(backend: Backend, model: str) -> None:
    """A button that asks the hub for the model's config: a few kilobytes, and only if somebody wants it."""
    st.button(
        "Look it up on the hub",
        key="look-up",
        type="tertiary",
        icon=":material/travel_explore:",
        help="Fetches its config.json, a few kilobytes, and none of its weights: what it will take is known then.",
        on_click=frame.attempt,
        args=(lambda: backend.fetch_config(model),),
    )
