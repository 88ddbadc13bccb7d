"""All runs as a table to filter, order and tick, and what can be done with the ticked ones."""

from collections.abc import Collection, Sequence
from functools import partial
from itertools import chain

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from sparsedash.catalog.choices import EXAMPLE
from sparsedash.reporting import run_list, wording
from sparsedash.reporting.charts.tradeoff_data import Measure
from sparsedash.reporting.html import (
    Html,
    element,
    escape,
    file_name,
    paragraph,
    widget_label,
)
from sparsedash.reporting.record_pair import unique_names
from sparsedash.reporting.run_list import (
    MAX_LINES,
    RUN_ADDRESS_LENGTH,
    USUAL_COLUMNS,
    Column,
    Overlay,
    RunRow,
    overlay,
)
from sparsedash.reporting.run_results import run_results
from sparsedash.schema.records import Run
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.backend import Backend
from sparsedash.storage.run_files import SUFFIX
from sparsedash.storage.users import LONGEST_NAME
from sparsedash.ui import address_bar, frame, navigation, widgets
from sparsedash.ui.address_bar import (
    BOUND,
    PAGE,
    choose_measure,
    choose_view,
    query_value,
    set_query,
)
from sparsedash.ui.browser_scripts import ChartFile
from sparsedash.ui.form_fields import file_popover
from sparsedash.ui.job_panel import JOBS_LISTED
from sparsedash.ui.judged_files import offer_to_open_answers
from sparsedash.ui.loss_charts import (
    choose_highlight,
    choose_share,
    open_comparison,
    show_tradeoff_chart,
)
from sparsedash.ui.runs_leaderboard import show_leaderboard

CHOSEN = "chosen"
OVERLAID = "together"
"""Parameters of the address: the ticked runs, and whether they are overlaid."""
ROWS_A_PAGE = 25

_BY_TASKS = "tasks"
_OVERLAYS = {"1": "Chart", _BY_TASKS: "Models × tasks"}
_TEXT = "contains"
"""The parameter of the search, on no other page: Streamlit hands values on."""
_COLUMNS = "columns"
_FILTERS = "runs-filters"
_READING = "runs-reading"
_LINES: dict[Column, tuple[str, ...]] = {
    "Verdict": ("verdict", "", "sd-muted", "sd-run-state", "sd-muted"),
    "Cost": ("cost", "sd-run-factor", "sd-muted", ""),
    "Started": ("when", "", "sd-muted"),
    "Method": ("method", ""),
    "Removed": ("removed", "", "sd-muted"),
}
"""Classes of each column: of its cells, then of the lines in them."""
_UNDER = (
    "Each row is about one model of its run: the best method's largest within your limits; where none is, the "
    "smallest beyond them, else the smallest. Cost: word perplexity as a multiple of the dense model's, with the "
    "interval of the verdict, and the change of accuracy. Under the start: the time that the run took."
)


def ticked_rows(rows: Sequence[RunRow]) -> list[RunRow]:
    """The ticked runs, in the order in which they were ticked; deleted ones are left out."""
    by_address = {row.address: row for row in rows}
    ticked = map(by_address.get, dict.fromkeys(st.query_params.get_all(CHOSEN)))
    return list(filter(None, ticked))


def tick_rows(addresses: Sequence[str]) -> None:
    """Tick these runs and no other."""
    if addresses:
        st.query_params[CHOSEN] = list(addresses)
    else:
        set_query({CHOSEN: "", OVERLAID: ""})


def filter_rows(rows: Sequence[RunRow]) -> list[RunRow]:
    """Draw the search, the model and the order. Returns the matching rows in that order."""
    search, choices = st.columns(2, gap="small")
    with search:
        text = st.text_input(
            "Search",
            key=_TEXT,
            bind=BOUND,
            max_chars=100,
            type="search",
        )
    # Next to each other on a phone as well: the table is what counts.
    model_choice, order_choice = choices.columns(
        [3, 2],
        gap="small",
        wrap=False,
    )
    with model_choice:
        models = {
            row.settings.model: wording.reference_title(row.settings.model)
            for row in rows
        }
        by_title = dict(
            sorted(models.items(), key=lambda pair: (pair[1].casefold(), pair[0]))
        )
        titles = {"": "All models", **unique_names(by_title)}
        model = address_bar.select("model", "Model", titles, "", noun="model")
    with order_choice:
        usual_order = next(iter(run_list.ORDERS))
        order = address_bar.select("sort", "Order", run_list.ORDERS, usual_order)
    # Another filter or order begins at the first page.
    filters = (text, model, order)
    if st.session_state.get(_FILTERS, filters) != filters:
        st.session_state[PAGE] = 1
    st.session_state[_FILTERS] = filters
    return run_list.sort_rows(run_list.rows_matching(rows, text or "", model), order)


def show_run_table(rows: Sequence[RunRow], chosen: Collection[str]) -> None:
    """Draw a page of these rows with boxes to tick. chosen: the keys of the ticked ones."""
    columns = _chosen_columns()
    listing = st.container(key="runs", gap=None)
    shown = address_bar.page_of(rows, ROWS_A_PAGE)
    addresses = [row.address for row in shown]
    with listing:
        heads = [element("span", escape(name)) for name in ("Run", *columns)]
        widgets.show(element("div", *heads, css="sd-runs-head"))
        for row in shown:
            with st.container(horizontal=True, key=f"run-row-{row.address}", gap=None):
                key = f"tick-{row.address}"
                st.session_state[key] = row.key in chosen
                st.checkbox(
                    widget_label(f"Choose {row.title}"),
                    key=key,
                    label_visibility="collapsed",
                    on_change=_save_ticks,
                    args=(addresses,),
                )
                _draw_run(row, columns)
    with widgets.row("runs-files"):
        widgets.offer_table(run_list.runs_table(rows, frame.zone()))
        with st.popover("Columns", type="tertiary", icon=":material/view_column:"):
            st.pills(
                "Columns",
                list(_LINES),
                selection_mode="multi",
                default=list(USUAL_COLUMNS),
                key=_COLUMNS,
                bind=BOUND,
            )
    widgets.remark(_UNDER)


def _chosen_columns() -> list[Column]:
    """The columns that the address names, in the order of the table; else the usual ones."""
    names = st.session_state.get(_COLUMNS) or st.query_params.get_all(_COLUMNS)
    chosen = [column for column in _LINES if column in names]
    return chosen or list(USUAL_COLUMNS)


def _save_ticks(shown: Sequence[str]) -> None:
    """Read all boxes: the second of two quick clicks comes with the address before the first."""
    ticked = [address for address in shown if st.session_state.get(f"tick-{address}")]
    before = st.query_params.get_all(CHOSEN)
    kept = [address for address in before if address in ticked or address not in shown]
    tick_rows(list(dict.fromkeys([*kept, *ticked])))


def _draw_run(row: RunRow, columns: Sequence[Column]) -> None:
    tolerance = {}
    if row.search is not None:
        # A search is judged by its own tolerance unless the address has one.
        tolerance = navigation.whole_tolerance_query(navigation.current_tolerance())
    with st.container(gap=None):
        widgets.link("overview", widget_label(row.title), run=row.key, **tolerance)
        pinned = element("b", escape("★ pinned · ")) if row.mark.pinned else Html("")
        widgets.show(element("p", pinned, escape(row.texts), css="sd-run-about"))
    widgets.show(element("div", *_cells(row, columns), css="sd-run-cells"))


def _cells(row: RunRow, columns: Sequence[Column]) -> list[Html]:
    """The cells, each with its head for screen readers."""
    cells = []
    lines_of = row.cells(frame.zone())
    for head in columns:
        css, *classes = _LINES[head]
        if head == "Verdict" and row.model is not None:
            # Under a verdict the state is a remark; without one, it is what there is to say.
            classes = [f"sd-run-{row.model.verdict.verdict}", *["sd-muted"] * 3]
        texts = [element("span", escape(f"{head}: "), css="sd-heard")]
        for name, text in zip(classes, lines_of[head], strict=True):
            if text:
                texts.append(element("span", escape(text), css=name))
        cells.append(element("div", *texts, css=f"sd-run-{css}"))
    return cells


def read_on(rows: Sequence[RunRow]) -> None:
    """Draw how many runs are still to be read; the page is then run again."""
    n_unread = sum(not row.known for row in rows)
    if n_unread:
        _read_on(n_unread, object())


@widgets.fragment(0.3)
def _read_on(n_unread: int, this_run: object) -> None:
    """this_run: of the page, so that it is drawn before it is run again."""
    runs = wording.quantity(n_unread, "run")
    widgets.note(f"The answers of {runs} are being read for the first time.")
    if st.session_state.get(_READING) is this_run:
        st.rerun()
    st.session_state[_READING] = this_run


_HINT = "Select runs to overlay, pin, rename, export or delete."
_EXPORT = (
    "One file with the run's records and passages, for “Open a file” on this page of another SparseDash. Names, "
    "prompts and blind choices are left out."
)
_OPEN = (
    "A file written by “Export run” on this page or by sparsedash pack. A changed file is refused. Open files only "
    "from people you trust. For larger files run sparsedash unpack FILE in a shell on the server."
)


def show_toolbar(
    backend: Backend,
    rows: Sequence[RunRow],
    chosen: Sequence[RunRow],
    listed: Sequence[RunRow],
) -> None:
    """Draw the actions on the ticked runs. rows: all runs. listed: those that the table shows."""
    with widgets.row("runs-toolbar"):
        if chosen:
            _draw_actions(backend, rows, chosen, listed)
        else:
            widgets.show(paragraph(_HINT, css="sd-muted"))
            _offer_to_open_file(backend)
            offer_to_open_answers(backend)


def _draw_actions(
    backend: Backend,
    rows: Sequence[RunRow],
    chosen: Sequence[RunRow],
    listed: Sequence[RunRow],
) -> None:
    keys = [row.key for row in chosen]
    count = f"{len(chosen)} chosen"
    hidden = set(keys) - {row.key for row in listed}
    if hidden:
        count += f", {len(hidden)} of them not in this list"
    widgets.show(paragraph(count, css="sd-count"))
    is_open = is_overlaid()
    text = "Overlay" if len(chosen) > 1 else "Show the chart"
    if is_open:
        text = "Close the table" if _shows_tasks() else "Close the chart"
    st.button(
        text,
        type="secondary" if is_open else "primary",
        key="runs-together",
        on_click=set_query,
        args=({OVERLAID: "" if is_open else "1"},),
    )
    pin = not all(row.mark.pinned for row in chosen)
    widgets.action_button(
        "Pin" if pin else "Unpin",
        lambda: backend.user_data.pin_runs(keys, pin),
        key="runs-pin",
        icon="push_pin",
        kind="tertiary",
    )
    if len(chosen) == 1:
        # Shown once the browser knows that it is open: one saved before that could not be closed.
        place = f"name-of-{chosen[0].address}"
        rename = partial(_name_field, backend, chosen[0], place)
        widgets.popover("Rename", place, rename, "edit")
        run = chosen[0].run
        if run is not None and run.finished:
            draw = partial(_draw_run_file, backend, run, chosen[0].mark.name)
            widgets.popover("Export run", "run-along", draw, "download")
    stored = [row.key for row in chosen if row.run is not None]
    if stored:
        titles = {row.key: row.title for row in rows}
        widgets.ask_to_delete_runs(backend, "runs-delete", stored, titles)
    st.button(
        "Clear", key="runs-clear", type="tertiary", on_click=tick_rows, args=([],)
    )


def _name_field(backend: Backend, row: RunRow, place: str) -> None:
    """Draw the field of a run's name. place: of its window."""
    about = "Shown wherever the run is. Leave it empty to remove the name."
    field = f"name-{row.address}"
    save = partial(_save_name, backend, row, field, place)
    with (
        st.form(f"form-{row.address}", border=False),
        st.container(horizontal=True, vertical_alignment="bottom"),
    ):
        st.text_input(
            "Name of this run",
            row.mark.name,
            key=field,
            max_chars=LONGEST_NAME,
            help=about,
        )
        st.form_submit_button("Save", on_click=widgets.attempt, args=(save,))


def _save_name(backend: Backend, row: RunRow, field: str, place: str) -> None:
    backend.user_data.name_run(row.key, st.session_state[field])
    st.session_state[place] = False


def _draw_run_file(backend: Backend, run: Run, run_name: str) -> None:
    """Draw the export of a finished run as a file, packed when the window opens."""
    packed = backend.pack_run(run.key)
    widgets.show(paragraph(_EXPORT))
    widgets.offer_file(
        f"Download, {wording.size(len(packed))}",
        packed,
        file_name(run_name, wording.file_stem(run), ending=SUFFIX),
        "application/octet-stream",
        key="run-take-along",
        kind="primary",
    )


def _offer_to_open_file(backend: Backend) -> None:
    """Draw the button that opens a run's file, where the user may."""
    if backend.administers:
        # Of any kind: the browser's part of the field refuses every name that ends in what has a
        # hyphen.
        keep = partial(_open_file, backend)
        file_popover(
            "Open a file",
            f"The file of a run ({SUFFIX})",
            None,
            "run-file",
            _OPEN,
            keep,
        )


def _open_file(backend: Backend, file: UploadedFile) -> None:
    """Store the run of a file, and tick it."""
    before = {run.key for run in backend.runs()}
    run = backend.open_run(file.getvalue())
    tick_rows([run.key[:RUN_ADDRESS_LENGTH]])
    title = wording.stored_run_title(run, backend.user_data.name_of(run.key))
    outcome = "Already among the runs" if run.key in before else "Added to the runs"
    st.toast(widget_label(f"{outcome}: {title}."), icon=":material/check_circle:")


def is_overlaid() -> bool:
    """Whether the ticked runs are overlaid in a chart."""
    return bool(query_value(OVERLAID))


def _shows_tasks() -> bool:
    return query_value(OVERLAID) == _BY_TASKS


def show_overlay(backend: Backend, chosen: Sequence[RunRow]) -> None:
    """Draw the chart of the ticked runs with its numbers, or their models by tasks."""
    with_results = [row for row in chosen if row.run is not None]
    limits = navigation.current_tolerance()
    results = []
    for row in with_results[:MAX_LINES]:
        results_of_run = run_results(backend, row.run, limits, row.mark.name)
        if results_of_run:
            results.append(results_of_run)
    if _shows_tasks():
        widgets.section("Models by tasks")
    else:
        widgets.section("Overlay" if len(chosen) > 1 else "The chart of this run")
    if results:
        choose_view(_OVERLAYS, OVERLAID)
    if results and _shows_tasks():
        show_leaderboard(backend, results)
        _note_left_out(with_results)
        return
    if not any(results_of_run.sparse_models for results_of_run in results):
        widgets.note("None of the chosen runs has a sparse model with answers yet.")
        return
    chart = st.container()
    share, highlight = st.columns(2)
    settings = [results_of_run.run.settings for results_of_run in results]
    budgets = {run_settings.budget for run_settings in settings}
    methods = chain.from_iterable(run_settings.methods for run_settings in settings)
    with share:
        usual = budgets.pop() if len(budgets) == 1 else "channels"
        axis = choose_share(usual, list(methods))
    drawn = overlay(results, axis)
    with chart:
        if drawn.legend:
            widgets.show(drawn.legend)
        measure = choose_measure(drawn.measures)
    with highlight:
        choose_highlight(drawn.tradeoff.lines)
    pressed = show_tradeoff_chart(
        drawn.tradeoff,
        measure,
        _overlay_file(drawn, measure, limits),
        f"together-{measure}",
        "Each run against its own dense model.",
    )
    open_comparison(drawn.models.get(pressed))
    for note in drawn.notes:
        widgets.note(note)
    _note_left_out(with_results)
    with st.expander("The numbers as a table"):
        widgets.show_table(drawn.numbers(measure))


def _overlay_file(drawn: Overlay, measure: Measure, limits: Tolerance) -> ChartFile:
    """The chart of several runs as a file, with what its letters stand for."""
    about = [wording.basis_today(limits, frame.zone())]
    about += [f"{sign}: {label}" for sign, label in drawn.signs.items()]
    return ChartFile(file_name("runs", measure), wording.first_upper(measure), about)


def _note_left_out(with_results: Sequence[RunRow]) -> None:
    if len(with_results) > MAX_LINES:
        widgets.note(f"Only the first {MAX_LINES} of the chosen runs are shown.")


def explain_no_runs(backend: Backend) -> None:
    """Draw what will be listed here, how to get there, and that runs ended without a result."""
    widgets.opening("No run has a result yet.")
    widgets.empty(
        "Runs will be listed here with verdict and cost. They can be overlaid in one chart, "
        "pinned, renamed, exported and deleted."
    )
    n_ended = 0
    for job in backend.jobs(JOBS_LISTED):
        n_ended += job.makes_run and not job.live and job.state != "done"
    if n_ended:
        widgets.note(f"{wording.quantity(n_ended, 'run')} ended without a result.")
        widgets.link("runs", "See why in the list of jobs", view="jobs")
    with widgets.row():
        widgets.link("prune", "Prune a model")
        if backend.run(EXAMPLE) is not None:
            widgets.link("overview", "Look at an example", run=EXAMPLE)
        _offer_to_open_file(backend)
        offer_to_open_answers(backend)


def note_damaged(keys: Collection[str]) -> None:
    """Draw which runs are not listed, because their records are damaged; nothing where none is."""
    if keys:
        them = f"{wording.quantity(len(keys), 'run')}, {', '.join(key[:12] for key in keys)}"
        widgets.note(f"Not listed, because their records are damaged: {them}.")
