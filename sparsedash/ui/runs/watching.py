"""Keeps the table of runs up to date while runs are under way, or their answers are still to be read."""

from collections.abc import Sequence

import streamlit as st

from sparsedash.reporting.runs.rows import JOBS_LOOKED_AT, RunRow, newest_jobs
from sparsedash.reporting.wording import plural
from sparsedash.service.backend import Backend
from sparsedash.ui import frame
from sparsedash.ui.polling import JOB_S

_READING_S = 0.3
_READING = "runs-reading"

Standing = dict[str, tuple[str, int]]
"""Of the runs under way the state, and how many sparse models are there, by their keys."""


def watch(backend: Backend, rows: Sequence[RunRow]) -> None:
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
