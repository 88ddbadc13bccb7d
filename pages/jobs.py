"""What is running, what waits, and what ran."""

import streamlit as st

from sparsedash.ui import browser_scripts, frame, job_panel

AT_FIRST = 10

backend = frame.page("Jobs")
jobs = backend.jobs(job_panel.JOBS_LISTED)
live = [job for job in jobs if job.live]
earlier = [job for job in jobs if not job.live]
running = sum(job.state == "running" for job in live)

if live:
    waiting = len(live) - running
    frame.opening(f"{running} running, {waiting} waiting." if waiting else f"{running} running, nothing waits.")
    browser_scripts.offer_notices()
    job_panel.watch_live_jobs(backend, live)
elif earlier:
    frame.opening("Nothing is running.")
else:
    frame.opening("Nothing has run yet.")
    frame.empty("Runs and continuations will be listed here, with their progress, their errors and their logs.")
    frame.link("prune", "Start the first one")

if backend.cluster() is not None:
    job_panel.watch_machines(backend)

if earlier:
    frame.section("Earlier")
    show_all = len(earlier) <= AT_FIRST or st.session_state.get("all-jobs", False)
    for job in earlier if show_all else earlier[:AT_FIRST]:
        job_panel.draw_job(backend, job)
    if not show_all:
        st.button(f"Show all {len(earlier)}", key="all-jobs")
