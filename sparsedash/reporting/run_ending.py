"""How a run ended that did not finish, or what is to come of one that goes on, in one sentence.

Plain text: whoever shows it escapes it.
"""

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
