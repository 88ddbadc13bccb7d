"""The menu on top of every page, and the run and tolerance that its links carry along.

Pages about a run name it in their addresses. On the others it is kept in the session state, so that the way back still
leads to the same run. Streamlit's own menu forgets the address, and a link to the page that is shown already tells the
server of its parameters, but not the browser: the address would stay as it was, and Back would lead away.
"""

from collections.abc import Mapping

import streamlit as st

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.fields import field_rows
from sparsedash.schema.settings import FindSettings
from sparsedash.stats.tolerance import Tolerance

RUN = "run"
RATIO, POINTS = (field_rows(FindSettings)[name].key for name in ("ratio", "points"))
"""Parameters of an address: the run's key, word perplexity as a multiple of dense's, and points of accuracy."""
ABOUT_A_RUN = ("overview", "compare", "layers", "models")
"""The pages, by their files, that are about one run."""
JUDGING = (*ABOUT_A_RUN, "runs")
"""The pages that judge by what may be lost, and so say that in their addresses."""

_STATE = "carried"


def remember_address(page_file: str) -> None:
    """Begin a page: what one about a run says in its address is taken along from there."""
    if page_file in ABOUT_A_RUN:
        _set_state({name: st.query_params.get(name, "") for name in (RUN, RATIO, POINTS)})
    elif page_file in JUDGING:
        _set_state({**_state(), **{name: st.query_params.get(name, "") for name in (RATIO, POINTS)}})


def remember_run(run: str) -> None:
    """Take this run along from now on."""
    _set_state({**_state(), RUN: run})


def current_tolerance() -> Tolerance:
    """The tolerance that is carried from page to page."""
    return parse_tolerance(_state())


def parse_tolerance(parameters: Mapping[str, str]) -> Tolerance:
    """The tolerance in these parameters of an address; the default where they hold none that is allowed."""
    usual = Tolerance()
    try:
        ratio, points = parameters.get(RATIO) or usual.ratio, parameters.get(POINTS) or usual.points
        return Tolerance(ratio=float(ratio), points=float(points))
    except (ValueError, SettingsError):
        return usual


def tolerance_query() -> dict[str, str]:
    """What a link has to say, so that the page it leads to judges by the same; nothing where that is the usual."""
    allowed, usual = current_tolerance(), Tolerance()
    found = {RATIO: (allowed.ratio, usual.ratio), POINTS: (allowed.points, usual.points)}
    return {name: f"{value:g}" for name, (value, otherwise) in found.items() if value != otherwise}


def search_tolerance_query(search: FindSettings | None) -> dict[str, str]:
    """What a link to a search's run has to say, so that it is judged by what was asked for; nothing of other runs."""
    return {} if search is None else {RATIO: f"{search.ratio:g}", POINTS: f"{search.points:g}"}


def adopt_search_tolerance(search: FindSettings | None) -> None:
    """Judge by what a search was asked for, where the address says nothing of what may be lost."""
    if search is None or any(_state().get(name) for name in (RATIO, POINTS)):
        return
    if (search.ratio, search.points) != (Tolerance().ratio, Tolerance().points):
        asked = search_tolerance_query(search)
        st.query_params.update(asked)
        _set_state({**_state(), **asked})


def page_query(page_file: str) -> dict[str, str]:
    """What a link to this page says of the run that is taken along, and of what may be lost."""
    run = _state().get(RUN, "") if page_file in ABOUT_A_RUN else ""
    return ({RUN: run} if run else {}) | (tolerance_query() if page_file in JUDGING else {})


def _state() -> Mapping[str, str]:
    found: Mapping[str, str] = st.session_state.get(_STATE, {})
    return found


def _set_state(values: Mapping[str, str]) -> None:
    st.session_state[_STATE] = dict(values)


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


def begin_menu(title: str) -> None:
    """Draw the menu on the page with this title."""
    _sync_address(title)
    remember_address(next(name for name, shown in TITLES.items() if shown == title))
    st.session_state[_PLACE] = st.container(key="menu").empty()
    draw_menu()


def draw_menu() -> None:
    """Draw the menu again, in its place: the page has chosen its run."""
    with st.session_state[_PLACE].container(horizontal=True):
        for name, title in TITLES.items():
            st.page_link(f"pages/{name}.py", label=title, query_params=page_query(name) or None)


def _sync_address(title: str) -> None:
    """Let the browser show what a link to the same page has asked for; what it shows already adds no step to Back."""
    here = (title, {name: st.query_params.get_all(name) for name in st.query_params})
    before = st.session_state.get(_SEEN, here)
    if before[0] == title and before != here:
        st.query_params.update({})
    st.session_state[_SEEN] = here
