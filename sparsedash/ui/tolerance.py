"""The fields of the tolerance: word perplexity and accuracy.

They write the address themselves: Streamlit drops a parameter that a page binds to a widget from links to other pages,
and refuses to set it.
"""

import streamlit as st

from sparsedash.ui import frame
from sparsedash.ui.address_bar import go
from sparsedash.ui.carried import POINTS, RATIO, tolerance


def choose_tolerance() -> None:
    """Draw the two fields that say what may be lost."""
    allowed = tolerance()
    with st.popover("What may be lost", type="tertiary"):
        ratio_field("Word perplexity, times the dense model's", allowed.ratio)
        points_field("Accuracy, points", allowed.points)
        frame.note(
            "Within: the whole interval of word perplexity lies inside. Beyond: that of either measure lies outside."
        )


def ratio_field(title: str, value: float) -> None:
    """Draw the field of the word perplexity that is allowed, as a multiple of the dense model's."""
    _number(RATIO, title, value, (1.01, 1000.0), 0.05)


def points_field(title: str, value: float) -> None:
    """Draw the field of the points of accuracy that may be lost."""
    _number(POINTS, title, value, (0.1, 100.0), 0.5)


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
