"""The way to every page, on top of each: real links that carry the chosen run and what may be lost.

Streamlit's own menu forgets the address, and a link to the page that is shown already tells the server of its
parameters, but not the browser: the address would stay as it was, and Back would lead away.
"""

import streamlit as st

from sparsedash.ui import carried

TITLES = {
    "overview": "Overview",
    "prune": "Prune",
    "jobs": "Jobs",
    "runs": "Runs",
    "compare": "Compare",
    "layers": "Layers",
    "models": "Models",
    "published": "Published",
    "storage": "Storage",
}
"""The pages by their files, in the order of the menu."""

_PLACE = "menu-place"
_SEEN = "address-seen"


def begin(title: str) -> None:
    """Draw the menu on the page with this title."""
    _show_address(title)
    carried.arrive(next(name for name, shown in TITLES.items() if shown == title))
    st.session_state[_PLACE] = st.container(key="menu").empty()
    draw()


def draw() -> None:
    """Draw the menu again, in its place: the page has chosen its run."""
    with st.session_state[_PLACE].container(horizontal=True):
        for name, title in TITLES.items():
            st.page_link(f"pages/{name}.py", label=title, query_params=carried.address(name) or None)


def _show_address(title: str) -> None:
    """Let the browser show what a link to the same page has asked for; what it shows already adds no step to Back."""
    here = (title, {name: st.query_params.get_all(name) for name in st.query_params})
    before = st.session_state.get(_SEEN, here)
    if before[0] == title and before != here:
        st.query_params.update({})
    st.session_state[_SEEN] = here
