"""The menu on top of every page, and the run and tolerance that its links carry along.

Pages about a run name it in their addresses. On the others it is kept in the session state, so that
the way back still leads to the same run. Streamlit's own menu forgets the address, and a link to
the page that is shown already tells the server of its parameters, but not the browser: the address
would stay as it was, and Back would lead away.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from urllib.parse import quote, unquote

import streamlit as st

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.fields import field_rows
from sparsedash.schema.find_settings import FindSettings
from sparsedash.stats.tolerance import Tolerance
from sparsedash.ui import browser_scripts

RUN = "run"
RATIO, POINTS = (field_rows(FindSettings)[name].key for name in ("ratio", "points"))
"""Parameters of an address: the run's key, and the tolerance in word perplexity and in points of
accuracy.
"""
TASK_LIMITS = "limits"
"""The parameter with the points of single tasks: "piqa:3,boolq:5"."""
_TOLERANCE = (RATIO, POINTS, TASK_LIMITS)
ABOUT_A_RUN = ("overview", "compare", "models")
"""The files of the pages about one run."""
JUDGING = (*ABOUT_A_RUN, "prune", "runs")
"""The files of the pages that judge or search by the tolerance, and so have it in their
addresses.
"""

TITLES = {
    "overview": "Overview",
    "prune": "Prune",
    "runs": "Runs",
    "compare": "Compare",
    "models": "Models",
    "settings": "Settings",
}
"""Titles by the pages' files, in the order of the menu."""

_STATE = "carried"
_PLACE = "menu-place"
_SEEN = "address-seen"


def current_tolerance() -> Tolerance:
    """The session's tolerance."""
    return parse_tolerance(_state())


def parse_tolerance(parameters: Mapping[str, str]) -> Tolerance:
    """The tolerance in these parameters of an address; the default of each that they do not hold,
    or not as valid.
    """
    found = Tolerance()
    with suppress(ValueError, SettingsError):
        found = replace(found, ratio=float(parameters.get(RATIO) or found.ratio))
    with suppress(ValueError, SettingsError):
        found = replace(found, points=float(parameters.get(POINTS) or found.points))
    for part in parameters.get(TASK_LIMITS, "").split(","):
        task, _, points = part.rpartition(":")
        with suppress(ValueError, SettingsError):
            found = replace(found, tasks=(*found.tasks, (unquote(task), float(points))))
    return found


def task_limits(tolerance: Tolerance) -> str:
    """The points of single tasks as `parse_tolerance` reads them."""
    # The file of a task may have a comma in its name.
    return ",".join(f"{quote(task, safe=':/')}:{points:g}" for task, points in tolerance.tasks)


def tolerance_query() -> dict[str, str]:
    """The tolerance as parameters of a link, as far as the address has it: without, a search is
    judged by its own.
    """
    found = whole_tolerance_query(current_tolerance())
    return {name: value for name, value in found.items() if _state().get(name)}


def whole_tolerance_query(allowed: Tolerance | FindSettings | None) -> dict[str, str]:
    """This tolerance, or that of a search, as parameters of a link, the default as well; empty for
    None.
    """
    if allowed is None:
        return {}
    tasks = (
        {TASK_LIMITS: task_limits(allowed)}
        if isinstance(allowed, Tolerance) and allowed.tasks
        else {}
    )
    return {RATIO: f"{allowed.ratio:g}", POINTS: f"{allowed.points:g}"} | tasks


def adopt_search_tolerance(search: FindSettings | None) -> None:
    """Judge by the tolerance of a search, where the address has none."""
    if search is None or any(_state().get(name) for name in (RATIO, POINTS)):
        return
    if (search.ratio, search.points) != (Tolerance().ratio, Tolerance().points):
        asked = whole_tolerance_query(search)
        st.query_params.update(asked)
        remember(asked)


def _state() -> Mapping[str, str]:
    found: Mapping[str, str] = st.session_state.get(_STATE, {})
    return found


def remember(changed: Mapping[str, str]) -> None:
    """Keep these parameters, of a run or the tolerance, for the links of the menu."""
    st.session_state[_STATE] = {**_state(), **changed}


def begin_menu(title: str) -> None:
    """Draw the menu on the page with this title, and keep what its address says for the links."""
    browser_scripts.shorten_back()
    _sync_address(title)
    page_file = next(name for name, shown in TITLES.items() if shown == title)
    kept = (
        (RUN, *_TOLERANCE)
        if page_file in ABOUT_A_RUN
        else _TOLERANCE
        if page_file in JUDGING
        else ()
    )
    remember({name: st.query_params.get(name, "") for name in kept})
    st.session_state[_PLACE] = st.container(key="menu").empty()
    draw_menu()


def draw_menu() -> None:
    """Draw the menu again in its place, once the page has chosen its run."""
    with st.session_state[_PLACE].container(horizontal=True):
        for name, title in TITLES.items():
            run = _state().get(RUN, "") if name in ABOUT_A_RUN else ""
            query = ({RUN: run} if run else {}) | (tolerance_query() if name in JUDGING else {})
            st.page_link(f"pages/{name}.py", label=title, query_params=query or None)
        browser_scripts.mark_current_page(st.session_state[_SEEN][0])


def _sync_address(title: str) -> None:
    """Have the browser show the address of a link to the same page; what it shows already adds no
    step to Back.
    """
    here = (title, {name: st.query_params.get_all(name) for name in st.query_params})
    before = st.session_state.get(_SEEN, here)
    if before[0] == title and before != here:
        st.query_params.update({})
    st.session_state[_SEEN] = here
