"""The data folder on the storage page: contents with their deletion, check of data integrity, size limit."""

from collections.abc import Callable, Mapping
from functools import partial

import streamlit as st

from sparsedash.jobs.job import Job
from sparsedash.reporting import storage_words, wording
from sparsedash.reporting import storage_words as words
from sparsedash.reporting.html import Html, element, escape, paragraph, table, widget_label
from sparsedash.reporting.storage_words import HeldRow, gigabytes
from sparsedash.schema.pair_records import RunMark
from sparsedash.schema.records import Verification, VerifySettings
from sparsedash.service.backend import Backend
from sparsedash.service.deletion import ArtefactRoom, Housekeeping, Selection
from sparsedash.service.holdings import Holdings
from sparsedash.storage.disk_cache import LEAST_GB, MOST_GB, VARIABLE
from sparsedash.ui import address_bar, frame, job_panel

Draw = Callable[[], None]

_HEADS = ("How many", "Size", "Last use")


def draw_column_heads(first: str) -> None:
    """Draw the heads of the columns. first: of the first one."""
    cells = element("div", *(element("span", escape(head)) for head in _HEADS), css="sd-held-cells")
    frame.show(element("div", element("span", escape(first)), cells, css="sd-held-head"))


def draw_held_row(name: str, row: HeldRow, delete: Draw | None, link: Draw | None = None) -> None:
    """Draw one row. name: what tells it from others. delete: draws its question; None: it stays. link: its title."""
    with st.container(horizontal=True, key=f"held-{name}", gap=None):
        with st.container(gap=None):
            if link is not None:
                link()
            title = [] if link is not None else [element("p", escape(row.title), css="sd-held-title")]
            about = [paragraph(row.about, css="sd-muted sd-small")] if row.about else []
            if title or about:
                frame.show(*title, *about)
        frame.show(_cells(row))
        if delete is not None:
            delete()


def _cells(row: HeldRow) -> Html:
    texts = zip(_HEADS, (row.number, row.size, row.used), strict=True)
    drawn = (element("div", element("span", escape(f"{head}: "), css="sd-heard"), escape(text)) for head, text in texts)
    return element("div", *drawn, css="sd-held-cells")


def ask_to_delete(
    name: str, house: Housekeeping, chosen: Selection, titles: Mapping[str, str], text: str = "Delete"
) -> None:
    """Draw the button that opens the question, and in it what goes, what stays, and the button that deletes.

    name: what tells it from others. titles: of the runs, by their keys. text: on the button.
    """

    def done() -> None:
        st.toast(
            widget_label(storage_words.deletion_summary(house.delete(chosen), titles)),
            icon=":material/delete:",
            duration="long",
        )

    key = f"delete-{name}"
    asking = st.popover(text, type="tertiary", icon=":material/delete:", key=key, on_change="rerun")
    if not asking.open:
        return
    with asking, frame.errors_in_words():
        planned = house.plan_deletion(chosen)
        question, *more = storage_words.deletion_question(planned, titles)
        frame.show(paragraph(question))
        frame.show(paragraph(" ".join(more), css="sd-small"))
        if planned.deletes:
            st.button("Delete for good", key=f"{key}-sure", type="primary", on_click=frame.attempt, args=(done,))


PAGE = "page"
"""Parameter of the address: which part of the list of runs is shown, from 1."""

RUNS_A_PAGE = 10
_SHORT = 16
_LAST_USE = (
    "Only what calibration left notes when it was last used; of all else it is when it was written, of a run when it "
    "was started."
)
_STAYS = "What a job that waits or runs may need, pinned runs and what other runs use stay, whatever is deleted."


def show_kinds(backend: Backend, held: Holdings, titles: Mapping[str, str]) -> None:
    """Draw a row for every kind that there is something of."""
    frame.section("By kind")
    frame.show(paragraph(_STAYS, css="sd-muted sd-small"))
    house = backend.housekeeping
    with st.container(key="by-kind", gap=None):
        draw_column_heads("Kind")
        for kind, row, deletable in words.kind_rows(held, frame.zone()):
            delete = partial(ask_to_delete, kind, house, Selection(kind=kind), titles)
            draw_held_row(kind, row, delete if deletable else None)
    frame.show(paragraph(_LAST_USE, css="sd-muted sd-small"))


def show_models(backend: Backend, held: Holdings, titles: Mapping[str, str]) -> None:
    """Draw a row for every model of which something is here."""
    if not held.models:
        return
    frame.section("By model")
    house = backend.housekeeping
    with st.container(key="by-model", gap=None):
        draw_column_heads("Model")
        show_all = len(held.models) <= RUNS_A_PAGE or st.session_state.get("all-models", False)
        for number, model in enumerate(held.models if show_all else held.models[:RUNS_A_PAGE]):
            name = f"model-{number}"
            delete = partial(ask_to_delete, name, house, Selection(model=model.identity), titles)
            draw_held_row(name, words.model_row(model, frame.zone()), delete)
    if not show_all:
        st.button(f"Show all {len(held.models)} models", key="all-models")


def show_runs(backend: Backend, held: Holdings, marks: Mapping[str, RunMark], titles: Mapping[str, str]) -> None:
    """Draw the runs, the largest first, a part at a time."""
    if not held.runs:
        return
    frame.section("By run, the largest first")
    number, n_parts = _part(len(held.runs))
    house = backend.housekeeping
    with st.container(key="by-run", gap=None):
        draw_column_heads("Run")
        for found in held.runs[number * RUNS_A_PAGE : (number + 1) * RUNS_A_PAGE]:
            key = found.run.key
            row, name = words.run_row(found, marks, frame.zone()), f"run-{key[:_SHORT]}"
            delete = partial(ask_to_delete, name, house, Selection(runs=(key,)), titles)
            draw_held_row(name, row, delete, partial(frame.link, "overview", widget_label(row.title), run=key))
    if n_parts > 1:
        _steps(number, n_parts, len(held.runs))
    frame.link("runs", "Name, pin and take runs along on their own page")


def _part(n_runs: int) -> tuple[int, int]:
    """Which part is shown, from 0, and how many there are."""
    n_parts, wanted = max(1, -(-n_runs // RUNS_A_PAGE)), address_bar.query_value(PAGE)
    number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 6 else 1
    return min(max(number, 1), n_parts) - 1, n_parts


def _steps(number: int, n_parts: int, n_runs: int) -> None:
    first, last = number * RUNS_A_PAGE + 1, min(n_runs, (number + 1) * RUNS_A_PAGE)
    with st.container(horizontal=True, vertical_alignment="center"):
        for name, icon, to in (("Previous", "chevron_left", number - 1), ("Next", "chevron_right", number + 1)):
            st.button(
                name,
                key=f"part-{name}",
                icon=f":material/{icon}:",
                disabled=not 0 <= to < n_parts,
                on_click=address_bar.set_query,
                args=({PAGE: str(to + 1) if to else ""},),
            )
        said = f"{first} to {last} of {n_runs} {wording.plural(n_runs, 'run')}"
        frame.show(element("p", escape(said), css="sd-muted sd-count"))


_VERIFICATION = (
    "Every result, everything that calibration left, and every file of unpacked models, uploads and models taken away "
    "is read and held against the checksum that was written with it. Nothing is changed. The list of jobs checks its "
    "rows whenever it is read; logs have no checksum."
)
MOST_SHOWN = 50
_DAMAGED_HEAD = ["What", "Called", "What is wrong", "What to do"]


def show_verification(backend: Backend) -> None:
    """Draw what was found the last time, and the button that reads everything again; or the job that does."""
    frame.section("Is everything whole?")
    found = backend.housekeeping.verification()
    job = next((job for job in backend.jobs(job_panel.JOBS_LISTED) if job.kind == "verify"), None)
    if found is not None:
        _show_found(backend, found)
    else:
        frame.show(paragraph(_VERIFICATION, css="sd-muted sd-small"))
    shown = job is not None and _is_worth_showing(job, found)
    if job is not None and shown:
        job_panel.watch_job(backend, job, brief=True)
    # One that ended early is started again on its panel.
    if not shown:
        st.button(
            "Verify everything" if found is None else "Verify everything again",
            key="verify",
            icon=":material/fact_check:",
            on_click=frame.attempt,
            args=(lambda: backend.submit(VerifySettings()),),
        )


def _is_worth_showing(job: Job, found: Verification | None) -> bool:
    """Whether it is under way, or ended early after what was found."""
    if job.live:
        return True
    return job.state != "done" and (found is None or (job.finished_at or 0.0) > found.finished_at)


def _show_found(backend: Backend, found: Verification) -> None:
    said = storage_words.verification_sentence(found, frame.zone())
    if not found.n_damaged:
        frame.show(paragraph(said), paragraph(storage_words.verification_basis(found), css="sd-muted sd-small"))
        return
    frame.failure(said.removeprefix("✕ "), storage_words.verification_basis(found))
    damaged = storage_words.damaged_rows(found)
    frame.show(element("ul", *(_item(row) for row in damaged[:MOST_SHOWN]), css="sd-damaged"))
    if found.n_damaged > MOST_SHOWN:
        frame.note(f"The first {MOST_SHOWN} of {found.n_damaged:,}.")
    with st.container(horizontal=True, vertical_alignment="center"):
        house = backend.housekeeping
        ask_to_delete("damaged", house, Selection(damaged=True), {}, "Delete what is damaged")
        listed = [[row.what, row.name, row.fault, row.advice] for row in damaged]
        frame.offer_table(table("What is damaged", "", _DAMAGED_HEAD, listed))


def _item(row: storage_words.DamagedRow) -> Html:
    name = element("span", escape(row.name), css="sd-damaged-name")
    title = element("p", element("b", escape(f"{row.what} ")), name)
    fault = element("p", escape(f"✕ {wording.first_upper(row.fault)}."), css="sd-damaged-fault")
    return element("li", title, fault, paragraph(row.advice, css="sd-muted"))


LIMIT_FIELD = "artefact-room"
_EVICTION = (
    "What was used least recently goes first. It is computed again when a run needs it. What is over a lower limit "
    "goes at once, or with the next calibration where a job waits or runs."
)


def show_limit(backend: Backend, room: ArtefactRoom, n_bytes: int) -> None:
    """Draw the limit and what of it is in use, in bytes; and the field, unless the environment says how much."""
    frame.section("Room for calibration")
    used = f"{wording.size(n_bytes) if n_bytes else 'Nothing'} of {gigabytes(room.n_bytes)} in use."
    frame.show(paragraph(f"{used} {_EVICTION}", css="sd-muted sd-small"))
    if room.fixed:
        frame.note(
            f"{VARIABLE} says how much: {gigabytes(room.n_bytes)}. It goes before whatever is chosen here; change it "
            "where the server is started, or leave it out and start again."
        )
        return
    with (
        st.form("room", border=False, enter_to_submit=True),
        st.container(horizontal=True, vertical_alignment="bottom"),
    ):
        value = room.n_bytes / 2**30
        st.number_input("Room in GB", LEAST_GB, MOST_GB, value, step=1.0, format="%.10g", key=LIMIT_FIELD, width=200)
        st.form_submit_button("Save", on_click=frame.attempt, args=(lambda: _save(backend),))


def _save(backend: Backend) -> None:
    asked = float(st.session_state[LIMIT_FIELD])
    backend.housekeeping.allow(asked)
    st.toast(f"Calibration may take {asked:,.10g} GB from now on.", icon=":material/save:")
