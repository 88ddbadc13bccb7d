"""Which run a page is about: what is stored of it, its job, and whether it is the example that ships."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from sparsedash.jobs.job import Job
from sparsedash.reporting.wording import example_words
from sparsedash.schema.records import Run
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, carried, frame, menu
from sparsedash.ui.form_address import form_address
from sparsedash.ui.job_watch import LISTED, live_runs


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
    jobs = [*live_runs(backend), *(job for job in backend.jobs(LISTED) if job.makes_run)]
    asked = address_bar.asked(carried.RUN)
    # A job that is done has left its run among these, unless that was deleted.
    without_run = [job for job in jobs if job.state != "done"]
    key = asked or next(iter([*(run.key for run in runs), *(job.key for job in without_run)]), "")
    run = backend.run(key) if key else None
    carried.judge_as_asked(run.find if run is not None else None)
    found = ChosenRun(key=key, asked=bool(asked), run=run, job=next((job for job in jobs if job.key == key), None))
    carried.choose(key if found.run or found.job else "")
    menu.draw()
    return found


def link_to_files(run: str, record: str) -> None:
    """Draw the link to the page where a sparse model's files are written. record: its name within the run."""
    frame.link("models", "Export this model", run=run, record=record)


def show_mark(run: Run | None) -> None:
    """Draw that the run is an example, and the link that fills the form in with its settings; nothing of others."""
    if run is None or not (said := example_words(run, brief=True)):
        return
    with st.container(key="example", horizontal=True, vertical_alignment="center"):
        frame.note(said)
        frame.link("prune", "Run this here", **(form_address(run.settings) or {}))
