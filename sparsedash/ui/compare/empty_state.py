"""The compare page while there is nothing to compare: why, and where to go from there."""

from sparsedash.reporting.run_ending import still_to_come
from sparsedash.schema.records import Run
from sparsedash.service.backend import Backend
from sparsedash.ui import frame, job_panel, job_watch
from sparsedash.ui.chosen_run import ChosenRun


def can_be_compared(backend: Backend, run: Run | None) -> bool:
    """Whether the dense model and a sparse one have answered."""
    return run is not None and bool(run.sparse) and backend.record(run.dense) is not None


def explain(backend: Backend, chosen: ChosenRun) -> None:
    """Say why there is nothing to compare: the run is under way, ended early, or does not exist."""
    job, run = chosen.job, chosen.run
    what = "Here a dense and a sparse model will stand side by side: each passage, both answers, both probabilities."
    if job is not None and job.live:
        frame.opening(still_to_come(job, "The comparison is"))
        frame.empty(what, "It comes as soon as the dense model and a sparse one have answered.")
        job_watch.watch(backend, job, lambda: can_be_compared(backend, backend.run(chosen.key)))
        frame.link("overview", "See this run", run=chosen.key)
    elif job is not None and (chosen.asked or (run is not None and run.sparse)):
        why = f": its dense record {backend.why_missing(run.dense)}" if run is not None and run.sparse else ""
        frame.opening(f"This run has no answers to compare{why}.")
        job_panel.draw(backend, job)
    elif chosen.asked and run is None:
        frame.opening("There is no run with this address.")
        frame.empty("It may have been made in another data folder.")
        frame.link("compare", "Compare what there is")
    else:
        frame.opening("Nothing to compare yet.")
        frame.empty(what)
        frame.link("overview", "See the runs" if backend.runs() else "Run the built-in model first")
    if job is None or not job.live:
        job_watch.mention_others(backend, chosen.key)
