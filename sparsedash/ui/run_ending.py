"""What pages say of a run that is not whole, since it ended early or lost results, and the way to start it again."""

import streamlit as st

from sparsedash.jobs.job import Job
from sparsedash.reporting.run_ending import run_ending
from sparsedash.schema.records import Run
from sparsedash.ui import frame
from sparsedash.ui.form_address import form_address


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
