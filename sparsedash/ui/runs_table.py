"""All runs as a table: filter, order, pages, rows to tick, kept up to date while runs are live."""

from collections.abc import Collection, Mapping, Sequence

import streamlit as st

from sparsedash.reporting import run_list, wording
from sparsedash.reporting.html import Html, element, escape, widget_label
from sparsedash.reporting.run_list import JOBS_LOOKED_AT, RunRow, newest_jobs
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, frame, navigation
from sparsedash.ui.address_bar import BOUND, PAGE, set_query
from sparsedash.ui.frame import JOB_S

CHOSEN, OVERLAID = "chosen", "together"
"""Parameters of the address: the ticked runs, and whether they are overlaid."""
ROWS_A_PAGE = 25

_TEXT = "contains"
"""The parameter of the search. No field of another page may have this name: Streamlit hands values on."""
_READING_S = 0.3
_READING = "runs-reading"
_LINES = {
    "Method": ("method", ""),
    "Removed": ("removed", "", "sd-muted"),
    "Verdict": ("verdict", "", "sd-muted", "sd-run-state", "sd-muted"),
    "Cost": ("cost", "sd-run-factor", "sd-muted", ""),
    "Started": ("when", "", "sd-muted"),
}
"""Classes of each column: of its cells, then of the lines in them."""
_UNDER = (
    "Verdict and cost are of one model of each run, the one that its page speaks of: by the best method, the largest "
    "sparsity within the acceptable loss; where there is none, the smallest beyond it. Cost: word perplexity as a "
    "multiple of the dense model's, with the interval of the verdict, and the change of accuracy. The last line of a "
    "row says how long the run took."
)


def ticked_rows(rows: Sequence[RunRow]) -> list[RunRow]:
    """The ticked runs, in the order in which they were ticked; deleted ones are left out."""
    known = {row.address: row for row in rows}
    return [known[address] for address in dict.fromkeys(st.query_params.get_all(CHOSEN)) if address in known]


def tick_rows(addresses: Sequence[str]) -> None:
    """Tick these runs and no other."""
    if addresses:
        st.query_params[CHOSEN] = list(addresses)
    else:
        set_query({CHOSEN: "", OVERLAID: ""})


def filter_rows(rows: Sequence[RunRow]) -> list[RunRow]:
    """Draw the search, the choice of a model and the order. Returns the rows they leave, in that order."""
    back = {PAGE: ""}
    searching, rest = st.columns(2, gap="small")
    with searching:
        text = st.text_input("Search", key=_TEXT, bind=BOUND, max_chars=100, type="search")
    # Next to each other on a phone as well: the table is what counts.
    of_model, by = rest.columns([3, 2], gap="small", wrap=False)
    with of_model:
        titles = {"": "All models", **run_list.model_titles(rows)}
        model = address_bar.select("model", "Model", titles, "", along=back, noun="model")
    with by:
        order = address_bar.select("sort", "Order", run_list.ORDERS, next(iter(run_list.ORDERS)), along=back)
    return run_list.sort_rows(run_list.rows_matching(rows, text or "", model), order)


def show_run_table(rows: Sequence[RunRow], chosen: Collection[str]) -> None:
    """Draw a page of these rows with boxes to tick. chosen: the keys of the ticked ones."""
    shown, draw_pages = address_bar.page_of(rows, ROWS_A_PAGE)
    keys = {row.address: f"tick-{row.address}" for row in shown}

    def save_ticks() -> None:
        """Read from all boxes that are shown: of two clicks at once the second brings the address before the first."""
        before = list(dict.fromkeys(st.query_params.get_all(CHOSEN)))
        now = [address for address, key in keys.items() if st.session_state.get(key)]
        kept = [address for address in before if address in now or address not in keys]
        tick_rows([*kept, *(address for address in now if address not in kept)])

    with st.container(key="runs", gap=None):
        frame.show(element("div", *(element("span", escape(name)) for name in ("Run", *_LINES)), css="sd-runs-head"))
        for row in shown:
            with st.container(horizontal=True, key=f"run-row-{row.address}", gap=None):
                key, text = keys[row.address], widget_label(f"Choose {row.title}")
                st.session_state[key] = row.key in chosen
                st.checkbox(text, key=key, label_visibility="collapsed", on_change=save_ticks)
                _draw_run(row)
    draw_pages()
    frame.offer_table(run_list.runs_table(rows, frame.zone()))
    frame.remark(_UNDER)


def _draw_run(row: RunRow) -> None:
    # A search is judged by its own tolerance unless the address has one.
    allowed = navigation.current_tolerance()
    tolerance = {navigation.RATIO: f"{allowed.ratio:g}", navigation.POINTS: f"{allowed.points:g}"}
    with st.container(gap=None):
        title = widget_label(row.mark.name or wording.reference_title(row.settings.model))
        frame.link("overview", title, run=row.key, **(tolerance if row.search is not None else {}))
        pinned = element("b", escape("★ pinned · ")) if row.mark.pinned else Html("")
        frame.show(element("p", pinned, escape(row.texts), css="sd-run-about"))
    frame.show(element("div", *_cells(row), css="sd-run-cells"))


def _cells(row: RunRow) -> list[Html]:
    """The cells, each with its head for screen readers."""
    drawn = []
    for (head, (css, *classes)), lines in zip(_LINES.items(), row.cells(frame.zone()), strict=True):
        if head == "Verdict" and row.model is not None:
            # Under a verdict the state is a remark; without one, it is what there is to say.
            classes = [f"sd-run-{row.model.verdict.verdict}", *["sd-muted"] * 3]
        texts = [element("span", escape(text), css=name) for name, text in zip(classes, lines, strict=True) if text]
        drawn.append(element("div", element("span", escape(f"{head}: "), css="sd-heard"), *texts, css=f"sd-run-{css}"))
    return drawn


def watch_runs(backend: Backend, rows: Sequence[RunRow]) -> None:
    """Draw how many runs are still to be read, and poll while something can change; the page is then run again."""
    if n_unread := sum(not row.known for row in rows):
        _read_on(n_unread, object())
    if any(row.live for row in rows):
        _watch_live_rows(backend, _live_states(backend))


@frame.fragment(_READING_S)
def _read_on(n_unread: int, this_run: object) -> None:
    """this_run: of the page, so that it is drawn before it is run again."""
    frame.note(f"The answers of {n_unread} {wording.plural(n_unread, 'run')} are being read for the first time.")
    if st.session_state.get(_READING) is this_run:
        st.rerun()
    st.session_state[_READING] = this_run


@frame.fragment(JOB_S)
def _watch_live_rows(backend: Backend, before: Mapping[str, tuple[str, int]]) -> None:
    if _live_states(backend) != before:
        st.rerun()


def _live_states(backend: Backend) -> Mapping[str, tuple[str, int]]:
    """State and number of sparse models of each live run, by its key."""
    live = [job for job in newest_jobs(backend.jobs(JOBS_LOOKED_AT)).values() if job.live]
    return {job.key: (job.state, len(run.sparse) if (run := backend.run(job.key)) else -1) for job in live}
