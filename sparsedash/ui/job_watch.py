"""Jobs followed while they are live: one, all of them, or those beside the one that is shown."""

from collections.abc import Callable

import streamlit as st

from sparsedash.jobs.job import Job, JobState
from sparsedash.jobs.queue import queue_order
from sparsedash.reporting.html import label, paragraph
from sparsedash.reporting.job_status import doing, heard, named, overall, what
from sparsedash.service.backend import Backend
from sparsedash.ui import browser_notices, carried, frame
from sparsedash.ui.job_panel import draw, search_of
from sparsedash.ui.polling import JOB_S

LISTED = 200
"""How many jobs are looked at, newest first, where all of them are listed."""


def watch(backend: Backend, job: Job, changed: Callable[[], bool] = lambda: False, brief: bool = False) -> None:
    """Draw the job's panel. Reruns the page when the job starts, ends or is to stop, or when `changed` says so.

    brief: leave out how the run is made, where the page says that already.
    """
    if job.live:
        _watch_live(backend, job, changed, brief)
    else:
        draw(backend, job, brief)


@frame.fragment(JOB_S)
def _watch_live(backend: Backend, seen: Job, changed: Callable[[], bool], brief: bool) -> None:
    job = backend.job(seen.id)
    if is_news(seen, job) or changed():
        st.rerun()
    draw(backend, job, brief)
    browser_notices.hear(heard(backend, job))


def is_news(seen: Job, now: Job) -> bool:
    """Whether a page that has drawn a live job says something else of it by now."""
    return (now.state, now.stopping) != (seen.state, seen.stopping)


def watch_all(backend: Backend, live: list[Job]) -> None:
    """Draw the panels of all live jobs, running ones first. Reruns the page when one comes, starts or ends."""
    _watch_all_live(backend, {job.id: job.state for job in live})


@frame.fragment(JOB_S)
def _watch_all_live(backend: Backend, states: dict[int, JobState]) -> None:
    live = _live(backend)
    if {job.id: job.state for job in live} != states:
        st.rerun()
    queue = backend.queue()
    for job in live:
        draw(backend, job, queue=queue)
    browser_notices.hear(heard(backend, live[0]))


def _live(backend: Backend) -> list[Job]:
    """As `live_runs`, jobs of every kind."""
    live = [job for job in backend.jobs(LISTED) if job.live]
    return sorted(live, key=lambda job: (job.state != "running", queue_order(job)))


def live_runs(backend: Backend) -> list[Job]:
    """The runs that wait or run: running ones first, the others in the order in which they will start."""
    return [job for job in _live(backend) if job.makes_run]


def mention_others(backend: Backend, shown: str) -> None:
    """Draw a link to the next live run other than the one with the key `shown`, its progress, and how many more there
    are.

    Polls while there is such a run; reruns the page when one comes, starts or ends.
    """
    if others := _others(backend, shown):
        _mention(backend, shown, {job.id: job.state for job in others})


@frame.fragment(JOB_S)
def _mention(backend: Backend, shown: str, states: dict[int, JobState]) -> None:
    others = _others(backend, shown)
    if {job.id: job.state for job in others} != states:
        st.rerun()
    job, *more = others
    title, details = named(backend, job), what(job)[1]
    runs = job.state == "running"
    with st.container(gap=None):
        begun = "Another run is under way" if runs else "Another run waits"
        frame.link("overview", label(f"{begun}: {title}"), run=job.key, **carried.asked_tolerance(search_of(job)))
        line = " · ".join(part for part in (*doing(job), overall(backend, job)[1]) if part) if runs else details
        frame.show(paragraph(line, css="sd-muted sd-small"))
        if more:
            frame.link("jobs", f"{len(more)} more in the list of jobs")


def _others(backend: Backend, shown: str) -> list[Job]:
    return [job for job in live_runs(backend) if job.key != shown]
