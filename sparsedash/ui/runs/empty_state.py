"""What the page with all runs says before there is one."""

import streamlit as st

from sparsedash.catalog.example import EXAMPLE
from sparsedash.service.backend import Backend
from sparsedash.ui import frame
from sparsedash.ui.job_watch import LISTED
from sparsedash.ui.runs import run_file


def explain(backend: Backend) -> None:
    """Draw what will be here, and the ways to it; and that runs ended without a result, where some did."""
    frame.opening("No run has a result yet.")
    frame.empty(
        "Every run will be a row here: its model and method, how much was removed, what that cost, and whether it is "
        "within what may be lost. Runs can be named, pinned, deleted, and laid over each other in one chart."
    )
    n_ended = sum(job.makes_run and not job.live and job.state != "done" for job in backend.jobs(LISTED))
    if n_ended:
        one = n_ended == 1
        frame.note(f"{n_ended} {'run' if one else 'runs'} ended before {'it' if one else 'they'} had a result.")
        frame.link("jobs", "See why in the list of jobs")
    with st.container(horizontal=True, vertical_alignment="center"):
        frame.link("prune", "Prune a model")
        if backend.example() is not None:
            frame.link("overview", "Look at an example", run=EXAMPLE)
        run_file.open_one(backend)
