"""The fields in which a visitor says what may be lost."""

import streamlit as st

from sparsedash.ui import frame
from sparsedash.ui.address_bar import go
from sparsedash.ui.carried import POINTS, RATIO, tolerance


def choose_tolerance() -> None:
    """Draw the two fields that say what may be lost."""
    allowed = tolerance()
    with st.popover("What may be lost", type="tertiary"):
        _number(RATIO, "Word perplexity, times the dense model's", allowed.ratio, (1.01, 1000.0), 0.05)
        _number(POINTS, "Accuracy, points", allowed.points, (0.1, 100.0), 0.5)
        frame.note(
            "Within: the whole interval of word perplexity lies inside. Beyond: that of either measure lies outside."
        )


def _number(name: str, title: str, value: float, bounds: tuple[float, float], step: float) -> None:
    key = f"chosen-{name}"
    st.session_state[key] = min(max(value, bounds[0]), bounds[1])
    st.number_input(
        title,
        min_value=bounds[0],
        max_value=bounds[1],
        step=step,
        format="%.2f",
        key=key,
        on_change=lambda: go({name: f"{st.session_state[key]:g}"}),
    )
