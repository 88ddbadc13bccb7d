"""What a visitor allows to be lost: in the address of every page that judges a run."""

import streamlit as st

from sparsedash.schema.errors import SettingsError
from sparsedash.stats.tolerance import Tolerance
from sparsedash.ui import frame
from sparsedash.ui.address_bar import asked, go

RATIO, POINTS = "within", "points"
"""The parameters of the address: word perplexity as a multiple of dense's, and points of accuracy."""


def tolerance() -> Tolerance:
    """What the address says, or as usual where it says nothing that is possible."""
    usual = Tolerance()
    try:
        return Tolerance(ratio=float(asked(RATIO) or usual.ratio), points=float(asked(POINTS) or usual.points))
    except (ValueError, SettingsError):
        return usual


def tolerance_address() -> dict[str, str]:
    """What a link has to carry, so that the page it leads to judges by the same; nothing where that is the usual."""
    allowed, usual = tolerance(), Tolerance()
    found = {RATIO: (allowed.ratio, usual.ratio), POINTS: (allowed.points, usual.points)}
    return {name: f"{value:g}" for name, (value, otherwise) in found.items() if value != otherwise}


def choose_tolerance() -> None:
    """Draw the two fields that say what may be lost."""
    allowed = tolerance()
    with st.popover("What may be lost", type="tertiary"):
        _number(RATIO, "Word perplexity, times the dense model's", allowed.ratio, (1.01, 1000.0), 0.05)
        _number(POINTS, "Accuracy, points", allowed.points, (0.1, 100.0), 0.5)
        frame.note("A sparse model is within when its whole interval stays inside both, beyond when one is outside.")


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
