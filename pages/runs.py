"""Jobs under way, every run as a row of one table, several runs in one chart, and ended jobs."""

import streamlit as st

from sparsedash.reporting.run_list import all_rows, runs_sentence
from sparsedash.ui import (
    browser_scripts,
    frame,
    job_panel,
    judged_files,
    runs_table,
    widgets,
)
from sparsedash.ui.address_bar import choose_tolerance, choose_view
from sparsedash.ui.navigation import current_tolerance
from sparsedash.ui.runs_table import (
    explain_no_runs,
    is_overlaid,
    show_overlay,
    show_run_table,
    show_toolbar,
)

backend = frame.page("Runs")
# Read first: what changes while the page is drawn shows at the first refresh.
before = job_panel.live_states(backend, job_panel.jobs_under_way(backend))
rows = all_rows(backend, current_tolerance())
jobs = backend.jobs(job_panel.JOBS_LISTED)
damaged = backend.damaged_runs()
live = [job for job in jobs if job.live]

if not rows and not jobs and not backend.user_data.judged_answers():
    explain_no_runs(backend)
    runs_table.note_damaged(damaged)
    st.stop()
answer = st.container()
if live:
    browser_scripts.offer_notices()
    job_panel.watch_live_jobs(backend, before)
view = choose_view({"": "Results", "jobs": "Jobs", "answers": "Judged files"})
if view == "answers":
    judged_files.show_judged_last(backend, answer)
elif view == "jobs":
    with answer:
        widgets.opening(job_panel.jobs_sentence(live))
    job_panel.show_ended_jobs(backend, [job for job in jobs if not job.live])
elif not rows:
    with answer:
        explain_no_runs(backend)
else:
    with answer:
        widgets.opening(
            runs_sentence(rows), job_panel.jobs_sentence(live) if live else ""
        )
        choose_tolerance()
    runs_table.read_on(rows)
    listed = runs_table.filter_rows(rows)
    chosen = runs_table.ticked_rows(rows)
    show_toolbar(backend, rows, chosen, listed)
    if chosen and is_overlaid():
        show_overlay(backend, chosen)
    if listed:
        show_run_table(listed, {row.key for row in chosen})
    else:
        widgets.note("No run matches. Clear the search, or show all models.")
runs_table.note_damaged(damaged)
