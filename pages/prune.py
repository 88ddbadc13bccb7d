"""Choose a model and what to remove, see what it will take, start it, watch it."""

import streamlit as st

from sparsedash.ui import address_bar, carried, frame, job_panel, job_watch
from sparsedash.ui.form import estimate, run_form

backend = frame.page("Prune")
frame.opening("Choose a model and how much of its MLPs to remove, or let it be found.")

form, aside = st.columns([3, 2], gap="medium")
with form:
    settings = run_form.asked_settings(backend)


def start() -> None:
    """Submit what the form says and keep the job in the address, so that a refresh finds it again."""
    if settings is not None:
        job = backend.submit(settings)
        carried.choose(job.key)
        address_bar.go({"job": str(job.id)})


with aside:
    ready = estimate.show_estimate(backend, settings)
    st.button("Start", type="primary", width="stretch", disabled=not ready, on_click=frame.attempt, args=(start,))
    job = job_panel.find(backend, address_bar.asked("job"))
    if job is not None:
        job_watch.watch(backend, job)
