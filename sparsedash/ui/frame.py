"""The frame of every page: set-up, notes, tables, buttons, links, errors, announced jobs."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import tzinfo
from functools import lru_cache, wraps
from pathlib import Path
from typing import Literal, ParamSpec
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparsedash.jobs.job import LONG, Job
from sparsedash.reporting.charts.chart_style import Theme, theme_switch_css
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
from sparsedash.reporting.job_status import STATES, job_name
from sparsedash.reporting.storage_words import deletion_question, deletion_summary
from sparsedash.schema.errors import SparseDashError
from sparsedash.service.backend import Backend
from sparsedash.storage.local_machine import data_folder
from sparsedash.storage.serving import Serving, serving_rules
from sparsedash.ui import browser_scripts, login, navigation

P = ParamSpec("P")
ButtonKind = Literal["primary", "secondary", "tertiary"]

JOB_S = 1.0
"""How often a page asks for the state and progress of a job, in seconds."""
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
            ended = {(job.id, job.attempt) for job in opened.jobs(_JOBS_ANNOUNCED) if not job.live}
            st.session_state[_ANNOUNCED] = ended
        _announce_endings(opened)
        return opened
    except SparseDashError as error:
        opening("SparseDash cannot start.")
        failure(error.message, error.advice)
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


def show(*parts: Html) -> None:
    """Draw markup that `reporting.html` made."""
    st.html(join(*parts))


def show_table(shown: Table) -> None:
    """Draw a table with its download."""
    show(shown.html)
    offer_table(shown)


def offer_table(shown: Table, key: str = "") -> None:
    """Draw the download of a table as CSV. key: distinguishes tables of one name on a page."""
    offer_file(
        "CSV",
        lambda: table_csv(shown),
        table_file_name(shown),
        "text/csv",
        key=f"take-{shown.name}{key}",
        kind="tertiary",
        help=widget_label(f"{shown.name}, as a CSV file"),
    )


def offer_file(
    text: str,
    data: bytes | Callable[[], bytes],
    name: str,
    media_type: str,
    *,
    key: str,
    kind: ButtonKind = "secondary",
    width: Literal["content", "stretch"] = "content",
    help: str | None = None,
) -> None:
    """Draw the download of a file, for this user alone. data: bytes, or a function for them."""
    st.download_button(
        text,
        data=data,
        file_name=name,
        mime=login.private_media_type(media_type),
        on_click="ignore",
        key=key,
        type=kind,
        icon=":material/download:",
        width=width,
        help=help,
    )


def action_button(
    text: str,
    action: Callable[[], object],
    *,
    key: str | None = None,
    icon: str = "",
    kind: ButtonKind = "secondary",
    disabled: bool = False,
    help: str | None = None,
) -> None:
    """Draw a button; an error that its action raises is shown, and the page goes on."""
    shown = f":material/{icon}:" if icon else None
    st.button(
        text, key, help, on_click=attempt, args=(action,), type=kind, icon=shown, disabled=disabled
    )


def popover(text: str, key: str, draw: Callable[[], None], icon: str = "") -> None:
    """Draw a button that opens a window, whose content is made once it is open."""
    shown = f":material/{icon}:" if icon else None
    window = st.popover(
        text,
        key=key,
        type="tertiary",
        icon=shown,
        on_change="rerun",
    )
    if window.open:
        with window, errors_in_words():
            draw()


def delete_button(key: str, question: str, drop: Callable[[], object]) -> None:
    """Draw the button that opens the question, with the one that deletes."""

    def draw() -> None:
        show(paragraph(question))
        action_button(
            "Delete for good",
            drop,
            key=f"{key}-sure",
            kind="primary",
        )

    popover("Delete", key, draw, "delete")


def ask_to_delete_runs(
    backend: Backend,
    key: str,
    runs: Collection[str],
    titles: Mapping[str, str],
) -> None:
    """Draw the button that opens the question: what goes, what stays, and the button that deletes.

    titles: of the runs, by their keys.
    """

    def delete() -> None:
        deletion = backend.housekeeping.delete_runs(runs)
        summary = widget_label(deletion_summary(deletion, titles))
        st.toast(summary, icon=":material/delete:", duration="long")

    def draw() -> None:
        plan = backend.housekeeping.plan_deletion(runs)
        question, *more = deletion_question(plan, titles)
        show(paragraph(question), paragraph(" ".join(more), css="sd-small"))
        if plan.runs:
            action_button(
                "Delete for good",
                delete,
                key=f"{key}-sure",
                kind="primary",
            )

    popover("Delete", key, draw, "delete")


def opening(sentence: str, basis: str = "", *, also: str = "", grows: bool = False) -> None:
    """Draw the page's answer in a sentence, what else is to be said, and its basis under it.

    grows: leave room for a longer sentence to come.
    """
    parts = [heading(sentence, css="sd-opening")]
    if also:
        parts.append(paragraph(also, css="sd-also"))
    if basis:
        parts.append(paragraph(basis, css="sd-basis"))
    if grows:
        parts = [element("div", *parts, css="sd-grows")]
    show(*parts)


def section(heading: str) -> None:
    """Draw a heading within the page."""
    show(element("h2", escape(heading), css="sd-section"))


def empty(*paragraphs: str) -> None:
    """Draw an empty state: what will be here. The caller draws the button that brings it."""
    show(element("div", *(paragraph(text) for text in paragraphs), css="sd-empty"))


def note(text: str) -> None:
    """Draw a remark that is no error."""
    show(paragraph(text, css="sd-note"))


def failure(message: str, advice: str = "") -> None:
    """Draw what went wrong and what to do next."""
    what = element("b", escape(message))
    then = join(Html("<br>"), escape(advice)) if advice else Html("")
    show(element("div", what, then, css="sd-alert", role="alert"))


def remark(*texts: str) -> None:
    """Draw these texts small, as a paragraph; empty ones are left out."""
    show(paragraph(" ".join(filter(None, texts)), css="sd-muted sd-small"))


def show_all(n: int, state: str) -> None:
    """Draw a button that shows all of a list from now on. state: its entry in the session."""
    st.button(
        f"Show all {n:,}",
        key=f"show-{state}",
        on_click=st.session_state.update,
        args=({state: True},),
    )


def row(key: str | None = None) -> DeltaGenerator:
    """A container whose parts stand next to each other."""
    return st.container(
        key=key,
        horizontal=True,
        vertical_alignment="center",
    )


def link(page_file: str, text: str, /, **query: str | list[str]) -> None:
    """Draw a link to a page, with the tolerance. text: as `reporting.html.widget_label` gives it."""
    parameters: dict[str, str | list[str]] = {}
    if page_file in navigation.JUDGING:
        parameters |= navigation.tolerance_query()
    parameters |= query
    st.page_link(
        f"pages/{page_file}.py",
        label=text,
        query_params=parameters or None,
    )


@contextmanager
def errors_in_words() -> Iterator[None]:
    """Draw errors of the block in words and go on after it."""
    try:
        yield
    except SparseDashError as error:
        failure(error.message, error.advice)


def fragment(every_s: float) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Decorator: redraw a part of a page at this interval; errors are shown in its place."""

    def decorate(draw: Callable[P, None]) -> Callable[P, None]:
        @wraps(draw)
        def drawn(*args: P.args, **kwargs: P.kwargs) -> None:
            with errors_in_words():
                draw(*args, **kwargs)

        return st.fragment(drawn, run_every=every_s)

    return decorate


def attempt(action: Callable[[], object]) -> None:
    """Run a button's action; an error that it raises is shown, and the page goes on."""
    try:
        action()
    except SparseDashError as error:
        st.toast(
            widget_label(f"{error.message} {error.advice}"),
            icon=":material/error:",
            duration="long",
        )


def theme() -> Theme:
    """The user's theme."""
    return "dark" if st.context.theme.type == "dark" else "light"


def zone() -> tzinfo | None:
    """The user's time zone; None, the server's, where the browser does not say."""
    try:
        return ZoneInfo(st.context.timezone or "")
    except (ZoneInfoNotFoundError, ValueError):
        return None
