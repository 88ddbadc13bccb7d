"""Models of the ticked runs by tasks: baseline, rows and order, the table, its files."""

from collections.abc import Sequence
from urllib.parse import urlencode

import streamlit as st

from sparsedash.reporting.html import Html, element, escape, join, paragraph
from sparsedash.reporting.leaderboard import (
    MAX_MODELS,
    READING,
    Entry,
    leaderboard,
    leaderboard_entries,
)
from sparsedash.reporting.run_results import RunResults
from sparsedash.service.backend import Backend
from sparsedash.ui import navigation, widgets
from sparsedash.ui.address_bar import select
from sparsedash.ui.chosen_run import RIGHT
from sparsedash.ui.loss_charts import show_caption

_BEYOND = "beyond"
_ROWS = {"": "All models", _BEYOND: "Only regressions"}
_REGRESSIONS = (
    "Only regressions: models that are beyond the limit on the passages or on any task."
)
_ALONE = "Only one model: select a run with a sparse model, or more runs."
_TOGETHER = "The models of these runs are judged together, so intervals are wider than on the pages of single runs."
_NO_TASKS = "None of these runs has answers to tasks: name some under “Questions besides the passages” on Prune."


def show_leaderboard(backend: Backend, results: Sequence[RunResults]) -> None:
    """Draw the table of these runs' models, what it says in a sentence, and its downloads."""
    entries, n_left_out = leaderboard_entries(results)
    first, second, third = st.columns(3)
    with first:
        titles = {key: entry.title for key, entry in entries.items()}
        baseline = select(
            "baseline", "Baseline", titles, next(iter(titles)), noun="model"
        )
    board = leaderboard(backend, entries, baseline, navigation.current_tolerance())
    with second:
        only_beyond = select("rows", "Rows", _ROWS, "", noun="filter") == _BEYOND
    with third:
        orders = {"": "By base model"}
        for name, head in board.columns.items():
            orders[name] = f"Best first: {head}"
        order = select("order", "Order of the models", orders, "", noun="column")
    rows = board.rows(only_beyond, order)
    widgets.show(paragraph(board.sentence if len(entries) > 1 else _ALONE))
    captions = [board.caption]
    if len(results) > 1:
        captions.append(_TOGETHER)
    if only_beyond:
        captions.append(_REGRESSIONS)
    show_caption("leaderboard", "table", captions, [*READING, _REGRESSIONS])
    table = board.table(rows, [_name(entries[key], key == baseline) for key in rows])
    widgets.show(element("div", table.html, css="sd-board"))
    if n_left_out:
        widgets.note(
            f"Only the first {MAX_MODELS} models are shown; {n_left_out} are left out. Select fewer runs."
        )
    for note in board.notes:
        widgets.note(note)
    if not board.has_tasks:
        widgets.note(_NO_TASKS)
    with widgets.row():
        widgets.offer_table(table)
        widgets.offer_file(
            "Report, one HTML file",
            lambda: board.report(rows),
            "models-by-tasks.html",
            "text/html",
            key="take-leaderboard",
        )


def _name(entry: Entry, is_baseline: bool) -> Html:
    """The base model as a link to the run, or to its comparison with dense, over the model's name."""
    query = {"run": entry.run.run.key, **navigation.tolerance_query()}
    page = "./"
    about = entry.title
    if entry.model.record.pruned:
        query[RIGHT] = entry.run.names[entry.model.record.key]
        page = "compare"
        about = f"Compare {about} with dense"
    link = element(
        "a",
        escape(entry.base),
        href=f"{page}?{urlencode(query)}",
        aria_label=about,
    )
    name = f"{entry.name}, baseline" if is_baseline else entry.name
    return join(link, element("span", escape(name), css="sd-under"))
