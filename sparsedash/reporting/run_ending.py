"""How a run ended that did not finish, or what is to come of one that goes on, in one sentence.

And what of its results is missing. Plain text: whoever shows it escapes it.
"""

from collections.abc import Mapping

from sparsedash.jobs.job import Job, JobState
from sparsedash.schema.records import Run

_WAY = {"is": "its", "are": "their"}
_ENDED: dict[JobState, str] = {
    "cancelled": "was stopped",
    "failed": "failed",
    "crashed": "broke off, since its worker died",
}


def still_to_come(job: Job, what: str) -> str:
    """What to expect of a live run that has not brought this yet. what: such as "The comparison is"."""
    if job.stopping:
        return "This run is being stopped."
    return "This run waits for its turn." if job.state == "queued" else f"{what} on {_WAY[what.split()[-1]]} way."


def run_ending(run: Run, job: Job | None) -> str:
    """How the run ended early and how many of its sparse models there are; nothing while it goes on or is whole.

    job: its newest; None where there is none, as of a run from a shell.
    """
    if run.finished or (job is not None and job.live):
        return ""
    how = _ENDED.get(job.state, "did not finish") if job is not None else "did not finish"
    made, asked = len(run.sparse), run.settings.n_sparse
    if run.find is not None:
        return f"This search {how} after {made or 'no'} {'trial' if made == 1 else 'trials'}."
    if made == asked:
        return f"This run {how} after its last sparse model had answered."
    there = f"{made or 'none'} of its {asked} sparse models {'is' if made <= 1 else 'are'} there"
    return f"This run {how}: {there if asked > 1 else 'its sparse model is not there'}."


def no_results(run: Run | None, why: str) -> str:
    """Why nothing can be shown of a run that had results. run: None where its own record is missing. why: the end of
    the sentence.
    """
    return f"This run has no results any more: {'its own' if run is None else 'its dense'} record {why}."


def missing_records(run: Run, missing: Mapping[str, str]) -> str:
    """Which sparse records of a run are missing, and what that means for the others; nothing where all are there.

    missing: why, by their names within the run.
    """
    if not missing:
        return ""
    said = " ".join(f"The record of {name} {why}." for name, why in missing.items())
    counts = "It still counts as a comparison" if len(missing) == 1 else "They still count as comparisons"
    return f"{said} {counts} in the verdicts on the others." if run.n_compared > len(missing) else said
