"""Exports of sparse models: those written, and those under way."""

from sparsedash.reporting.run_results import run_results
from sparsedash.ui import address_bar, frame, job_panel, models_exports, widgets
from sparsedash.ui.chosen_run import chosen_run, show_example_note
from sparsedash.ui.navigation import current_tolerance

backend = frame.page("Models")
exports = backend.exports.listed()
chosen = chosen_run(backend, [run for run in backend.runs() if run.sparse])
results = run_results(
    backend, chosen.run, current_tolerance(), backend.user_data.name_of(chosen.key)
)
jobs = [job for job in backend.jobs(job_panel.JOBS_LISTED) if job.kind == "export"]

widgets.opening(models_exports.exports_sentence(exports))
if results is not None and results.sparse_records:
    show_example_note(results.run)
    widgets.section(f"Files of {results.title}")
    models_exports.request_export(backend, results)
else:
    if chosen.in_address:
        under_way = chosen.job is not None and chosen.job.live
        widgets.note(
            "This run has no sparse model yet; it is under way."
            if under_way
            else "There is no sparse model at this address."
        )
    widgets.empty(
        "Export a sparse model as a folder for transformers or as one file for llama.cpp; neither needs SparseDash to "
        "load. A fresh process loads each export and compares its answers with the run's before it is kept."
    )
    widgets.link("prune", "Prune a model")

live = [job for job in jobs if job.live]
for job in live:
    job_panel.watch_job(backend, job)
if not live and jobs and jobs[0].state != "done":
    job_panel.watch_job(backend, jobs[0])

if exports:
    widgets.section("Exported")
    for export in exports:
        models_exports.show_export(backend, export)
if address_bar.query_value("run"):
    widgets.link("overview", "Back to the chart", run=chosen.key)
