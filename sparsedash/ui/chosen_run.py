"""The run that a page is about: its results, its job, and how it ended if it ended early."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from sparsedash.jobs.job import Job, kept
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.wording import example_words
from sparsedash.schema.records import Record, Run
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, frame, navigation
from sparsedash.ui.form_address import form_address
from sparsedash.ui.job_panel import JOBS_LISTED, jobs_under_way

RIGHT = "right"
"""The parameter of the address for a sparse model, by its name within the run."""
_SHORTEST, _LONGEST = 12, 64
"""Characters of a run's key that name it where no other begins so, and of a whole one."""


@dataclass(frozen=True, kw_only=True)
class ChosenRun:
    """The run that a page is about; every part may be missing.

    key: empty without any run. asked: whether the address names it. run: as far as it is stored.
    job: the live one, or else the newest.
    """

    key: str
    asked: bool
    run: Run | None
    job: Job | None


def chosen_run(backend: Backend, runs: Sequence[Run]) -> ChosenRun:
    """The run that the address names; else the newest result, the next run under way, or the run
    that ended last.

    The menu's links lead to it, too. runs: the results that the page can show, newest first.
    """
    jobs = [
        *jobs_under_way(backend, but=""),
        *(job for job in backend.jobs(JOBS_LISTED) if job.makes_run),
    ]
    asked = _whole_key(backend, jobs, address_bar.query_value(navigation.RUN))
    # A job that is done has left its run among these, unless that was deleted.
    without_run = [job for job in jobs if job.state != "done"]
    key = asked or next(iter([*(run.key for run in runs), *(job.key for job in without_run)]), "")
    run = backend.run(key) if key else None
    navigation.adopt_search_tolerance(run.find if run else None)
    job = next((job for job in jobs if job.key == key), None) or (
        backend.newest_job(key) if key else None
    )
    job = job if job is not None and job.makes_run else None
    found = ChosenRun(key=key, asked=bool(asked), run=run, job=job)
    navigation.remember({navigation.RUN: key if found.run or found.job else ""})
    navigation.draw_menu()
    return found


def _whole_key(backend: Backend, jobs: Sequence[Job], asked: str) -> str:
    """The key of the one run that begins like this, as the shell prints it; `asked` itself where
    there is none.
    """
    if not _SHORTEST <= len(asked) < _LONGEST:
        return asked
    keys = {
        *(run.key for run in backend.runs()),
        *(job.key for job in jobs),
        *backend.damaged_runs(),
    }
    found = [key for key in keys if key.startswith(asked)]
    return found[0] if len(found) == 1 else asked


def choose_record(found: RunResults) -> Record:
    """Draw the choice among the run's sparse models; the one that the answer names unless the
    address names another.
    """
    sparse = {name: record for name, record in found.records.items() if record.pruned}
    names = {name: name for name in sparse}
    # Until the first model is pruned there may be quantised ones alone.
    usual = found.names[found.headline.key] if found.headline else next(iter(sparse))
    return sparse[address_bar.select(RIGHT, "Sparse model", names, usual, noun="model")]


def link_to_export(run: str, name: str) -> None:
    """Draw the link to the export of a sparse model. name: within the run."""
    frame.link("models", "Export this model", run=run, right=name)


def show_example_note(run: Run | None) -> None:
    """Draw that the run is the example, and the link to the form with its settings; nothing for
    other runs.
    """
    if run is None or not (said := example_words(run, brief=True)):
        return
    with frame.row("example"):
        frame.note(said)
        frame.link("prune", "Run this here", **(form_address(run.settings) or {}))


def show_incomplete(what: str, resume: Callable[[], object] | None = None) -> None:
    """Draw what is missing of a run, in words; nothing where nothing is. resume: draws a button for
    it.
    """
    if not what:
        return
    with st.container(gap="xsmall"):
        frame.note(f"⊘ {what}")
        if resume is not None:
            frame.action_button("Resume", resume, key="resume", icon="refresh", help=kept("run"))
