"""Why the compare page has nothing to compare, and what leads on from there."""

from sparsedash.schema.records import Run
from sparsedash.service.backend import Backend
from sparsedash.ui import frame, job_panel, job_watch


def explain(backend: Backend, chosen: str, run: Run | None) -> None:
    """Whatever is known of the run that the address or the list names: that it is under way, ended early, or is not
    there.

    chosen: its key; empty where none is named. run: what the store has of it.
    """
    awaited = next((j for j in job_watch.live_runs(backend) if chosen in ("", j.key)), None)
    ended = next((job for job in backend.jobs() if job.key == chosen and not job.live), None)
    what = "Here a dense and a sparse model will stand side by side: each passage, both answers, both probabilities."
    if awaited:
        frame.opening("The comparison is on its way.")
        frame.empty(what, "It comes as soon as the dense model and a sparse one have answered.")
        key = awaited.key
        job_watch.watch(
            backend, awaited, lambda: bool((it := backend.run(key)) and it.sparse and backend.record(it.dense))
        )
        frame.link("overview", "See this run", run=key)
    elif ended is not None:
        frame.opening("This run has no answers to compare.")
        job_panel.draw(backend, ended)
    elif chosen and run is None:
        frame.opening("There is no run with this address.")
        frame.empty("It may have been made in another data folder.")
        frame.link("compare", "Compare what there is")
    else:
        frame.opening("Nothing to compare yet.")
        frame.empty(what)
        frame.link("overview", "See the runs" if backend.runs() else "Run the built-in model first")
    if not awaited:
        job_watch.mention_others(backend, chosen)
