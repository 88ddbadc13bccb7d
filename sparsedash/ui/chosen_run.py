"""The run that a page is about: its results, its job, and how it ended if it ended early."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from sparsedash.jobs.job import Job
from sparsedash.reporting.run_answer import run_ending
from sparsedash.reporting.wording import example_words
from sparsedash.schema.records import Run
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, frame, navigation
from sparsedash.ui.form_address import form_address
from sparsedash.ui.job_panel import JOBS_LISTED, live_run_jobs


@dataclass(frozen=True, kw_only=True)
class ChosenRun:
    """The run that a page is about; every part may be missing.

    key: empty where there is no run at all. asked: whether the address names it, rather than the page. run: as far as
    it is stored. job: the live one, or else the newest.
    """

    key: str
    asked: bool
    run: Run | None
    job: Job | None


def chosen_run(backend: Backend, runs: Sequence[Run]) -> ChosenRun:
    """The run that the address names; else the newest result, the next run under way, or the run that ended last.

    The menu takes it along to other pages.

    runs: the results that the page can show, newest first.
    """
    jobs = [*live_run_jobs(backend), *(job for job in backend.jobs(JOBS_LISTED) if job.makes_run)]
    asked = address_bar.query_value(navigation.RUN)
    # A job that is done has left its run among these, unless that was deleted.
    without_run = [job for job in jobs if job.state != "done"]
    key = asked or next(iter([*(run.key for run in runs), *(job.key for job in without_run)]), "")
    run = backend.run(key) if key else None
    navigation.adopt_search_tolerance(run.find if run is not None else None)
    found = ChosenRun(key=key, asked=bool(asked), run=run, job=next((job for job in jobs if job.key == key), None))
    navigation.remember_run(key if found.run or found.job else "")
    navigation.draw_menu()
    return found


def link_to_export(run: str, record: str) -> None:
    """Draw the link to the page where a sparse model's files are written. record: its name within the run."""
    frame.link("models", "Export this model", run=run, record=record)


def show_example_note(run: Run | None) -> None:
    """Draw that the run is an example, and the link that fills the form in with its settings; nothing of others."""
    if run is None or not (said := example_words(run, brief=True)):
        return
    with st.container(key="example", horizontal=True, vertical_alignment="center"):
        frame.note(said)
        frame.link("prune", "Run this here", **(form_address(run.settings) or {}))


def show_ending(run: Run, job: Job | None) -> None:
    """Draw how the run ended and the link to start it again; nothing while it goes on, or when it is whole."""
    show_incomplete(run, run_ending(run, job))


def show_incomplete(run: Run, what: str) -> None:
    """Draw what is missing of a run, and the link to start it again; nothing where nothing is. what: in words."""
    if not what:
        return
    with st.container(gap="xsmall"):
        frame.note(f"⊘ {what}")
        asked = form_address(run.find or run.settings)
        if asked is None:
            frame.link("jobs", "Try again from the list of jobs")
        else:
            frame.link("prune", "Start it again: what is there is not computed twice", **asked)
