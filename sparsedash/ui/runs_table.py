"""All runs as a table: filter, order, pages, rows to tick, kept up to date while runs are live."""

from collections.abc import Collection, Sequence

import streamlit as st

from sparsedash.reporting import run_list, wording
from sparsedash.reporting.html import Html, element, escape, join, widget_label
from sparsedash.reporting.run_list import JOBS_LOOKED_AT, RunRow, newest_jobs, row_sparsity, row_state
from sparsedash.reporting.wording import plural
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, frame, navigation
from sparsedash.ui.address_bar import BOUND, query_value, set_query
from sparsedash.ui.frame import JOB_S

CHOSEN, TOGETHER, PAGE, TEXT = "chosen", "together", "page", "contains"
"""Parameters of the address: the runs that are ticked; whether they are laid over each other; which part of the table
is shown; the text that is looked for. No field of another page may be called as the last: Streamlit hands values on.
"""

ROWS_A_PAGE = 25
"""Rows of the table at once."""


def ticked_rows(rows: Sequence[RunRow]) -> list[RunRow]:
    """The runs that are ticked, in the order in which they were; what is gone is left out."""
    known = {row.address: row for row in rows}
    addresses = dict.fromkeys(st.query_params.get_all(CHOSEN))
    return [known[address] for address in addresses if address in known]


def tick_rows(addresses: Sequence[str]) -> None:
    """Tick these runs and no other."""
    if addresses:
        st.query_params[CHOSEN] = list(addresses)
    else:
        set_query({CHOSEN: "", TOGETHER: ""})


def draw_tick(row: RunRow, shown: Sequence[RunRow], is_chosen: bool) -> None:
    """Draw the box that chooses a run. shown: the rows of this part of the table."""
    key = _tick_key(row.address)
    st.session_state[key] = is_chosen
    st.checkbox(
        widget_label(f"Choose {row.title}"),
        key=key,
        label_visibility="collapsed",
        on_change=_save_ticks,
        args=([each.address for each in shown],),
    )


def is_overlaid() -> bool:
    """Whether the chosen runs are laid over each other."""
    return bool(query_value(TOGETHER))


def filter_rows(rows: Sequence[RunRow]) -> list[RunRow]:
    """Draw the search, the choice of a model and the order. Returns the rows they leave, in that order."""
    back = {PAGE: ""}
    looked_for, rest = st.columns(2, gap="small")
    with looked_for:
        text = st.text_input("Search", key=TEXT, bind=BOUND, max_chars=100, type="search")
    # Beside each other on a phone as well: the table is what somebody came for.
    of_model, by = rest.columns([3, 2], gap="small", wrap=False)
    with of_model:
        found = {"": "All models", **run_list.model_titles(rows)}
        model = address_bar.select("model", "Model", found, "", along=back, noun="model")
    with by:
        order = address_bar.select("sort", "Order", run_list.ORDERS, next(iter(run_list.ORDERS)), along=back)
    return run_list.sort_rows(run_list.rows_matching(rows, text or "", model), order)


def table_part(rows: Sequence[RunRow]) -> tuple[int, int]:
    """Which part of the table is shown, from 0, and how many there are."""
    n_parts = max(1, -(-len(rows) // ROWS_A_PAGE))
    wanted = query_value(PAGE)
    number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 6 else 1
    return min(max(number, 1), n_parts) - 1, n_parts


def _save_ticks(shown: Sequence[str]) -> None:
    """Keep what was ticked in the address.

    Read from all boxes that are shown: of two clicks at once the second still brings the address before the first.
    """
    before = list(dict.fromkeys(st.query_params.get_all(CHOSEN)))
    now = [address for address in shown if st.session_state.get(_tick_key(address))]
    kept = [address for address in before if address in now or address not in shown]
    tick_rows([*kept, *(address for address in now if address not in kept)])


def _tick_key(address: str) -> str:
    return f"tick-{address}"


_HEAD = ("Run", "Method", "Removed", "Verdict", "Cost", "Started")
_UNDER = (
    "Verdict and cost are of one model of each run, the one that its page speaks of: by the best method, the largest "
    "sparsity within what may be lost; where there is none, the smallest beyond it. Cost: word perplexity as a "
    "multiple of the dense model's, with the interval of the verdict, and the change of accuracy. The last line of a "
    "row says how long the run took."
)


def show_run_table(rows: Sequence[RunRow], chosen: Collection[str]) -> None:
    """Draw these rows under their heads. chosen: the keys of those that are ticked."""
    number, n_parts = table_part(rows)
    shown = rows[number * ROWS_A_PAGE : (number + 1) * ROWS_A_PAGE]
    with st.container(key="runs", gap=None):
        frame.show(element("div", *(element("span", escape(name)) for name in _HEAD), css="sd-runs-head"))
        for row in shown:
            with st.container(horizontal=True, key=f"run-row-{row.address}", gap=None):
                _draw_run(row, shown, row.key in chosen)
    if n_parts > 1:
        _steps(number, n_parts, len(rows))
    frame.offer_table(run_list.runs_table(rows, frame.zone()))
    frame.show(element("p", escape(_UNDER), css="sd-muted sd-small"))


def _draw_run(row: RunRow, shown: Sequence[RunRow], is_chosen: bool) -> None:
    draw_tick(row, shown, is_chosen)
    with st.container(gap=None):
        title = row.mark.name or wording.reference_title(row.settings.model)
        frame.link("overview", widget_label(title), **_address(row))
        pinned = element("b", escape("★ pinned · ")) if row.mark.pinned else Html("")
        frame.show(element("p", pinned, escape(run_list.row_texts(row)), css="sd-run-about"))
    frame.show(element("div", *_cells(row), css="sd-run-cells"))


def _cells(row: RunRow) -> list[Html]:
    verdict, which = run_list.row_verdict(row)
    how, far = row_state(row)
    factor, interval, points = run_list.row_loss(row)
    started, took = run_list.row_start_and_duration(row, frame.zone())
    taken, steps = row_sparsity(row)
    judged = row.model.verdict.verdict if row.model else ""
    said = [(verdict, f"sd-run-{judged}" if judged else ""), (which, "sd-muted")]
    # Under a verdict so far it is a remark; where there is none yet, it is what there is to say.
    said += (
        [(", ".join(filter(None, (how, far))), "sd-muted")] if verdict else [(how, "sd-run-state"), (far, "sd-muted")]
    )
    lost = [(factor, "sd-run-factor"), (interval, "sd-muted"), (points, "")]
    return [
        _cell("Method", [(wording.method_titles(row.settings), "")], "sd-run-method"),
        _cell("Removed", [(taken, ""), (steps, "sd-muted")], "sd-run-removed"),
        _cell("Verdict", said, "sd-run-verdict"),
        _cell("Cost", lost, "sd-run-cost"),
        _cell("Started", [(started, ""), (took, "sd-muted")], "sd-run-when"),
    ]


def _cell(head: str, lines: Sequence[tuple[str, str]], css: str) -> Html:
    """A cell with these lines, each with its class; its head is there for those who hear it."""
    drawn = [element("span", escape(text), css=of) for text, of in lines if text]
    heard = element("span", escape(f"{head}: "), css="sd-heard")
    return element("div", heard, join(*drawn), css=css)


def _address(row: RunRow) -> dict[str, str]:
    """A search is judged by what it was asked for, unless the address says otherwise: so it says so here."""
    allowed = navigation.current_tolerance()
    judged = {navigation.RATIO: f"{allowed.ratio:g}", navigation.POINTS: f"{allowed.points:g}"}
    return {"run": row.key} | (judged if row.search is not None else {})


def _steps(number: int, n_parts: int, n_rows: int) -> None:
    first, last = number * ROWS_A_PAGE + 1, min(n_rows, (number + 1) * ROWS_A_PAGE)
    with st.container(horizontal=True, vertical_alignment="center"):
        for name, icon, to in (("Previous", "chevron_left", number - 1), ("Next", "chevron_right", number + 1)):
            st.button(
                name,
                key=f"runs-{name}",
                icon=f":material/{icon}:",
                disabled=not 0 <= to < n_parts,
                on_click=set_query,
                args=({PAGE: str(to + 1) if to else ""},),
            )
        frame.show(element("p", escape(f"{first} to {last} of {n_rows}"), css="sd-muted sd-count"))


_READING_S = 0.3
_READING = "runs-reading"

Standing = dict[str, tuple[str, int]]
"""Of the runs under way the state, and how many sparse models are there, by their keys."""


def watch_runs(backend: Backend, rows: Sequence[RunRow]) -> None:
    """Draw how many runs are still to be read, and poll while something can change; the page is then run again."""
    if n_unread := sum(not row.known for row in rows):
        _read_on(n_unread, object())
    if any(row.live for row in rows):
        _watch_live(backend, _standing(backend))


@frame.fragment(_READING_S)
def _read_on(n_unread: int, this_run: object) -> None:
    """this_run: of the page, so that it is drawn before it is run again."""
    frame.note(f"The answers of {n_unread} {plural(n_unread, 'run')} are being read for the first time.")
    if st.session_state.get(_READING) is this_run:
        st.rerun()
    st.session_state[_READING] = this_run


@frame.fragment(JOB_S)
def _watch_live(backend: Backend, before: Standing) -> None:
    if _standing(backend) != before:
        st.rerun()


def _standing(backend: Backend) -> Standing:
    live = [job for job in newest_jobs(backend.jobs(JOBS_LOOKED_AT)).values() if job.live]
    runs = {job.key: backend.run(job.key) for job in live}
    return {job.key: (job.state, len(run.sparse) if (run := runs[job.key]) is not None else -1) for job in live}
