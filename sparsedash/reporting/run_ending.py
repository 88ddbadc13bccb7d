"""How a run ended that did not finish, in one sentence. Plain text: whoever shows it escapes it."""

from sparsedash.jobs.job import Job, JobState
from sparsedash.schema.records import Run

_ENDED: dict[JobState, str] = {
    "cancelled": "was stopped",
    "failed": "failed",
    "crashed": "broke off, since its worker died",
}


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
