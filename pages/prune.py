"""Choose a model and what to remove, see what it will take, start it."""

import streamlit as st

from sparsedash.ui import form_fields, form_run, frame, navigation
from sparsedash.ui.job_panel import job_search

backend = frame.page("Prune")
frame.opening("Choose a model and a sparsity, or search for the largest within your limits.")

form, aside = st.columns([3, 2], gap="medium")
with form:
    settings = form_run.prune_form(backend)


def start() -> None:
    """Submit what the form says and go to the page of the run."""
    if settings is not None:
        job = backend.submit(settings)
        st.switch_page(
            "pages/overview.py", query_params={"run": job.key, **navigation.search_tolerance_query(job_search(job))}
        )


with aside, st.container(key="estimate"):
    ready = form_fields.show_estimate(backend, settings)
    with st.container(key="start"):
        pressed = st.button("Start", type="primary", width="stretch", disabled=not ready)
    # A click that was on its way when a field was refused starts nothing.
    if pressed and ready:
        frame.attempt(start)
