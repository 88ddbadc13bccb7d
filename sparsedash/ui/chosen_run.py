"""The run that a page is about: its results, its job, and how it ended if it ended early."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from sparsedash.jobs.job import Job
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.wording import example_words
from sparsedash.schema.records import Record, Run
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, frame, navigation
from sparsedash.ui.form_address import form_address
from sparsedash.ui.job_panel import JOBS_LISTED, jobs_under_way


@dataclass(frozen=True, kw_only=True)
class ChosenRun:
    """The run that a page is about; every part may be missing.

    key: empty without any run. asked: whether the address names it. run: as far as it is stored. job: the live one, or
    else the newest.
    """

    key: str
    asked: bool
    run: Run | None
    job: Job | None


def chosen_run(backend: Backend, runs: Sequence[Run]) -> ChosenRun:
    """The run that the address names; else the newest result, the next run under way, or the run that ended last.

    The menu's links lead to it, too. runs: the results that the page can show, newest first.
    """
    jobs = [*jobs_under_way(backend, but=""), *(job for job in backend.jobs(JOBS_LISTED) if job.makes_run)]
    asked = address_bar.query_value(navigation.RUN)
    # A job that is done has left its run among these, unless that was deleted.
    without_run = [job for job in jobs if job.state != "done"]
    key = asked or next(iter([*(run.key for run in runs), *(job.key for job in without_run)]), "")
    run = backend.run(key) if key else None
    navigation.adopt_search_tolerance(run.find if run else None)
    found = ChosenRun(key=key, asked=bool(asked), run=run, job=next((job for job in jobs if job.key == key), None))
    navigation.remember({navigation.RUN: key if found.run or found.job else ""})
    navigation.draw_menu()
    return found


def choose_record(found: RunResults) -> Record:
    """Draw the choice among the run's sparse models; the answer's own unless the address names another."""
    sparse = {name: record for name, record in found.records.items() if record.pruned}
    names = {name: name for name in sparse}
    usual = found.names[found.headline.key] if found.headline else ""
    return sparse[address_bar.select("record", "Sparse model", names, usual, noun="model")]


def link_to_export(run: str, record: str) -> None:
    """Draw the link to the export of a sparse model. record: its name within the run."""
    frame.link("models", "Export this model", run=run, record=record)


def show_example_note(run: Run | None) -> None:
    """Draw that the run is the example, and the link to the form with its settings; nothing for other runs."""
    if run is None or not (said := example_words(run, brief=True)):
        return
    with frame.row("example"):
        frame.note(said)
        frame.link("prune", "Run this here", **(form_address(run.settings) or {}))


def show_incomplete(run: Run, what: str) -> None:
    """Draw what is missing of a run, in words, and the link to resume it; nothing where nothing is."""
    if not what:
        return
    with st.container(gap="xsmall"):
        frame.note(f"⊘ {what}")
        asked = form_address(run.find or run.settings)
        if asked is None:
            frame.link("jobs", "Try again from the list of jobs")
        else:
            frame.link("prune", "Resume (finished models are kept)", **asked)
