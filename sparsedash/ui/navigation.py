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
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.ui import browser_scripts

RUN = "run"
LIMITS = "limits"
"""Parameters of an address: the run's key, and the tolerance as `limits_text` writes it."""
ABOUT_A_RUN = ("overview", "compare", "models")
"""The files of the pages about one run."""
JUDGING = (*ABOUT_A_RUN, "prune", "runs")
"""The files of the pages that have the tolerance in their addresses."""

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
    return parse_limits(_state().get(LIMITS, ""))


def parse_limits(text: str) -> Tolerance:
    """The tolerance in a text of `limits_text`; parts that are missing or invalid by default."""
    tolerance = Tolerance()
    ratio, points, *tasks = [*text.split(","), ""]
    with suppress(ValueError, SettingsError):
        tolerance = replace(tolerance, ratio=float(ratio))
    with suppress(ValueError, SettingsError):
        tolerance = replace(tolerance, points=float(points))
    for part in tasks:
        task, _, points = part.rpartition(":")
        with suppress(ValueError, SettingsError):
            limit = (unquote(task), float(points))
            tolerance = replace(tolerance, tasks=(*tolerance.tasks, limit))
    return tolerance


def limits_text(tolerance: Tolerance) -> str:
    """ "1.1,2,piqa:3": ratio of perplexities, points of accuracy, points of single tasks."""
    # The file of a task may have a comma in its name.
    tasks = (f"{quote(task, safe=':/')}:{points:g}" for task, points in tolerance.tasks)
    return ",".join([f"{tolerance.ratio:g}", f"{tolerance.points:g}", *tasks])


def tolerance_query() -> dict[str, str]:
    """The tolerance as a parameter of a link, if the address has one."""
    return whole_tolerance_query(current_tolerance()) if _state().get(LIMITS) else {}


def whole_tolerance_query(tolerance: Tolerance) -> dict[str, str]:
    """This tolerance as a parameter of a link, the default as well."""
    return {LIMITS: limits_text(tolerance)}


def search_tolerance_query(search: FindSettings | None) -> dict[str, str]:
    """The tolerance of a search as a parameter of a link; empty for None."""
    return {} if search is None else whole_tolerance_query(search.tolerance)


def adopt_search_tolerance(search: FindSettings | None) -> None:
    """Judge by the tolerance of a search, where the address has none."""
    if search is None or _state().get(LIMITS) or search.tolerance == Tolerance():
        return
    query = whole_tolerance_query(search.tolerance)
    st.query_params.update(query)
    remember(query)


def _state() -> Mapping[str, str]:
    state: Mapping[str, str] = st.session_state.get(_STATE, {})
    return state


def remember(changed: Mapping[str, str]) -> None:
    """Keep these parameters, of a run or the tolerance, for the links of the menu."""
    st.session_state[_STATE] = {**_state(), **changed}


def begin_menu(title: str) -> None:
    """Draw the menu on the page with this title, and keep what its address says for the links."""
    browser_scripts.shorten_back()
    _sync_address(title)
    page_file = next(name for name, shown in TITLES.items() if shown == title)
    if page_file in ABOUT_A_RUN:
        remember({RUN: st.query_params.get(RUN, "")})
    if page_file in JUDGING:
        remember({LIMITS: st.query_params.get(LIMITS, "")})
    st.session_state[_PLACE] = st.container(key="menu").empty()
    draw_menu()


def draw_menu() -> None:
    """Draw the menu again in its place, once the page has chosen its run."""
    with st.session_state[_PLACE].container(horizontal=True):
        for name, title in TITLES.items():
            query = {}
            if name in ABOUT_A_RUN and _state().get(RUN):
                query[RUN] = _state()[RUN]
            if name in JUDGING:
                query |= tolerance_query()
            st.page_link(
                f"pages/{name}.py",
                label=title,
                query_params=query or None,
            )
        browser_scripts.mark_current_page(st.session_state[_SEEN][0])


def _sync_address(title: str) -> None:
    """Have the browser show the address of a link to the same page; this adds no step to Back."""
    here = (title, {name: st.query_params.get_all(name) for name in st.query_params})
    before = st.session_state.get(_SEEN, here)
    if before[0] == title and before != here:
        st.query_params.update({})
    st.session_state[_SEEN] = here
