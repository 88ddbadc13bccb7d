"""Models of the ticked runs by tasks: the choice of baseline, rows and order, the table, and its
files.
"""

from collections.abc import Sequence
from urllib.parse import urlencode

import streamlit as st

from sparsedash.reporting.html import Html, element, escape, join, paragraph
from sparsedash.reporting.leaderboard import (
    MOST_MODELS,
    READING,
    Entry,
    leaderboard,
    leaderboard_entries,
)
from sparsedash.reporting.run_results import RunResults
from sparsedash.service.backend import Backend
from sparsedash.ui import frame, navigation
from sparsedash.ui.address_bar import select
from sparsedash.ui.chosen_run import RIGHT
from sparsedash.ui.loss_charts import show_caption

_BEYOND = "beyond"
_ROWS = {"": "All models", _BEYOND: "Only regressions"}
_REGRESSIONS = "Only regressions: models that are beyond the limit on the passages or on any task."
_ALONE = "Only one model: select a run with a sparse model, or more runs."
_TOGETHER = "The models of these runs are judged together, so intervals are wider than on the pages of single runs."
_NO_TASKS = "None of these runs has answers to tasks: name some under “Questions besides the passages” on Prune."


def show_leaderboard(backend: Backend, found: Sequence[RunResults]) -> None:
    """Draw the table of these runs' models, what it says in a sentence, and its downloads."""
    entries, left_out = leaderboard_entries(found)
    first, second, third = st.columns(3)
    with first:
        titles = {key: each.title for key, each in entries.items()}
        baseline = select("baseline", "Baseline", titles, next(iter(titles)), noun="model")
    board = leaderboard(backend, entries, baseline, navigation.current_tolerance())
    with second:
        only_beyond = select("rows", "Rows", _ROWS, "", noun="filter") == _BEYOND
    with third:
        orders = {
            "": "By base model",
            **{name: f"Best first: {head}" for name, head in board.columns.items()},
        }
        rows = board.rows(
            only_beyond, select("order", "Order of the models", orders, "", noun="column")
        )
    frame.show(paragraph(board.sentence if len(entries) > 1 else _ALONE))
    said = [board.caption, _TOGETHER if len(found) > 1 else "", _REGRESSIONS if only_beyond else ""]
    show_caption("leaderboard", "table", said, [*READING, _REGRESSIONS])
    table = board.table(rows, [_name(entries[key], key == baseline) for key in rows])
    frame.show(element("div", table.html, css="sd-board"))
    more = (
        f"Only the first {MOST_MODELS} models are shown; {left_out} are left out. Select fewer runs."
        * bool(left_out)
    )
    for note in filter(None, (more, *board.notes, "" if board.has_tasks else _NO_TASKS)):
        frame.note(note)
    with frame.row():
        frame.offer_table(table)
        name = "models-by-tasks.html"
        frame.offer_file(
            "Report, one HTML file",
            lambda: board.report(rows),
            name,
            "text/html",
            key="take-leaderboard",
        )


def _name(entry: Entry, pinned: bool) -> Html:
    """The base model as a link to the run, or to the comparison with dense; under it what the model
    is called.
    """
    query, to, about = {"run": entry.run.run.key, **navigation.tolerance_query()}, "./", entry.title
    if entry.model.record.pruned:
        query[RIGHT], to, about = (
            entry.run.names[entry.model.record.key],
            "compare",
            f"Compare {about} with dense",
        )
    link = element("a", escape(entry.base), href=f"{to}?{urlencode(query)}", aria_label=about)
    return join(
        link, element("span", escape(f"{entry.name}{', baseline' * pinned}"), css="sd-under")
    )
