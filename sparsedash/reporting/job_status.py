"""A job in words: its title, stage, progress and time left, and what a finished run took against
its estimate.

Plain text: escape it before it becomes markup.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from sparsedash.jobs.job import Job, JobState
from sparsedash.reporting import wording
from sparsedash.reporting.html import Table
from sparsedash.reporting.record_pair import end_of
from sparsedash.reporting.run_progress import JobProgress, job_progress, stage_parts
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.find_settings import (
    FindSettings,
    planned_run,
    run_or_find_settings,
)
from sparsedash.schema.pair_records import (
    ContinuationSettings,
    DivergenceSettings,
    TimingSettings,
)
from sparsedash.schema.progress import Stage
from sparsedash.schema.records import Run, VerifySettings
from sparsedash.schema.settings import RunSettings, settings_from_plain
from sparsedash.service.backend import Backend
from sparsedash.service.estimates import NOTHING_STORED, PART_STAGES, RunPart
from sparsedash.service.preflight import Preflight

STATES: dict[JobState, tuple[str, str]] = {
    "queued": ("◷", "Waiting"),
    "running": ("▶", "Running"),
    "done": ("✓", "Done"),
    "failed": ("✕", "Failed"),
    "cancelled": ("⊘", "Cancelled"),
    "crashed": ("✕", "Interrupted"),
}
"""The sign and the word of every state."""
PROMPT_SHOWN = 80
"""Characters of a prompt's end."""
COUNTED = ("tokens", "passages", "questions")
"""The units that are counted; progress in another one is shown as a share."""
SILENT_S = 600.0
"""A worker that has said nothing for so long may hang; the longest steps that were seen take a few
minutes.
"""
_OF_ONE_MODEL = ("prune", "heal", "quantise", "continue", "answer", "evaluate")
"""Stages of a run that serve one model, the first one as well."""
_STAGES_OF_KIND: dict[str, tuple[Stage, ...]] = {
    "continuation": ("start", "load", "read", "continue"),
    "divergence": ("start", "load", "diverge"),
    "timing": ("start", "load", "time"),
    "export": ("start", "load", "write", "prove"),
    "verify": ("start", "verify"),
}


def _timing_details(timing: TimingSettings) -> str:
    threads = ""
    if timing.n_threads is not None:
        threads = f", {wording.quantity(timing.n_threads, 'thread')}"
    batches = " and ".join(map(str, timing.batches))
    where = "" if timing.runtime == "torch" else f", in {timing.runtime}"
    return f"dense and sparse in turn, {timing.n_prompt} tokens, {batches} at once{threads}{where}"


_ABOUT: dict[str, tuple[type[Any], str, Callable[[Any], str]]] = {
    "continuation": (
        ContinuationSettings,
        "Continuations of a text",
        lambda request: end_of(request.prompt, PROMPT_SHOWN),
    ),
    "divergence": (
        DivergenceSettings,
        "Token-by-token comparison",
        lambda request: end_of(request.text, PROMPT_SHOWN),
    ),
    "timing": (TimingSettings, "Speed of a sparse model", _timing_details),
    "export": (
        ExportSettings,
        "Export of a sparse model",
        lambda request: (
            f"{request.form}, weights in {request.weights}, proven by a fresh process"
        ),
    ),
    "verify": (
        VerifySettings,
        "Verification of the data folder",
        lambda request: "compares data with its checksums",
    ),
}
"""The settings, title and details of a job of each kind but runs."""


def job_title(job: Job) -> tuple[str, str]:
    """A job's title and one line of details."""
    try:
        if job.kind in _ABOUT:
            kind, title, details = _ABOUT[job.kind]
            return title, details(settings_from_plain(kind, job.settings))
        settings = run_or_find_settings(job.kind, job.settings)
    except SettingsError:
        return f"Job {job.id}", "submitted by another version of SparseDash"
    return wording.run_title(settings), wording.run_details(settings)


def job_name(backend: Backend, job: Job) -> str:
    """Name of a job: a run after its name, if it has one; another with its model, if a run has
    that.
    """
    title = job_title(job)[0]
    if job.makes_run:
        name = backend.user_data.name_of(job.key)
        return f"{name}: {title}" if name else title
    run, record = job_model(backend, job)
    if run is None:
        return title
    return f"{title}: {wording.record_names(run)[record]} of {wording.reference_title(run.settings.model)}"


def job_model(backend: Backend, job: Job) -> tuple[Run | None, str]:
    """The run of the sparse model that a job is about, and its record's key; no run where none has
    it.
    """
    keys = [job.settings.get(name) for name in ("sparse", "right", "left")]
    if not any(keys):
        return None, ""
    of_run = job.settings.get("run")
    runs = [run for run in backend.runs() if of_run in (None, "", run.key)]
    for key in keys:
        for run in runs:
            if key in run.sparse:
                return run, str(key)
    return None, ""


def job_activity(job: Job) -> tuple[str, str]:
    """The stage of a running job; and which model it works on, or the job's own message, which may
    be empty.
    """
    return wording.stage_title(job.progress.stage), _sparse_model(
        job
    ) or job.progress.message


def job_progress_words(backend: Backend, job: Job) -> tuple[float, str]:
    """Progress of a live job as a share that never falls; and in words, with the time left where it
    is known.
    """
    if job.stopping:
        words = "Stopping: what is finished is kept" if job.makes_run else "Stopping"
        return _shown(backend, job.id, job.attempt).share, words
    if job.state == "queued":
        n_ahead = _jobs_ahead(backend, job)
        starts = "" if n_ahead else _start_words(backend)
        return 0.0, f"{_waiting_words(n_ahead)}{starts}"
    progress = _progress(backend, job)
    what = "run" if job.makes_run else "job"
    facts = [f"{wording.percent(progress.share, 0)} of the {what}"]
    if not progress.unmeasured:
        facts.append(wording.time_left(_left_s(job, progress)))
    elif job.makes_run:
        unknown = ", ".join(
            wording.stage_title(stage).lower() for stage in progress.unmeasured
        )
        facts.append(f"time left unknown: {unknown} not measured here yet")
    silent_s = _silent_s(job)
    # A download reports no steps.
    if silent_s >= SILENT_S and job.progress.stage != "load":
        silence = wording.duration_words(silent_s)
        facts.append(f"no progress for {silence}: it may hang; cancel and resume it")
    return progress.share, " · ".join(facts)


def _start_words(backend: Backend) -> str:
    """Start of the next job, after a comma: once the first running one ends; empty if unknown."""
    left_s = []
    for job in backend.jobs():
        if job.state == "running" and not job.stopping:
            progress = _progress(backend, job)
            if not progress.unmeasured:
                left_s.append(_left_s(job, progress))
    return f", in about {wording.duration_words(min(left_s))}" if left_s else ""


def _left_s(job: Job, progress: JobProgress) -> float:
    """Seconds to its end; machines of a cluster share the work."""
    return progress.left_s / job.progress.n_machines


def _jobs_ahead(backend: Backend, job: Job) -> int:
    return (backend.queue_position(job.id) or 1) - 1


def _waiting_words(ahead: int) -> str:
    if not ahead:
        return "Starts as soon as a worker is free"
    verb = "waits" if ahead == 1 else "wait"
    return f"{wording.quantity(ahead, 'job')} {verb} before it"


def _silent_s(job: Job) -> float:
    return (
        max(0.0, time.time() - job.heartbeat_at)
        if job.heartbeat_at is not None
        else 0.0
    )


def job_announcement(backend: Backend, job: Job) -> str:
    """Progress of a live job, for screen readers: a new sentence with every stage, model and
    tenth of the whole.
    """
    if job.state == "queued":
        return f"{job_name(backend, job)}: {_waiting_words(_jobs_ahead(backend, job))}"
    if job.stopping:
        return f"{job_name(backend, job)}: {job_progress_words(backend, job)[1]}"
    tenths = int(10 * job_progress_words(backend, job)[0])
    return ", ".join(
        part for part in (*job_activity(job), f"{10 * tenths} percent done") if part
    )


def attempt_words(job: Job) -> str:
    """Which attempt it is and how long all took together; empty for the first."""
    if job.attempt == 1:
        return ""
    return f"attempt {job.attempt}, {wording.duration_words(job.all_s)} in all"


def waiting_run_estimate(backend: Backend, job: Job) -> str:
    """Time that a waiting run takes once started; nothing of other jobs, or where that is not
    known.
    """
    # A resumed one takes less than when it was asked for.
    forecast = backend.forecast(job) if job.attempt == 1 else None
    if forecast is None and (settings := job_request(job)):
        forecast = backend.preflight(settings)
    known = forecast.duration.total_s if forecast else None
    return f"Takes about {wording.duration_words(known)} once started" if known else ""


def job_request(job: Job) -> RunSettings | FindSettings | None:
    """The settings of a run or search; None of any other job, and of one whose row cannot be
    read.
    """
    try:
        return run_or_find_settings(job.kind, job.settings) if job.makes_run else None
    except SettingsError:
        return None


def stage_facts(job: Job) -> str:
    """Progress and speed of a running job in its stage."""
    progress = job.progress
    is_counted = progress.unit in COUNTED
    parts = []
    if progress.total > 1 and is_counted:
        parts.append(f"{progress.done:,} of {progress.total:,} {progress.unit}")
    elif progress.total > 1:
        parts.append(f"{wording.percent(progress.share, 0)} of this stage")
    if progress.stage == "heal" and progress.message:
        parts.append(progress.message)
    if progress.n_right is not None and progress.done:
        parts.append(f"{progress.n_right:,} right so far")
    if progress.rate and is_counted:
        n_digits = 0 if progress.rate >= 10 else 1
        parts.append(f"{progress.rate:,.{n_digits}f} {progress.unit} a second")
    return " · ".join(parts)


def _progress(backend: Backend, job: Job) -> JobProgress:
    """Progress of a running job now, of which no less is shown than before."""
    request = job_request(job)
    done_before_s = 0.0
    if request is None:
        parts = stage_parts(_STAGES_OF_KIND.get(job.kind, ("start", "load")))
    else:
        is_loaded = job.progress.stage not in ("start", "load")
        where = job.id, job.attempt, is_loaded, backend.is_measuring()
        parts, all_s = _run_parts(backend, where, planned_run(request))
        if job.attempt > 1:
            done_before_s = max(0.0, all_s - sum(part.seconds for part in parts))
    progress = job_progress(
        parts,
        job.progress,
        _silent_s(job),
        done_before_s,
    )
    shown = _shown(backend, job.id, job.attempt)
    shown.share = max(shown.share, progress.share)
    return replace(progress, share=shown.share)


@dataclass
class _Shown:
    """The share of a job's attempt that was shown last, to any user."""

    share: float = 0.0


@lru_cache(maxsize=64)
def _shown(backend: Backend, job_id: int, attempt: int) -> _Shown:
    return _Shown()


@lru_cache(maxsize=64)
def _run_parts(
    backend: Backend, where: tuple[object, ...], settings: RunSettings
) -> tuple[list[RunPart], float]:
    """The parts of a job that makes a run, and the estimated seconds of them and what is stored.

    Read once in an attempt, and again once its model is loaded and the machine is measured: a record
    that it stores stays a part of it.
    """
    parts = backend.expected_parts(settings, backend.cached(settings))
    whole = backend.expected_parts(settings, NOTHING_STORED)
    return parts, sum(part.seconds for part in whole)


def _sparse_model(job: Job) -> str:
    """Which of how many sparse models a run makes or evaluates; empty where it does neither.

    Before the first one, what is read serves them all; later it is read again for one.
    """
    settings = job_request(job)
    stage = job.progress.stage
    point = job.progress.point
    if settings is None or point is None or stage == "walk":
        return ""
    if point == 0 and stage not in _OF_ONE_MODEL:
        return ""
    if isinstance(settings, FindSettings):
        trial = "after the search" if job.progress.quantised else f"trial {point + 1}"
        return f"{trial}: {job.progress.message}" if job.progress.message else trial
    points = settings.points
    if not 0 <= point < len(points):
        return ""
    return f"sparse model {point + 1} of {len(points)}: {wording.model_words(points[point])}"


def measured_against_estimate(run: Run, whole_s: float, forecast: Preflight) -> Table:
    """Time, by part, memory and disk of a run of which nothing was stored before. whole_s: from its
    first step on.
    """
    expected = dict(forecast.duration.parts)
    times = [("Time", whole_s, forecast.duration.total_s)]
    for part, stages in PART_STAGES.items():
        measured = [run.seconds[stage] for stage in stages if stage in run.seconds]
        if measured:
            times.append((f"of it {part}", sum(measured), expected.get(part)))
    sizes = [
        ("Memory, at most", run.peak_bytes, forecast.memory.expected_bytes),
        ("Left on the disk", run.disk_bytes, forecast.left_bytes),
    ]
    rows = [[name, *_known(wording.duration_words, values)] for name, *values in times]
    rows += [[name, *_known(wording.size, values)] for name, *values in sizes]
    caption = "Measured, and estimated at the start."
    return Table("what it took", caption, ["", "measured", "estimated"], rows)


def _known(words: Callable[[Any], str], values: Sequence[float | None]) -> list[str]:
    return ["not known" if value is None else words(value) for value in values]
