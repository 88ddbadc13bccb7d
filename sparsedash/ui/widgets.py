"""Building blocks of pages: headings, notes, tables, buttons, links, downloads, errors in words."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Literal, ParamSpec

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

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
from sparsedash.reporting.storage_words import deletion_question, deletion_summary
from sparsedash.schema.errors import SparseDashError
from sparsedash.service.backend import Backend
from sparsedash.ui import login, navigation

P = ParamSpec("P")
ButtonKind = Literal["primary", "secondary", "tertiary"]
JOB_S = 1.0
"""How often a page asks for the state and progress of a job, in seconds."""


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
    shortcut: str | None = None,
) -> None:
    """Draw a button; an error that its action raises is shown, and the page goes on."""
    shown = f":material/{icon}:" if icon else None
    st.button(
        text,
        key,
        help,
        on_click=attempt,
        args=(action,),
        type=kind,
        icon=shown,
        disabled=disabled,
        shortcut=shortcut,
    )


def popover(text: str, key: str, draw: Callable[[], None], icon: str = "") -> None:
    """Draw a button that opens a window, whose content is made once it is open."""
    shown = f":material/{icon}:" if icon else None
    window = st.popover(text, key=key, type="tertiary", icon=shown, on_change="rerun")
    if window.open:
        with window, errors_in_words():
            draw()


def delete_button(key: str, question: str, drop: Callable[[], object]) -> None:
    """Draw the button that opens the question, with the one that deletes."""
    popover("Delete", key, partial(_ask, key, [question], drop), "delete")


def _ask(key: str, sentences: Sequence[str], drop: Callable[[], object] | None) -> None:
    """Draw a question, what else is to be said, and the button that deletes, if anything can be."""
    question, *more = sentences
    show(paragraph(question))
    if more:
        show(paragraph(" ".join(more), css="sd-small"))
    if drop is not None:
        action_button("Delete for good", drop, key=f"{key}-sure", kind="primary")


def ask_to_delete_runs(
    backend: Backend,
    key: str,
    runs: Collection[str],
    titles: Mapping[str, str],
) -> None:
    """Draw the button that opens the question: what goes, what stays, and the button that deletes.

    titles: of the runs, by their keys.
    """
    popover(
        "Delete", key, partial(_ask_about_runs, backend, key, runs, titles), "delete"
    )


def _ask_about_runs(
    backend: Backend, key: str, runs: Collection[str], titles: Mapping[str, str]
) -> None:
    plan = backend.housekeeping.plan_deletion(runs)
    drop = partial(_delete_runs, backend, runs, titles) if plan.runs else None
    _ask(key, deletion_question(plan, titles), drop)


def _delete_runs(
    backend: Backend, runs: Collection[str], titles: Mapping[str, str]
) -> None:
    deletion = backend.housekeeping.delete_runs(runs)
    summary = widget_label(deletion_summary(deletion, titles))
    st.toast(summary, icon=":material/delete:", duration="long")


def opening(sentence: str, basis: str = "", *, grows: bool = False) -> None:
    """Draw the page's answer in a sentence, and its basis under it.

    grows: leave room for a longer sentence to come.
    """
    parts = [heading(sentence, css="sd-opening")]
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
