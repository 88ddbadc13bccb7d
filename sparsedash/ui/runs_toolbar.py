"""Actions on the ticked runs: overlay, pin, rename, export, delete; and the runs page before there is a run."""

import re
from collections.abc import Mapping, Sequence

import streamlit as st

from sparsedash.catalog.choices import EXAMPLE
from sparsedash.reporting import run_list, wording
from sparsedash.reporting.charts.chart_style import theme_switch_css
from sparsedash.reporting.charts.tradeoff_chart import clicked_record, far_words, tradeoff_chart, tradeoff_words
from sparsedash.reporting.charts.tradeoff_data import Measure
from sparsedash.reporting.html import Html, element, escape, paragraph, widget_label
from sparsedash.reporting.run_list import MOST_RUNS, RUN_ADDRESS_LENGTH, RunRow, hidden_selection_note, overlay
from sparsedash.reporting.run_results import run_results
from sparsedash.schema.errors import SparseDashError
from sparsedash.service.backend import Backend
from sparsedash.service.deletion import Selection
from sparsedash.storage.run_files import SUFFIX
from sparsedash.storage.text_files import MAX_MEGABYTES
from sparsedash.storage.users import LONGEST_NAME
from sparsedash.ui import frame, navigation, runs_table
from sparsedash.ui.address_bar import choose_measure, choose_tolerance, query_value, set_query
from sparsedash.ui.browser_scripts import show_chart
from sparsedash.ui.form_fields import free_upload_memory
from sparsedash.ui.job_panel import JOBS_LISTED

_FIELD, _REFUSED = "run-file", "run-file-refused"
_NOT_IN_NAMES = re.compile(r"[^\w.-]+", re.ASCII)
_HINT = "Select runs to overlay, pin, rename, export or delete."
_EXPORT = (
    "The run as one file, with its records and passages: “Open a file” on this page of another SparseDash shows it "
    "with the same pages. Names, prompts and blind choices stay here."
)
_OPEN = (
    "A file that “Export run” on this page, or sparsedash pack in a shell, has written on another machine. It is read "
    "as every result is, and refused where anything in it was changed. Open files only from people you trust. Larger "
    "ones: sparsedash unpack FILE, in a shell on the server."
)
_CLICK = "A click on a point opens its answers next to the dense model's."
_VERDICT = (
    "Each run against its own dense model. Bars: confidence intervals behind the verdict. The green band is the "
    f"acceptable loss: ✓ within, ✕ beyond, ? undecided, under the axis where there are several. {_CLICK}"
)
_HINTS: dict[Measure, str] = {
    "word perplexity": _VERDICT,
    "accuracy": _VERDICT,
    "flips": f"Each run against its own dense model. Bars: 95 % intervals. {_CLICK}",
    "share right": f"Bars and the blue band: 95 % intervals. {_CLICK}",
}


def show_toolbar(backend: Backend, rows: Sequence[RunRow], chosen: Sequence[RunRow], listed: Sequence[RunRow]) -> None:
    """Draw the actions on the ticked runs. rows: all runs. listed: those that the table shows."""
    with st.container(horizontal=True, vertical_alignment="center", key="runs-toolbar"):
        if chosen:
            _draw_actions(backend, rows, chosen, listed)
        else:
            frame.show(paragraph(_HINT, css="sd-muted"))
            _offer_to_open_file(backend)
        choose_tolerance()


def _draw_actions(backend: Backend, rows: Sequence[RunRow], chosen: Sequence[RunRow], listed: Sequence[RunRow]) -> None:
    keys, overlaid = [row.key for row in chosen], is_overlaid()
    counts = [f"{len(chosen)} chosen", hidden_selection_note(keys, listed)]
    frame.show(paragraph(", ".join(filter(None, counts)), css="sd-count"))
    st.button(
        "Close the chart" if overlaid else "Overlay" if len(chosen) > 1 else "Show the chart",
        type="secondary" if overlaid else "primary",
        key="runs-together",
        on_click=set_query,
        args=({runs_table.OVERLAID: "" if overlaid else "1"},),
    )
    pin = not all(row.mark.pinned for row in chosen)
    frame.action_button(
        "Pin" if pin else "Unpin",
        lambda: backend.user_data.pin_runs(keys, pin),
        key="runs-pin",
        icon="push_pin",
        kind="tertiary",
    )
    if len(chosen) == 1:
        _offer_rename(backend, chosen[0])
        if chosen[0].run is not None and chosen[0].run.finished:
            _offer_run_file(backend, chosen[0])
    if stored := [row for row in chosen if row.run is not None]:
        _offer_deletion(backend, {row.key: row.title for row in rows}, stored)
    st.button("Clear", key="runs-clear", type="tertiary", on_click=runs_table.tick_rows, args=([],))


def _offer_rename(backend: Backend, row: RunRow) -> None:
    place, field = f"name-of-{row.address}", f"name-{row.address}"

    def save() -> None:
        backend.user_data.name_run(row.key, st.session_state[field])
        st.session_state[place] = False

    popover = st.popover("Rename", type="tertiary", icon=":material/edit:", key=place, on_change="rerun")
    with popover, st.form(f"form-{row.address}", border=False):
        st.text_input("Name of this run", row.mark.name, key=field, max_chars=LONGEST_NAME)
        frame.show(paragraph("Shown wherever the run is; an empty one removes the name.", css="sd-small"))
        st.form_submit_button("Save", on_click=frame.attempt, args=(save,))


def _offer_deletion(backend: Backend, titles: Mapping[str, str], stored: Sequence[RunRow]) -> None:
    """Draw the question and what goes with these runs. titles: of all runs, by their keys."""
    chosen = Selection(runs=tuple(row.key for row in stored))

    def remove() -> None:
        removed = backend.housekeeping.delete(chosen)
        gone, report = {run.key for run in removed.runs}, run_list.run_deletion_report(removed, titles)
        runs_table.tick_rows([row.address for row in stored if row.key not in gone])
        st.toast(widget_label(report), icon=":material/delete:", duration="long")

    popover = st.popover("Delete", type="tertiary", icon=":material/delete:", key="runs-delete", on_change="rerun")
    if popover.open:
        with popover:
            plan = backend.housekeeping.plan(chosen)
            for sentence in run_list.run_deletion_question(plan, titles):
                frame.show(paragraph(sentence))
            if plan.runs:
                frame.action_button("Delete for good", remove, kind="primary")


def _offer_run_file(backend: Backend, row: RunRow) -> None:
    """Draw the export of a finished run as a file, made when its button is pressed."""
    popover = st.popover("Export run", type="tertiary", icon=":material/download:", key="run-along", on_change="rerun")
    if popover.open:
        with popover, frame.errors_in_words():
            packed = backend.pack_run(row.key)
            name = _NOT_IN_NAMES.sub("-", row.title).strip("-.")[:60] or "run"
            frame.show(paragraph(_EXPORT))
            frame.offer_file(
                f"Download, {wording.size(len(packed))}",
                packed,
                f"{name}-{row.key[:6]}{SUFFIX}",
                "application/octet-stream",
                key="run-take-along",
                kind="primary",
            )


def _offer_to_open_file(backend: Backend) -> None:
    """Draw the button that opens a run's file, where the user may; a refusal stands above the field."""
    if not backend.administers:
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
            help=_OPEN,
            on_change=_open_file,
            args=(backend,),
        )


def _open_file(backend: Backend) -> None:
    """Keep the run of the uploaded file, and tick it; a refusal stands until the next file."""
    file = st.session_state[_FIELD]
    if file is None:
        return
    st.session_state[_REFUSED] = ""
    try:
        run = backend.open_run(file.getvalue())
    except SparseDashError as error:
        st.session_state[_REFUSED] = f"{error.message} {error.advice}".strip()
        return
    finally:
        free_upload_memory(file)
    runs_table.tick_rows([run.key[:RUN_ADDRESS_LENGTH]])
    title = wording.stored_run_title(run, backend.user_data.name_of(run.key))
    st.toast(widget_label(f"{title} is among the runs now."), icon=":material/check_circle:")


def is_overlaid() -> bool:
    """Whether the ticked runs are overlaid in a chart."""
    return bool(query_value(runs_table.OVERLAID))


def show_overlay(backend: Backend, chosen: Sequence[RunRow]) -> None:
    """Draw the chart of the ticked runs, what it leaves out and why, and its numbers."""
    with_results = [row for row in chosen if row.run is not None]
    looked_at, allowed = with_results[:MOST_RUNS], navigation.current_tolerance()
    found = [results for row in looked_at if (results := run_results(backend, row.run, allowed, row.mark.name))]
    frame.section("Overlay" if len(chosen) > 1 else "The chart of this run")
    drawn = overlay(found)
    if drawn is None:
        frame.note("None of the chosen runs has a sparse model with answers yet.")
        return
    frame.show(Html(f"<style>{theme_switch_css()}</style>"))
    measure, tradeoff = choose_measure(drawn.measures), drawn.tradeoff()
    chart, alt = tradeoff_chart(tradeoff, measure, frame.theme()), tradeoff_words(drawn.tradeoff(brief=False), measure)
    pressed = clicked_record(show_chart(chart, f"runs-{measure}", alt, f"together-{measure}"))
    hint = f"{_HINTS[measure]} {far_words(tradeoff, measure)}".strip()
    frame.show(drawn.legend(), paragraph(hint, css="sd-muted sd-small"))
    if address := drawn.comparisons().get(pressed):
        st.switch_page("pages/compare.py", query_params={**address, **navigation.tolerance_query()})
    for note in drawn.notes:
        frame.note(note)
    if len(looked_at) < len(with_results):
        frame.note(f"Only the first {MOST_RUNS} of the chosen runs are looked at.")
    with st.expander("The numbers as a table"):
        frame.show_table(drawn.numbers())


def explain_no_runs(backend: Backend) -> None:
    """Draw what will be here, and the ways to it; and that runs ended without a result, where some did."""
    frame.opening("No run has a result yet.")
    frame.empty(
        "Every run will be a row here: its model and method, how much was removed, what that cost, and whether it is "
        "within the acceptable loss. Runs can be named, pinned, exported, deleted and overlaid in one chart."
    )
    n_ended = sum(job.makes_run and not job.live and job.state != "done" for job in backend.jobs(JOBS_LISTED))
    if n_ended:
        one = n_ended == 1
        frame.note(f"{n_ended} {'run' if one else 'runs'} ended before {'it' if one else 'they'} had a result.")
        frame.link("jobs", "See why in the list of jobs")
    with frame.row():
        frame.link("prune", "Prune a model")
        if backend.run(EXAMPLE) is not None:
            frame.link("overview", "Look at an example", run=EXAMPLE)
        _offer_to_open_file(backend)
