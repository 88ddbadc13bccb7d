"""A job in words: what it is, what it is doing and how far it has come. Plain text: whoever shows it escapes it."""

from sparsedash.jobs.job import DAMAGED, Job
from sparsedash.reporting import model_names, wording
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.pair_settings import ContinuationSettings, DivergenceSettings
from sparsedash.schema.settings import RunSettings, settings_from_plain

PROMPT_WORDS = 14
END_CHARACTERS = 300
COUNTED = ("tokens", "passages")
"""The units that say something to a person; how far work in another one is, is told as a share."""

_OF_ONE_MODEL = ("prune", "evaluate")


def what(job: Job) -> tuple[str, str]:
    """A job's title and one line of details."""
    if job.error_kind == DAMAGED:
        return f"Job {job.id}", "what was asked for may have been lost with its row"
    try:
        if job.kind == "continuation":
            request = settings_from_plain(ContinuationSettings, job.settings)
            return "Continuations of a text", _end_of(request.prompt)
        if job.kind == "divergence":
            compared = settings_from_plain(DivergenceSettings, job.settings)
            return "Two models over a passage, token by token", _end_of(compared.text)
        settings = settings_from_plain(RunSettings, job.settings)
    except SettingsError:
        return f"Job {job.id}", "asked for by another version of this program"
    return wording.run_title(settings), wording.run_details(settings)


def doing(job: Job) -> tuple[str, str]:
    """The stage of a running job; and which model it works on, or the job's own message, which may be empty."""
    if not job.stage:
        return "Starting the worker", ""
    return wording.stage(job.stage), _sparse_model(job) or job.message


def facts(job: Job) -> str:
    """How far a running job is in its stage, how fast, and what is left."""
    parts = []
    if job.total > 1:
        parts.append(
            f"{job.done:,} of {job.total:,} {job.unit}"
            if job.unit in COUNTED
            else f"{wording.percent(job.done / job.total, 0)} done"
        )
    if job.n_right is not None and job.done:
        parts.append(f"{job.n_right:,} right so far")
    if job.rate and job.unit in COUNTED:
        digits = 0 if job.rate >= 10 else 1
        parts.append(f"{job.rate:,.{digits}f} {job.unit} a second")
    if job.remaining_s is not None:
        of = "for this model" if job.stage == "evaluate" else "in this stage"
        parts.append(f"{wording.duration(job.remaining_s)} left {of}")
    return " · ".join(parts)


def _sparse_model(job: Job) -> str:
    """Which of how many sparse models a run makes or asks; empty where it does neither.

    Before the first one, what is read serves them all; later it is read again for one.
    """
    if job.kind != "run" or job.point is None:
        return ""
    if job.stage not in _OF_ONE_MODEL and job.point == 0:
        return ""
    try:
        points = settings_from_plain(RunSettings, job.settings).points
    except SettingsError:
        return ""
    if not 0 <= job.point < len(points):
        return ""
    method, permille = points[job.point]
    return f"sparse model {job.point + 1} of {len(points)}: {model_names.name_while_made(method, permille)}"


def _end_of(text: str) -> str:
    words = text.split()
    end = " ".join(words[-PROMPT_WORDS:])[-END_CHARACTERS:]
    return f"… {end}" if len(end) < len(" ".join(words)) else end
