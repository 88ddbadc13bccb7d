"""The run that a page is about: its results, its job, and how it ended if it ended early."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from sparsedash.jobs.job import Job, resume_advice
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.wording import example_words
from sparsedash.schema.records import Record, Run
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, navigation, widgets
from sparsedash.ui.form_address import form_address
from sparsedash.ui.job_panel import JOBS_LISTED, jobs_under_way

RIGHT = "right"
"""The parameter of the address for a sparse model, by its name within the run."""
_SHORTEST = 12
_LONGEST = 64
"""Characters of a run's key that name it where no other begins so, and of a whole one."""


@dataclass(frozen=True, kw_only=True)
class ChosenRun:
    """The run that a page is about; every part may be missing.

    key: empty without any run. in_address: whether the address names it. job: the live one, or
    else the newest.
    """

    key: str
    in_address: bool
    run: Run | None
    job: Job | None


def chosen_run(backend: Backend, runs: Sequence[Run]) -> ChosenRun:
    """The run that the address names; else the newest result, or the newest job without one.

    The menu's links lead to it, too. runs: the results that the page can show, newest first.
    """
    jobs = [*jobs_under_way(backend, but="")]
    jobs += [job for job in backend.jobs(JOBS_LISTED) if job.makes_run]
    wanted = _whole_key(backend, jobs, address_bar.query_value(navigation.RUN))
    key = wanted
    if not key:
        # A job that is done has left its run among these, unless that was deleted.
        unfinished = [job.key for job in jobs if job.state != "done"]
        key = next(iter([*(run.key for run in runs), *unfinished]), "")
    run = backend.run(key) if key else None
    navigation.adopt_search_tolerance(run.find if run else None)
    job = next((job for job in jobs if job.key == key), None)
    if job is None and key:
        newest = backend.newest_job(key)
        job = newest if newest is not None and newest.makes_run else None
    navigation.remember({navigation.RUN: key if run or job else ""})
    navigation.draw_menu()
    return ChosenRun(key=key, in_address=bool(wanted), run=run, job=job)


def _whole_key(backend: Backend, jobs: Sequence[Job], prefix: str) -> str:
    """The key of the one run that begins like this; the prefix itself where there is none."""
    if not _SHORTEST <= len(prefix) < _LONGEST:
        return prefix
    keys = {run.key for run in backend.runs()}
    keys.update(job.key for job in jobs)
    keys.update(backend.damaged_runs())
    matching = [key for key in keys if key.startswith(prefix)]
    return matching[0] if len(matching) == 1 else prefix


def choose_record(results: RunResults) -> Record:
    """Draw the choice among the run's sparse models; first the one that the answer names."""
    sparse = {name: record for name, record in results.records.items() if record.pruned}
    names = {name: name for name in sparse}
    # Until the first model is pruned there may be quantised ones alone.
    usual = next(iter(sparse))
    if results.headline:
        usual = results.names[results.headline.key]
    return sparse[address_bar.select(RIGHT, "Sparse model", names, usual, noun="model")]


def link_to_export(run: str, name: str) -> None:
    """Draw the link to the export of a sparse model. name: within the run."""
    widgets.link("models", "Export this model", run=run, right=name)


def show_example_note(run: Run | None) -> None:
    """Draw that the run is the example, with a link to its settings; nothing for other runs."""
    remark = example_words(run, brief=True) if run else ""
    if run is None or not remark:
        return
    with widgets.row("example"):
        widgets.note(remark)
        widgets.link("prune", "Run this here", **(form_address(run.settings) or {}))


def show_incomplete(what: str, resume: Callable[[], object] | None = None) -> None:
    """Draw what is missing of a run; nothing if nothing is. resume: what its button does."""
    if not what:
        return
    with st.container(gap="xsmall"):
        widgets.note(f"⊘ {what}")
        if resume is not None:
            widgets.action_button(
                "Resume",
                resume,
                key="resume",
                icon="refresh",
                help=resume_advice("run"),
            )
