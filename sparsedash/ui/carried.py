"""What a visitor takes along from page to page: the chosen run, and what may be lost.

The pages about a run say it in their addresses. On the others it is remembered, so that their addresses hold nothing
that is not theirs and the way back still leads to the same run.
"""

from collections.abc import Mapping

import streamlit as st

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.searches import FindSettings
from sparsedash.stats.tolerance import Tolerance

RUN, RATIO, POINTS = "run", "within", "points"
"""Parameters of an address: the run's key, word perplexity as a multiple of dense's, and points of accuracy."""
ABOUT_A_RUN = ("overview", "compare", "layers", "models")
"""The pages, by their files, that are about one run."""
JUDGING = (*ABOUT_A_RUN, "runs")
"""The pages that judge by what may be lost, and so say that in their addresses."""

_KEPT = "carried"


def arrive(page_file: str) -> None:
    """Begin a page: what one about a run says in its address is taken along from there."""
    if page_file in ABOUT_A_RUN:
        _keep({name: st.query_params.get(name, "") for name in (RUN, RATIO, POINTS)})
    elif page_file in JUDGING:
        _keep({**_kept(), **{name: st.query_params.get(name, "") for name in (RATIO, POINTS)}})


def choose(run: str) -> None:
    """Take this run along from now on."""
    _keep({**_kept(), RUN: run})


def tolerance() -> Tolerance:
    """The tolerance that is carried from page to page."""
    return tolerance_of(_kept())


def tolerance_of(parameters: Mapping[str, str]) -> Tolerance:
    """The tolerance in these parameters of an address; the default where they hold none that is allowed."""
    usual = Tolerance()
    try:
        ratio, points = parameters.get(RATIO) or usual.ratio, parameters.get(POINTS) or usual.points
        return Tolerance(ratio=float(ratio), points=float(points))
    except (ValueError, SettingsError):
        return usual


def tolerance_address() -> dict[str, str]:
    """What a link has to say, so that the page it leads to judges by the same; nothing where that is the usual."""
    allowed, usual = tolerance(), Tolerance()
    found = {RATIO: (allowed.ratio, usual.ratio), POINTS: (allowed.points, usual.points)}
    return {name: f"{value:g}" for name, (value, otherwise) in found.items() if value != otherwise}


def asked_tolerance(search: FindSettings | None) -> dict[str, str]:
    """What a link to a search's run has to say, so that it is judged by what was asked for; nothing of other runs."""
    return {} if search is None else {RATIO: f"{search.ratio:g}", POINTS: f"{search.points:g}"}


def judge_as_asked(search: FindSettings | None) -> None:
    """Judge by what a search was asked for, where the address says nothing of what may be lost."""
    if search is None or any(_kept().get(name) for name in (RATIO, POINTS)):
        return
    if (search.ratio, search.points) != (Tolerance().ratio, Tolerance().points):
        asked = asked_tolerance(search)
        st.query_params.update(asked)
        _keep({**_kept(), **asked})


def address(page_file: str) -> dict[str, str]:
    """What a link to this page says of the run that is taken along, and of what may be lost."""
    run = _kept().get(RUN, "") if page_file in ABOUT_A_RUN else ""
    return ({RUN: run} if run else {}) | (tolerance_address() if page_file in JUDGING else {})


def _kept() -> Mapping[str, str]:
    found: Mapping[str, str] = st.session_state.get(_KEPT, {})
    return found


def _keep(values: Mapping[str, str]) -> None:
    st.session_state[_KEPT] = dict(values)
