"""A notice when a job ends, on whatever page the visitor is: once for every job and session, and by the browser itself
where it was asked to.
"""

import streamlit as st

from sparsedash.jobs.job import LONG, Job, JobState
from sparsedash.reporting.html import label
from sparsedash.reporting.job_status import named
from sparsedash.schema.errors import SparseDashError
from sparsedash.service.backend import Backend
from sparsedash.ui import browser_notices
from sparsedash.ui.polling import NOTICE_S

LOOKED_AT = 50
"""How many jobs are looked at, newest first."""

_TOLD = "notices-told"
_ENDED: dict[JobState, tuple[str, str]] = {
    "done": ("is done", "check_circle"),
    "failed": ("has failed", "error"),
    "crashed": ("has crashed", "error"),
    "cancelled": ("was cancelled", "cancel"),
}


def tell_endings(backend: Backend) -> None:
    """Tell which jobs have ended since the visitor came; go on looking while a job is live. May raise StoreError."""
    if _TOLD not in st.session_state:
        # Not by the times at which jobs ended: the clock may be set while the visitor is here.
        st.session_state[_TOLD] = {(job.id, job.attempt) for job in backend.jobs(LOOKED_AT) if not job.live}
    if any(job.live for job in _tell(backend)):
        _watch(backend)


@st.fragment(run_every=NOTICE_S)
def _watch(backend: Backend) -> None:
    try:
        _tell(backend)
    except SparseDashError:
        # The next page that is opened says what is wrong.
        return


def _tell(backend: Backend) -> tuple[Job, ...]:
    jobs = backend.jobs(LOOKED_AT)
    for job in reversed(jobs):
        ended = (job.id, job.attempt)
        if _is_news(job) and ended not in st.session_state[_TOLD]:
            st.session_state[_TOLD].add(ended)
            words, icon = _ENDED[job.state]
            title = named(backend, job)
            said = f"{title} {words}."
            st.toast(f"{label(title)} {words}. [See the jobs](jobs)", icon=f":material/{icon}:", duration="long")
            browser_notices.tell("SparseDash", said, f"sparsedash-{job.id}-{job.attempt}")
    return jobs


def _is_news(job: Job) -> bool:
    """Whether its end is worth telling. What a prompt has written is seen where it was asked for."""
    return not job.live and (job.kind in LONG or job.state in ("failed", "crashed"))
