"""Actions on the ticked runs: overlay, pin, rename, export, delete; and the runs page before there is a run."""

import re
from collections.abc import Sequence

import streamlit as st

from sparsedash.catalog.choices import EXAMPLE
from sparsedash.reporting import run_list, wording
from sparsedash.reporting.charts.chart_style import theme_switch_css
from sparsedash.reporting.charts.tradeoff_chart import clicked_record, far_words, tradeoff_chart, tradeoff_words
from sparsedash.reporting.charts.tradeoff_data import Measure
from sparsedash.reporting.html import Html, element, escape, paragraph, widget_label
from sparsedash.reporting.run_list import MOST_RUNS, RUN_ADDRESS_LENGTH, Overlay, RunRow, hidden_selection_note, overlay
from sparsedash.reporting.run_results import run_results
from sparsedash.schema.errors import SparseDashError
from sparsedash.service.backend import Backend
from sparsedash.storage.run_files import SUFFIX
from sparsedash.storage.text_files import MAX_MEGABYTES
from sparsedash.storage.users import LONGEST_NAME
from sparsedash.ui import chart_files, current_user, frame, navigation, runs_table
from sparsedash.ui.address_bar import BOUND, choose_tolerance, set_query
from sparsedash.ui.form_fields import free_upload_memory
from sparsedash.ui.job_panel import JOBS_LISTED

_FIELD, _REFUSED = "run-file", "run-file-refused"
_NOT_IN_NAMES = re.compile(r"[^\w.-]+", re.ASCII)
_WHAT = (
    "The run as one file, with its records and passages: “Open a file” on this page of another SparseDash shows it "
    "with the same pages. Names, prompts and blind choices stay here."
)
_HOW = (
    "What “Take along” on this page, or sparsedash pack in a shell, has written on another machine. It is read as "
    "every result is, and refused where anything in it was changed on the way. Trust it as you trust the hand that it "
    "comes from. Larger ones: sparsedash unpack FILE, in a shell on the server."
)


def offer_run_file(backend: Backend, row: RunRow) -> None:
    """Draw the button that takes a finished run along; its file is made when it is pressed."""
    if row.run is None or not row.run.finished:
        return
    taking = st.popover("Take along", type="tertiary", icon=":material/download:", key="run-along", on_change="rerun")
    if not taking.open:
        return
    with taking, frame.errors_in_words():
        packed = backend.transfer.packed(row.key)
        frame.show(paragraph(_WHAT))
        st.download_button(
            f"Download, {wording.size(len(packed))}",
            data=packed,
            file_name=f"{_NOT_IN_NAMES.sub('-', row.title).strip('-.')[:60] or 'run'}-{row.key[:6]}{SUFFIX}",
            mime=current_user.private_media_type("application/octet-stream"),
            key="run-take-along",
            on_click="ignore",
            type="primary",
        )


def offer_to_open_file(backend: Backend) -> None:
    """Draw the button that opens a run's file, where the visitor may; a refusal is said above the field."""
    if not backend.keeps_house:
        return
    with st.popover("Open a file", icon=":material/upload_file:", type="tertiary", key="runs-open"):
        if refused := st.session_state.get(_REFUSED, ""):
            # In the text's own colour: a popover lies outside the app, where our colours do not reach.
            frame.show(element("p", escape(refused), css="sd-field-error", role="alert"))
        # Of any kind: the browser's part of the field refuses every name that ends in what has a hyphen.
        st.file_uploader(
            f"The file of a run ({SUFFIX})",
            key=_FIELD,
            max_upload_size=MAX_MEGABYTES,
            help=_HOW,
            on_change=_take,
            args=(backend,),
        )


def _take(backend: Backend) -> None:
    """Keep the run that was brought, and tick it; a refusal stands until the next file."""
    file = st.session_state[_FIELD]
    if file is None:
        return
    st.session_state[_REFUSED] = ""
    try:
        run = backend.transfer.opened(file.getvalue())
    except SparseDashError as error:
        st.session_state[_REFUSED] = f"{error.message} {error.advice}".strip()
        return
    finally:
        free_upload_memory(file)
    runs_table.tick_rows([run.key[:RUN_ADDRESS_LENGTH]])
    name = backend.user_data.name_of(run.key)
    st.toast(
        widget_label(f"{wording.stored_run_title(run, name)} is among the runs now."), icon=":material/check_circle:"
    )


_HINT = "Tick runs to lay them over each other in one chart, to pin, name, take along or delete them."


def show_toolbar(backend: Backend, rows: Sequence[RunRow], chosen: Sequence[RunRow], listed: Sequence[RunRow]) -> None:
    """Draw the buttons for the runs that are ticked. rows: all runs. listed: those that the table shows."""
    with st.container(horizontal=True, vertical_alignment="center", key="runs-toolbar"):
        if chosen:
            _act(backend, rows, chosen, listed)
        else:
            frame.show(paragraph(_HINT, css="sd-muted"))
            offer_to_open_file(backend)
        choose_tolerance()


def _act(backend: Backend, rows: Sequence[RunRow], chosen: Sequence[RunRow], listed: Sequence[RunRow]) -> None:
    keys = [row.key for row in chosen]
    parts = [f"{len(chosen)} chosen", hidden_selection_note(keys, listed)]
    frame.show(element("p", escape(", ".join(filter(None, parts))), css="sd-count"))
    _lay_together(chosen)
    pin = not all(row.mark.pinned for row in chosen)
    st.button(
        "Pin" if pin else "Unpin",
        key="runs-pin",
        type="tertiary",
        icon=":material/push_pin:",
        on_click=frame.attempt,
        args=(lambda: backend.user_data.pin_runs(keys, pin),),
    )
    if len(chosen) == 1:
        _name(backend, chosen[0])
        offer_run_file(backend, chosen[0])
    if stored := [row for row in chosen if row.run is not None]:
        _delete(backend, rows, stored)
    st.button("Clear", key="runs-clear", type="tertiary", on_click=runs_table.tick_rows, args=([],))


def _lay_together(chosen: Sequence[RunRow]) -> None:
    shown = runs_table.is_overlaid()
    st.button(
        "Close the chart" if shown else "Lay over each other" if len(chosen) > 1 else "Show the chart",
        type="secondary" if shown else "primary",
        key="runs-together",
        on_click=set_query,
        args=({runs_table.TOGETHER: "" if shown else "1"},),
    )


def _name(backend: Backend, row: RunRow) -> None:
    place, field = f"name-of-{row.address}", f"name-{row.address}"

    def save() -> None:
        backend.user_data.name_run(row.key, st.session_state[field])
        st.session_state[place] = False

    with (
        st.popover("Name", type="tertiary", icon=":material/edit:", key=place, on_change="rerun"),
        st.form(f"form-{row.address}", border=False),
    ):
        st.text_input("What this run is called", row.mark.name, key=field, max_chars=LONGEST_NAME)
        frame.show(paragraph("Shown wherever the run is; an empty one takes the name away.", css="sd-small"))
        st.form_submit_button("Save", on_click=frame.attempt, args=(save,))


def _delete(backend: Backend, rows: Sequence[RunRow], stored: Sequence[RunRow]) -> None:
    titles = {row.key: row.title for row in rows}
    keys = [row.key for row in stored]

    def remove() -> None:
        gone = backend.removal.remove(keys)
        left = {run.key for run in gone.runs}
        runs_table.tick_rows([row.address for row in stored if row.key not in left])
        st.toast(widget_label(run_list.run_deletion_report(gone, titles)), icon=":material/delete:", duration="long")

    asking = st.popover("Delete", type="tertiary", icon=":material/delete:", key="runs-delete", on_change="rerun")
    if not asking.open:
        return
    with asking:
        plan = backend.removal.plan(keys)
        for said in run_list.run_deletion_question(plan, titles):
            frame.show(paragraph(said))
        if plan.runs:
            st.button("Delete for good", type="primary", on_click=frame.attempt, args=(remove,))


MEASURE = "measure"
_JUDGED = "The green band is what may be lost: ✓ within, ✕ beyond, ? undecided, under the axis where there are several."
_CLICK = "A click on a point opens its answers beside the dense model's."
_VERDICT = f"Each run against its own dense model. Bars: the intervals that the verdict rests on. {_JUDGED} {_CLICK}"
_DRAWN: dict[Measure, str] = {
    "word perplexity": _VERDICT,
    "accuracy": _VERDICT,
    "flips": f"Each run against its own dense model. Bars: 95 % intervals. {_CLICK}",
    "share right": f"Bars and the blue band: 95 % intervals. {_CLICK}",
}


def show_overlay(backend: Backend, chosen: Sequence[RunRow]) -> None:
    """Draw the chart of the chosen runs, what it leaves out and why, and its numbers."""
    looked_at = [row for row in chosen if row.run is not None][:MOST_RUNS]
    allowed = navigation.current_tolerance()
    found = [results for row in looked_at if (results := run_results(backend, row.run, allowed, row.mark.name))]
    frame.section("Laid over each other" if len(chosen) > 1 else "The chart of this run")
    drawn = overlay(found)
    if drawn is None:
        frame.note("None of the chosen runs has a sparse model with answers yet.")
        return
    frame.show(Html(f"<style>{theme_switch_css()}</style>"))
    _draw_overlay(drawn)
    for said in drawn.notes:
        frame.note(said)
    if len(looked_at) < len([row for row in chosen if row.run is not None]):
        frame.note(f"Only the first {MOST_RUNS} of the chosen runs are looked at.")
    with st.expander("The numbers as a table"):
        frame.show_table(drawn.numbers())


def _draw_overlay(drawn: Overlay) -> None:
    asked = st.segmented_control(
        "What the chart shows",
        drawn.measures,
        default=drawn.measures[0],
        key=MEASURE,
        bind=BOUND,
        required=True,
        label_visibility="collapsed",
    )
    measure: Measure = asked or drawn.measures[0]
    selected = st.plotly_chart(
        tradeoff_chart(drawn.tradeoff(), measure, frame.theme()),
        theme=None,
        config=chart_files.chart_config(f"runs-{measure}".replace(" ", "-")),
        alt=tradeoff_words(drawn.tradeoff(brief=False), measure),
        key=f"together-{measure}",
        on_select="rerun",
        selection_mode="points",
    )
    chart_files.offer_chart()
    said = f"{_DRAWN[measure]} {far_words(drawn.tradeoff(), measure)}".strip()
    frame.show(drawn.legend(), paragraph(said, css="sd-muted sd-small"))
    if address := drawn.comparisons().get(clicked_record(selected["selection"]["points"])):
        st.switch_page("pages/compare.py", query_params={**address, **navigation.tolerance_query()})


def explain_no_runs(backend: Backend) -> None:
    """Draw what will be here, and the ways to it; and that runs ended without a result, where some did."""
    frame.opening("No run has a result yet.")
    frame.empty(
        "Every run will be a row here: its model and method, how much was removed, what that cost, and whether it is "
        "within what may be lost. Runs can be named, pinned, deleted, and laid over each other in one chart."
    )
    n_ended = sum(job.makes_run and not job.live and job.state != "done" for job in backend.jobs(JOBS_LISTED))
    if n_ended:
        one = n_ended == 1
        frame.note(f"{n_ended} {'run' if one else 'runs'} ended before {'it' if one else 'they'} had a result.")
        frame.link("jobs", "See why in the list of jobs")
    with st.container(horizontal=True, vertical_alignment="center"):
        frame.link("prune", "Prune a model")
        if backend.example() is not None:
            frame.link("overview", "Look at an example", run=EXAMPLE)
        offer_to_open_file(backend)
