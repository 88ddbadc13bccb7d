"""The two views of the compare page, with the models' names and without, and the switch between them."""

from typing import Protocol

import streamlit as st

from sparsedash.reporting.record_pair import Pair
from sparsedash.reporting.side_by_side import SideBySide
from sparsedash.schema.records import Passages, Run
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar
from sparsedash.ui.compare import blind_view, open_view
from sparsedash.ui.compare.change_filter import CHANGE
from sparsedash.ui.compare.kinds import OTHER_WORDS
from sparsedash.ui.compare.selectors import About, Places, Shown

_MODE = "blind-mode"


class View(Protocol):
    """The steps in which the two views differ; `blind_view` and `open_view` have a function for each."""

    def begin(self, backend: Backend, run: Run, pair: Pair, basis: str, places: About) -> None:
        """Draw the page's first sentence, and in its places more on it. basis: what it rests on, but for the names."""

    def choose_passages(
        self, backend: Backend, run: Run, chosen: Pair, passages: Passages | None, places: Places
    ) -> Shown:
        """Draw the choices among the passages. Returns those that can be stepped through."""

    def sides(self, backend: Backend, pair: Pair, subject: str) -> SideBySide:
        """How the two models are shown for one passage or prompt, which is called `subject`."""

    def judge(self, backend: Backend, seen: SideBySide, subject: str) -> None:
        """Draw the way to say which side is better, where there is one."""


def view_asked_for() -> View:
    """The view that the address names; with the models' names unless it says otherwise."""
    if _is_blind():
        return blind_view
    return open_view


def choose_view() -> None:
    """Draw the switch between the two; the address says whether it is on."""
    st.session_state[_MODE] = _is_blind()
    st.toggle(
        "Blind",
        key=_MODE,
        on_change=_switch,
        help="Hides which model is which until you have said which answer is better.",
    )


def _is_blind() -> bool:
    return address_bar.asked("mode") == "blind"


def _switch() -> None:
    """What is filtered and sorted by tells which side is right, so the address forgets it."""
    if st.session_state[_MODE]:
        address_bar.go({"mode": "blind", "filter": "", "sort": "", OTHER_WORDS: "", CHANGE: "", "passage": ""})
    else:
        address_bar.go({"mode": ""})
