"""The way to every page, on top of each: real links that carry the chosen run and what may be lost.

Streamlit's own menu forgets the address. Writing it again on arrival would put two steps into the browser's history
for one click, so that Back would seem to do nothing.
"""

import streamlit as st

from sparsedash.ui import carried

TITLES = {
    "overview": "Overview",
    "prune": "Prune",
    "jobs": "Jobs",
    "compare": "Compare",
    "layers": "Layers",
    "models": "Models",
    "published": "Published",
}
"""The pages by their files, in the order of the menu."""

_PLACE = "menu-place"


def begin(title: str) -> None:
    """Draw the menu on the page with this title."""
    carried.arrive(next(name for name, shown in TITLES.items() if shown == title))
    st.session_state[_PLACE] = st.container(key="menu").empty()
    draw()


def draw() -> None:
    """Draw the menu again, in its place: the page has chosen its run."""
    with st.session_state[_PLACE].container(horizontal=True):
        for name, title in TITLES.items():
            st.page_link(f"pages/{name}.py", label=title, query_params=carried.address(name) or None)
