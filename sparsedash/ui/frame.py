"""The frame of every page: its set-up, the backend with the user's rights, jobs that ended, theme and
time zone.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import tzinfo
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from sparsedash.jobs.job import LONG, Job
from sparsedash.reporting.charts.chart_style import Theme, theme_switch_css
from sparsedash.reporting.html import widget_label
from sparsedash.reporting.job_status import STATES, job_name
from sparsedash.reporting.run_pictures import PICTURES
from sparsedash.schema.errors import SparseDashError
from sparsedash.service.backend import Backend
from sparsedash.storage.local_machine import data_folder
from sparsedash.storage.serving import Serving, serving_rules
from sparsedash.ui import browser_scripts, login, navigation, widgets

_NOTICE_S = 2.0
"""How often any page asks whether a job has ended."""
_JOBS_ANNOUNCED = 50
"""Jobs whose end is announced, newest first."""

_ANNOUNCED = "notices-told"
_ICONS = {"done": "check_circle", "cancelled": "cancel"}
_STYLE = Path(__file__).with_name("style.css")
_MARK = str(Path(__file__).with_name("mark.svg"))
_WORDMARK = str(Path(__file__).with_name("wordmark.svg"))
_opening_backend = threading.Lock()


def page(title: str) -> Backend:
    """Set the page up and return the backend with the rights of its user; the first call of a page.

    Draws the menu and announces jobs that ended. Stops the script with an error message when the
    data folder cannot be used.
    """
    st.set_page_config(
        page_title=f"{title} · SparseDash",
        page_icon=_MARK,
        layout="wide",
    )
    st.logo(_WORDMARK)
    st.html(_STYLE)
    st.html(PICTURES)
    st.html(f"<style>{theme_switch_css()}</style>")
    navigation.begin_menu(title)
    login.draw_user()
    try:
        opened = backend()
        rules = serving_rules()
        if rules is not None:
            opened = _seen_by(opened, login.current_user(), rules)
        if _ANNOUNCED not in st.session_state:
            # Not by the times at which jobs ended: the clock may be set meanwhile.
            ended = {
                (job.id, job.attempt)
                for job in opened.jobs(_JOBS_ANNOUNCED)
                if not job.live
            }
            st.session_state[_ANNOUNCED] = ended
        _announce_endings(opened)
        return opened
    except SparseDashError as error:
        widgets.opening("SparseDash cannot start.")
        widgets.failure(error.message, error.advice)
        st.stop()


def backend() -> Backend:
    """The one backend of this server. Raises StoreError while the data folder cannot be used."""
    with _opening_backend:
        return _backend()


@lru_cache(maxsize=1)
def _backend() -> Backend:
    return Backend(data_folder())


@lru_cache(maxsize=256)
def _seen_by(opened: Backend, user: str, rules: Serving) -> Backend:
    """One object for each user: what is cached of a backend is found by it."""
    return opened.seen_by(user, rules)


def _announce_endings(backend: Backend) -> None:
    """Announce jobs that ended since the session began, and watch those that are live."""
    jobs = backend.jobs(_JOBS_ANNOUNCED)
    for job in _unannounced(jobs):
        st.session_state[_ANNOUNCED].add((job.id, job.attempt))
        title = job_name(backend, job)
        word = STATES[job.state][1].lower()
        icon = f":material/{_ICONS.get(job.state, 'error')}:"
        st.toast(
            f"{widget_label(title)}: {word}. [See the jobs](runs?view=jobs)",
            icon=icon,
            duration="long",
        )
        browser_scripts.notify(
            "SparseDash", f"{title}: {word}.", f"sparsedash-{job.id}-{job.attempt}"
        )
    if any(job.live for job in jobs):
        _watch_endings(backend)


@st.fragment(run_every=_NOTICE_S)
def _watch_endings(backend: Backend) -> None:
    # Announced by the page's next run: what a fragment draws is lost if another one reruns the page
    # at the same moment.
    with suppress(SparseDashError):  # The next page that is opened says what is wrong.
        if _unannounced(backend.jobs(_JOBS_ANNOUNCED)):
            st.rerun()


def _unannounced(jobs: Sequence[Job]) -> list[Job]:
    """Jobs that ended since the session began, oldest first; prompts only if they failed."""
    known = st.session_state[_ANNOUNCED]
    return [
        job
        for job in reversed(jobs)
        if not job.live
        and (job.id, job.attempt) not in known
        and (job.kind in LONG or job.state in ("failed", "crashed"))
    ]


def theme() -> Theme:
    """The user's theme."""
    return "dark" if st.context.theme.type == "dark" else "light"


def zone() -> tzinfo | None:
    """The user's time zone; None, the server's, where the browser does not say."""
    try:
        return ZoneInfo(st.context.timezone or "")
    except (ZoneInfoNotFoundError, ValueError):
        return None
