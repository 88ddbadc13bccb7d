"""Choose a model and what to remove, see what it will take, start it."""

import streamlit as st

from sparsedash.ui import carried, frame
from sparsedash.ui.form import estimate, run_form
from sparsedash.ui.job_panel import search_of

backend = frame.page("Prune")
frame.opening("Choose a model and how much of its MLPs to remove, or let it be found.")

form, aside = st.columns([3, 2], gap="medium")
with form:
    settings = run_form.asked_settings(backend)


def start() -> None:
    """Submit what the form says and go to the page of the run."""
    if settings is not None:
        job = backend.submit(settings)
        st.switch_page("pages/overview.py", query_params={"run": job.key, **carried.asked_tolerance(search_of(job))})


with aside:
    ready = estimate.show_estimate(backend, settings)
    if st.button("Start", type="primary", width="stretch", disabled=not ready):
        frame.attempt(start)
