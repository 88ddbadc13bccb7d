"""The frame of every page: set-up, opening sentence, notes, tables, links, errors, and notices when jobs end."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import tzinfo
from functools import lru_cache, wraps
from pathlib import Path
from typing import ParamSpec
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from sparsedash.jobs.job import LONG, Job, JobState
from sparsedash.reporting.charts.chart_style import Theme
from sparsedash.reporting.html import (
    Html,
    Table,
    element,
    escape,
    heading,
    join,
    paragraph,
    table_csv,
    table_file_name,
    widget_label,
)
from sparsedash.reporting.job_status import job_name
from sparsedash.schema.errors import SparseDashError
from sparsedash.service.backend import Backend
from sparsedash.storage.local_machine import data_folder
from sparsedash.storage.users import serving_rules
from sparsedash.ui import browser_notices, current_user, navigation

JOB_S = 1.0
"""The state and progress of a job."""

NOTICE_S = 2.0
"""Whether a job has ended, on pages that are about something else."""

WRITTEN_S = 0.25
"""Text that two models are writing: it grows while it is read."""

RECONCILE_S = 1.0
"""The job table beside what really runs, by the server."""

MACHINES_S = 2.0
"""How often a page asks what the machines of a cluster do."""


JOBS_ANNOUNCED = 50
"""How many jobs are looked at, newest first."""

_TOLD = "notices-told"
_ENDED: dict[JobState, tuple[str, str]] = {
    "done": ("is done", "check_circle"),
    "failed": ("has failed", "error"),
    "crashed": ("has crashed", "error"),
    "cancelled": ("was cancelled", "cancel"),
}


def announce_ended_jobs(backend: Backend) -> None:
    """Tell which jobs have ended since the visitor came; go on looking while a job is live. May raise StoreError."""
    if _TOLD not in st.session_state:
        # Not by the times at which jobs ended: the clock may be set while the visitor is here.
        st.session_state[_TOLD] = {(job.id, job.attempt) for job in backend.jobs(JOBS_ANNOUNCED) if not job.live}
    if any(job.live for job in _announce_new_endings(backend)):
        _watch_endings(backend)


@st.fragment(run_every=NOTICE_S)
def _watch_endings(backend: Backend) -> None:
    try:
        _announce_new_endings(backend)
    except SparseDashError:
        # The next page that is opened says what is wrong.
        return


def _announce_new_endings(backend: Backend) -> tuple[Job, ...]:
    jobs = backend.jobs(JOBS_ANNOUNCED)
    for job in reversed(jobs):
        ended = (job.id, job.attempt)
        if _is_announced(job) and ended not in st.session_state[_TOLD]:
            st.session_state[_TOLD].add(ended)
            words, icon = _ENDED[job.state]
            title = job_name(backend, job)
            said = f"{title} {words}."
            st.toast(f"{widget_label(title)} {words}. [See the jobs](jobs)", icon=f":material/{icon}:", duration="long")
            browser_notices.notify("SparseDash", said, f"sparsedash-{job.id}-{job.attempt}")
    return jobs


def _is_announced(job: Job) -> bool:
    """Whether its end is worth telling. What a prompt has written is seen where it was asked for."""
    return not job.live and (job.kind in LONG or job.state in ("failed", "crashed"))


P = ParamSpec("P")

_STYLE = Path(__file__).with_name("style.css")
_MARK = str(Path(__file__).with_name("mark.svg"))
_WORDMARK = str(Path(__file__).with_name("wordmark.svg"))
_opening_backend = threading.Lock()


def page(title: str) -> Backend:
    """Set the page up and return the backend; the first call of every page, also of one opened by a deep link.

    Draws the menu and tells which jobs have ended. Stops the script with an error in plain words when the data folder
    cannot be used.
    """
    st.set_page_config(page_title=f"{title} · SparseDash", page_icon=_MARK, layout="wide")
    st.logo(_WORDMARK)
    st.html(_STYLE)
    navigation.begin_menu(title)
    current_user.draw_user()
    try:
        opened = _for_visitor(backend())
        announce_ended_jobs(opened)
        return opened
    except SparseDashError as error:
        opening("SparseDash cannot work yet.")
        failure(error.message, error.advice)
        st.stop()


def backend() -> Backend:
    """The one backend of this server. Raises StoreError while the data folder cannot be used."""
    with _opening_backend:
        return _backend()


def _for_visitor(opened: Backend) -> Backend:
    """The backend as whoever is looking has it; the one for everybody while nobody else is served."""
    rules = serving_rules()
    return opened if rules is None else opened.seen_by(current_user.current_user(), rules)


@lru_cache(maxsize=1)
def _backend() -> Backend:
    return Backend(data_folder())


def show(*parts: Html) -> None:
    """Draw markup that `reporting.html` made."""
    st.html(join(*parts))


def show_table(shown: Table) -> None:
    """Draw a table, and the button that takes it along."""
    show(shown.html)
    offer_table(shown)


def offer_table(shown: Table, key: str = "") -> None:
    """Draw the button that takes a table along as CSV. key: what tells it from others of this name on the page."""
    name = table_file_name(shown)
    st.download_button(
        "CSV",
        data=lambda: table_csv(shown),
        file_name=name,
        mime=current_user.private_media_type("text/csv"),
        on_click="ignore",
        key=f"take-{name}{key}",
        type="tertiary",
        icon=":material/download:",
        help=f"{shown.name}, as a file for a spreadsheet",
    )


def opening(sentence: str, basis: str = "", *, grows: bool = False) -> None:
    """Draw the page's answer in one sentence, and under it what it rests on.

    grows: whether the sentence changes while it is looked at, so that it has room for a longer one.
    """
    below = paragraph(basis, css="sd-basis") if basis else Html("")
    said = heading(sentence, css="sd-opening"), below
    show(element("div", *said, css="sd-grows") if grows else join(*said))


def section(heading: str) -> None:
    """Draw a heading within the page."""
    show(element("h2", escape(heading), css="sd-section"))


def empty(*paragraphs: str) -> None:
    """Draw an empty state: what will be here. The caller draws the button that brings it."""
    show(element("div", *(paragraph(text) for text in paragraphs), css="sd-empty"))


def note(text: str) -> None:
    """Draw something worth knowing that is no error."""
    show(paragraph(text, css="sd-note"))


def failure(message: str, advice: str = "") -> None:
    """Draw what went wrong and what to do next."""
    what = element("b", escape(message))
    then = join(Html("<br>"), escape(advice)) if advice else Html("")
    show(element("div", what, then, css="sd-alert", role="alert"))


def link(page_file: str, text: str, /, **query: str | list[str]) -> None:
    """Draw a real link to a page of ours; it carries what may be lost. text: a label, see `reporting.html.label`."""
    along = navigation.tolerance_query() if page_file in navigation.JUDGING else {}
    st.page_link(f"pages/{page_file}.py", label=text, query_params={**along, **query} or None)


@contextmanager
def errors_in_words() -> Iterator[None]:
    """Within, an error that a user can meet is drawn in words, and what comes after this block goes on."""
    try:
        yield
    except SparseDashError as error:
        failure(error.message, error.advice)


def fragment(every_s: float) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """A decorator: a part of a page that is drawn again after so many seconds, and that says its errors in words."""

    def made(draw: Callable[P, None]) -> Callable[P, None]:
        @wraps(draw)
        def drawn(*args: P.args, **kwargs: P.kwargs) -> None:
            with errors_in_words():
                draw(*args, **kwargs)

        return st.fragment(drawn, run_every=every_s)

    return made


def attempt(action: Callable[[], object]) -> None:
    """Do what a button asked for; where that raises, the error is shown and the page goes on."""
    try:
        action()
    except SparseDashError as error:
        st.toast(widget_label(f"{error.message} {error.advice}"), icon=":material/error:", duration="long")


def theme() -> Theme:
    """The theme the visitor sees."""
    return "dark" if st.context.theme.type == "dark" else "light"


def zone() -> tzinfo | None:
    """The visitor's time zone; None, which means the server's, where the browser does not say."""
    try:
        return ZoneInfo(st.context.timezone or "")
    except (ZoneInfoNotFoundError, ValueError):
        return None
