"""The switch between the two views of the compare page, and the page while there is nothing to compare."""

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from sparsedash.reporting.record_pair import Pair, SideBySide
from sparsedash.reporting.run_answer import still_to_come
from sparsedash.schema.records import Passages, Run
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, compare_blind, compare_open, frame, job_panel
from sparsedash.ui.chosen_run import ChosenRun
from sparsedash.ui.compare_choices import CHANGE, OTHER_WORDS, About, Places, Shown

_MODE = "blind-mode"


@dataclass(frozen=True)
class View:
    """The steps in which the two views differ.

    begin: draws the page's first sentence and more on it, given what the comparison rests on.
    choose_passages: draws the choices among the passages; returns those that can be stepped through.
    sides: how the two models are shown for one passage or prompt, given its name.
    judge: draws the way to say which side is better, where there is one.
    """

    begin: Callable[[Backend, Run, Pair, str, About], None]
    choose_passages: Callable[[Backend, Run, Pair, Passages | None, Places], Shown]
    sides: Callable[[Backend, Pair, str], SideBySide]
    judge: Callable[[Backend, SideBySide, str], None]


def view_asked_for() -> View:
    """The view that the address names; with the models' names unless it says otherwise."""
    if _is_blind():
        return View(
            compare_blind.begin_blind,
            compare_blind.choose_blind_passages,
            compare_blind.blind_sides,
            compare_blind.ask_preference,
        )
    return View(
        compare_open.begin_open, compare_open.choose_open_passages, compare_open.open_sides, compare_open.show_verdict
    )


def choose_view() -> None:
    """Draw the switch between the two; the address says whether it is on."""
    st.session_state[_MODE] = _is_blind()
    st.toggle(
        "Blind",
        key=_MODE,
        on_change=_switch,
        help="Hides which model is which until you have said which answer is better.",
    )


def _is_blind() -> bool:
    return address_bar.query_value("mode") == "blind"


def _switch() -> None:
    """What is filtered and sorted by tells which side is right, so the address forgets it."""
    if st.session_state[_MODE]:
        address_bar.set_query({"mode": "blind", "filter": "", "sort": "", OTHER_WORDS: "", CHANGE: "", "passage": ""})
    else:
        address_bar.set_query({"mode": ""})


def can_be_compared(backend: Backend, run: Run | None) -> bool:
    """Whether the dense model and a sparse one have answered."""
    return run is not None and bool(run.sparse) and backend.record(run.dense) is not None


def explain_no_comparison(backend: Backend, chosen: ChosenRun) -> None:
    """Say why there is nothing to compare: the run is under way, ended early, or does not exist."""
    job, run = chosen.job, chosen.run
    what = "Here a dense and a sparse model will stand side by side: each passage, both answers, both probabilities."
    if job is not None and job.live:
        frame.opening(still_to_come(job, "The comparison is"))
        frame.empty(what, "It comes as soon as the dense model and a sparse one have answered.")
        job_panel.watch_job(backend, job, lambda: can_be_compared(backend, backend.run(chosen.key)))
        frame.link("overview", "See this run", run=chosen.key)
    elif job is not None and (chosen.asked or (run is not None and run.sparse)):
        why = f": its dense record {backend.why_missing(run.dense)}" if run is not None and run.sparse else ""
        frame.opening(f"This run has no answers to compare{why}.")
        job_panel.draw_job(backend, job)
    elif chosen.asked and run is None:
        frame.opening("There is no run with this address.")
        frame.empty("It may have been made in another data folder.")
        frame.link("compare", "Compare what there is")
    else:
        frame.opening("Nothing to compare yet.")
        frame.empty(what)
        frame.link("overview", "See the runs" if backend.runs() else "Run the built-in model first")
    if job is None or not job.live:
        job_panel.mention_other_runs(backend, chosen.key)
