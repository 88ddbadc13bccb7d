"""The data folder on the settings page: data integrity, runs, files, and the cache with its limit."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import streamlit as st

from sparsedash.reporting import storage_words, wording
from sparsedash.reporting.html import element, escape, paragraph, widget_label
from sparsedash.reporting.storage_words import HeldRow, gigabytes
from sparsedash.schema.records import Verification, VerifySettings
from sparsedash.service.backend import Backend
from sparsedash.service.deletion import Housekeeping
from sparsedash.service.holdings import Holdings
from sparsedash.storage.disk_cache import MAX_GB, VARIABLE
from sparsedash.ui import frame, job_panel, widgets
from sparsedash.ui.address_bar import page_of

_ROWS_A_PAGE = 5
_MAX_DAMAGED = 50
_LIMIT = "artefact-room"
_VERIFICATION = (
    "Compares every result, all calibration data, and every file of converted models, uploads and exports with its "
    "checksum. Changes nothing. The list of jobs and the logs have no checksums."
)
_EVICTION = (
    "Data used least recently is deleted first. Healed weights do not count: they stay while a run has them. A lower "
    "limit takes effect at once, or with the next calibration while a job waits or runs."
)


def show_runs(backend: Backend, holdings: Holdings) -> None:
    """Draw every run with its size and deletion, the largest first, a page at a time."""
    if not holdings.runs:
        return
    marks = backend.user_data.marks()
    titles = {}
    for holding in holdings.runs:
        run = holding.run
        name = marks[run.key].name if run.key in marks else ""
        titles[run.key] = wording.stored_run_title(run, name)
    rows = storage_words.run_rows(holdings, marks, frame.zone())
    widgets.section(f"Runs · {wording.size(holdings.run_bytes)}")
    listing = st.container(key="runs-by-size", gap=None)
    shown = page_of(list(rows), _ROWS_A_PAGE)
    with listing:
        _draw_heads("Run", storage_words.RUN_HEADS)
        for key in shown:
            delete = partial(
                widgets.ask_to_delete_runs, backend, f"delete-{key}", (key,), titles
            )
            _draw_row(key, rows[key], storage_words.RUN_HEADS, delete, run=key)
    widgets.link("runs", "Rename, export or delete several")


def show_stored_files(backend: Backend, holdings: Holdings) -> None:
    """Draw every export, upload and converted model with its size and deletion, largest first."""
    if not holdings.files:
        return
    n_bytes = sum(file.n_bytes for file in holdings.files)
    with (
        st.expander(f"Files · {wording.size(n_bytes)}", key="files"),
        st.container(key="files-by-size", gap=None),
    ):
        _draw_heads("File", storage_words.FILE_HEADS)
        for file in holdings.files:
            delete = partial(
                widgets.delete_button,
                f"delete-{file.name}",
                storage_words.file_question(file),
                partial(backend.housekeeping.delete_file, file),
            )
            row = storage_words.file_row(file, frame.zone())
            _draw_row(file.name, row, storage_words.FILE_HEADS, delete)


def _draw_heads(first: str, heads: tuple[str, ...]) -> None:
    cells = [element("span", escape(head)) for head in heads]
    title = element("span", escape(first))
    cells_in_line = element("div", *cells, css="sd-held-cells")
    widgets.show(element("div", title, cells_in_line, css="sd-held-head"))


def _draw_row(
    key: str,
    row: HeldRow,
    heads: tuple[str, ...],
    draw_delete: Callable[[], None],
    run: str = "",
) -> None:
    """Draw a row with its deletion. run: the key of the run that its title leads to."""
    with st.container(horizontal=True, key=f"held-{key}", gap=None):
        with st.container(gap=None):
            if run:
                widgets.link("overview", widget_label(row.title), run=run)
            else:
                widgets.show(element("p", escape(row.title), css="sd-held-title"))
            if row.about:
                widgets.remark(row.about)
        cells = []
        for head, text in zip(heads, row.cells, strict=True):
            spoken_head = element("span", escape(f"{head}: "), css="sd-heard")
            cells.append(element("div", spoken_head, escape(text)))
        widgets.show(element("div", *cells, css="sd-held-cells"))
        draw_delete()


def show_cache(backend: Backend, holdings: Holdings) -> None:
    """Draw the parts of the cache, the button that empties it, and the limit of its size."""
    n_bytes = sum(
        item.n_bytes for item in (*holdings.cache.items, *holdings.cache.spared)
    )
    used = wording.size(n_bytes) if n_bytes else "nothing"
    with st.expander(
        f"Cache · {used} of {gigabytes(holdings.room_bytes)}", key="cache"
    ):
        if holdings.cache.items or holdings.cache.spared:
            table = storage_words.cache_table(holdings.cache)
            widgets.show(element("div", table.html, css="sd-wrapped"))
            ask = partial(_ask_to_empty, backend.housekeeping)
            widgets.popover("Empty the cache", "delete-cache", ask, "delete")
        _show_limit(backend, holdings)


def _ask_to_empty(housekeeping: Housekeeping) -> None:
    """Draw what emptying the cache deletes, and the button that does."""
    cache = housekeeping.cache()
    question, *more = storage_words.cache_question(cache)
    widgets.show(paragraph(question), paragraph(" ".join(more), css="sd-small"))
    if cache.items:
        widgets.action_button(
            "Empty the cache",
            partial(_empty, housekeeping),
            key="cache-sure",
            kind="primary",
        )


def _empty(housekeeping: Housekeeping) -> None:
    emptied = housekeeping.empty_cache()
    st.toast(storage_words.cache_summary(emptied), icon=":material/delete:")


def show_verification(backend: Backend) -> None:
    """Draw the last verification and the button that starts one, or the job that is at it."""
    verification = backend.housekeeping.verification()
    job = next(
        (job for job in backend.jobs(job_panel.JOBS_LISTED) if job.kind == "verify"),
        None,
    )
    if verification is None:
        text = "Check data integrity"
        seen_at = -1.0
    else:
        _show_result(verification)
        text = "Check data integrity again"
        seen_at = verification.finished_at
    # One that ended early, and after the last result, is tried again on its panel.
    if job is not None and (
        job.live or (job.state != "done" and (job.finished_at or 0.0) > seen_at)
    ):
        job_panel.watch_job(backend, job, brief=True)
    else:
        verify = partial(backend.submit, VerifySettings())
        widgets.action_button(
            text, verify, key="verify", icon="fact_check", help=_VERIFICATION
        )


def _show_result(verification: Verification) -> None:
    sentence = storage_words.verification_sentence(verification, frame.zone())
    basis = storage_words.verification_basis(verification)
    if not verification.n_damaged:
        widgets.show(paragraph(sentence), paragraph(basis, css="sd-muted sd-small"))
        return
    widgets.failure(sentence.removeprefix("✕ "), basis)
    table = storage_words.damage_table(verification)
    shown = replace(table, rows=table.rows[:_MAX_DAMAGED])
    widgets.show(element("div", shown.html, css="sd-wrapped"))
    if verification.n_damaged > _MAX_DAMAGED:
        widgets.note(f"The first {_MAX_DAMAGED} of {verification.n_damaged:,}.")
    widgets.offer_table(table)


def _show_limit(backend: Backend, holdings: Holdings) -> None:
    """Draw the size limit of the cache; and its field, unless the environment sets it."""
    n_bytes = holdings.cache.artefact_bytes
    used = wording.size(n_bytes) if n_bytes else "Nothing"
    widgets.remark(f"{used} of {gigabytes(holdings.room_bytes)} in use. {_EVICTION}")
    if holdings.room_fixed:
        widgets.note(
            f"Set to {gigabytes(holdings.room_bytes)} by {VARIABLE}, which overrides this page. To change it, set or "
            "unset the variable and restart the server."
        )
        return

    form = st.form("room", border=False, enter_to_submit=True)
    with form, st.container(horizontal=True, vertical_alignment="bottom"):
        value = min(holdings.room_bytes / 1e9, MAX_GB)
        # Without limits: Streamlit keeps a value beyond them to itself, and the former one would be
        # saved.
        st.number_input(
            "Limit of the cache in GB",
            value=value,
            step=1.0,
            format="%.10g",
            key=_LIMIT,
            width=200,
        )
        save = partial(_save_limit, backend.housekeeping)
        st.form_submit_button("Save", on_click=widgets.attempt, args=(save,))


def _save_limit(housekeeping: Housekeeping) -> None:
    limit_gb = float(st.session_state[_LIMIT])
    housekeeping.allow(limit_gb)
    st.toast(f"Limit of the cache: {limit_gb:,.10g} GB.", icon=":material/save:")
