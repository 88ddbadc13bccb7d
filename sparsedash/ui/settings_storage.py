"""The data folder on the settings page: contents with their deletion, check of data integrity, size
limit.
"""

from collections.abc import Mapping, Sequence

import streamlit as st

from sparsedash.reporting import storage_words, wording
from sparsedash.reporting.html import Table, element, escape, paragraph, widget_label
from sparsedash.reporting.storage_words import HeldRow, gigabytes
from sparsedash.schema.records import Verification, VerifySettings
from sparsedash.service.backend import Backend
from sparsedash.service.deletion import Selection
from sparsedash.service.holdings import ARTEFACTS, Holdings
from sparsedash.storage.disk_cache import MOST_GB, VARIABLE
from sparsedash.ui import frame, job_panel
from sparsedash.ui.address_bar import page_of

_HEADS = ("How many", "Size", "Last use")
_SECTIONS = {
    "kind": (
        "By kind",
        "Pinned runs, and data that live jobs or other runs need, are never deleted.",
    ),
    "model": ("By model", ""),
    "run": ("By run, the largest first", ""),
}
_ROWS_A_PAGE = 10
_MOST_DAMAGED = 50
_LIMIT = "artefact-room"
_LAST_USE = "“Last use” is exact for calibration data; otherwise it is the date written, of a run the date it started."
_VERIFICATION = (
    "Compares every result, all calibration data, and every file of unpacked models, uploads and exports with its "
    "checksum. Changes nothing. The list of jobs and the logs have no checksums."
)
_EVICTION = (
    "Data used least recently is deleted first, and recomputed when a run needs it. Healed weights do not count: they "
    "stay while a run has them. A lower limit takes effect at once, or with the next calibration while a job waits or "
    "runs."
)


def show_holdings(backend: Backend, held: Sequence[HeldRow], titles: Mapping[str, str]) -> None:
    """Draw the rows by kind, by model and by run, a page of these at a time. titles: of the runs,
    by their keys.
    """
    for by, (heading, remark) in _SECTIONS.items():
        rows = [row for row in held if row.by == by]
        shown, draw_pages = page_of(rows, _ROWS_A_PAGE if by == "run" else max(1, len(rows)))
        if not rows:
            continue
        frame.section(heading)
        if remark:
            frame.remark(remark)
        with st.container(key=f"by-{by}", gap=None):
            heads = element(
                "div", *(element("span", escape(head)) for head in _HEADS), css="sd-held-cells"
            )
            frame.show(
                element("div", element("span", escape(by.capitalize())), heads, css="sd-held-head")
            )
            for row in shown:
                _draw_row(backend, row, titles)
        draw_pages()
    frame.remark(_LAST_USE)
    frame.link("runs", "Rename, pin and export runs")
    frame.offer_table(storage_words.holdings_table(held))


def _draw_row(backend: Backend, row: HeldRow, titles: Mapping[str, str]) -> None:
    """Draw a row with its button; the title of a run is a link to it."""
    chosen = row.chosen or Selection()
    run = chosen.runs[0] if chosen.runs else ""
    name = chosen.kind or chosen.model or run or row.title
    with st.container(horizontal=True, key=f"held-{name}", gap=None):
        with st.container(gap=None):
            if run:
                frame.link("overview", widget_label(row.title), run=run)
            else:
                frame.show(element("p", escape(row.title), css="sd-held-title"))
            if row.about:
                frame.remark(row.about)
        texts = zip(_HEADS, (row.number, row.size, row.used), strict=True)
        cells = [
            element("div", element("span", escape(f"{head}: "), css="sd-heard"), escape(text))
            for head, text in texts
        ]
        frame.show(element("div", *cells, css="sd-held-cells"))
        if row.chosen is not None:
            frame.ask_to_delete(backend, "Delete", f"delete-{name}", chosen, titles)


def show_verification(backend: Backend) -> None:
    """Draw the result of the last verification, and the button that starts one; or the job that is
    at it.
    """
    frame.section("Check data integrity")
    found = backend.housekeeping.verification()
    job = next((job for job in backend.jobs(job_panel.JOBS_LISTED) if job.kind == "verify"), None)
    if found is not None:
        _show_found(backend, found)
    else:
        frame.remark(_VERIFICATION)
    # One that ended early, and after the last result, is tried again on its panel.
    seen_at = found.finished_at if found is not None else -1.0
    if job is not None and (
        job.live or (job.state != "done" and (job.finished_at or 0.0) > seen_at)
    ):
        job_panel.watch_job(backend, job, brief=True)
    else:
        text = "Check everything" if found is None else "Check everything again"
        frame.action_button(
            text, lambda: backend.submit(VerifySettings()), key="verify", icon="fact_check"
        )


def _show_found(backend: Backend, found: Verification) -> None:
    sentence, basis = (
        storage_words.verification_sentence(found, frame.zone()),
        storage_words.verification_basis(found),
    )
    if not found.n_damaged:
        frame.show(paragraph(sentence), paragraph(basis, css="sd-muted sd-small"))
        return
    frame.failure(sentence.removeprefix("✕ "), basis)
    damaged, items = storage_words.damaged_rows(found), []
    for what, name, fault, advice in damaged[:_MOST_DAMAGED]:
        title = (
            element("b", escape(f"{what} ")),
            element("span", escape(name), css="sd-damaged-name"),
        )
        wrong = paragraph(f"✕ {wording.first_upper(fault)}.", css="sd-damaged-fault")
        items.append(element("li", element("p", *title), wrong, paragraph(advice, css="sd-muted")))
    frame.show(element("ul", *items, css="sd-damaged"))
    if found.n_damaged > _MOST_DAMAGED:
        frame.note(f"The first {_MOST_DAMAGED} of {found.n_damaged:,}.")
    with frame.row():
        frame.ask_to_delete(
            backend, "Delete what is damaged", "delete-found", Selection(damaged=True), {}
        )
        head = ["Kind", "Name", "Fault", "Remedy"]
        frame.offer_table(Table("What is damaged", "", head, damaged))


def show_limit(backend: Backend, held: Holdings) -> None:
    """Draw the size limit of calibration data with the bytes in use; and its field, unless the
    environment sets it.
    """
    frame.section("Room for calibration")
    n_bytes = held.bytes_of(*ARTEFACTS)
    used = (
        f"{wording.size(n_bytes) if n_bytes else 'Nothing'} of {gigabytes(held.room_bytes)} in use."
    )
    frame.remark(f"{used} {_EVICTION}")
    if held.room_fixed:
        frame.note(
            f"Set to {gigabytes(held.room_bytes)} by {VARIABLE}, which overrides this page. To change it, set or unset "
            "the variable and restart the server."
        )
        return

    def save() -> None:
        asked = float(st.session_state[_LIMIT])
        backend.housekeeping.allow(asked)
        st.toast(f"Limit of calibration data: {asked:,.10g} GB.", icon=":material/save:")

    form = st.form("room", border=False, enter_to_submit=True)
    with form, st.container(horizontal=True, vertical_alignment="bottom"):
        value = min(held.room_bytes / 1e9, MOST_GB)
        # Without limits: Streamlit keeps a value beyond them to itself, and the former one would be
        # saved.
        st.number_input("Room in GB", value=value, step=1.0, format="%.10g", key=_LIMIT, width=200)
        st.form_submit_button("Save", on_click=frame.attempt, args=(save,))
