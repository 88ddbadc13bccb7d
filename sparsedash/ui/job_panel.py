"""Jobs on a page: a job's panel with its buttons, kept up to date while it is live, and the machines of a cluster."""

from collections.abc import Callable, Sequence
from functools import partial

import streamlit as st

from sparsedash.jobs.cluster_parts import ClusterView, MachineFacts, MachineView
from sparsedash.jobs.job import Job, JobState, Move, Priority, queue_order
from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, element, escape, join, paragraph, table, visible, widget_label
from sparsedash.reporting.job_status import (
    job_activity,
    job_announcement,
    job_name,
    job_progress_words,
    job_title,
    measured_against_estimate,
    stage_facts,
    waiting_run_estimate,
)
from sparsedash.reporting.record_pair import record_choices
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.settings import FindSettings, run_or_find_settings
from sparsedash.service.backend import Backend
from sparsedash.service.preflight import Forecast
from sparsedash.ui import address_bar, browser_notices, current_user, frame, navigation
from sparsedash.ui.form_address import form_address
from sparsedash.ui.frame import JOB_S, MACHINES_S

LOG_LINES = 40
LOG_CHARACTERS = 16_000
"""Of the end of a log; what is longer is cut at the front."""

_STATES: dict[JobState, str] = {
    "queued": "◷ Waiting",
    "running": "▶ Running",
    "done": "✓ Done",
    "failed": "✕ Failed",
    "cancelled": "⊘ Cancelled",
    "crashed": "✕ Crashed",
}
_MOVES: dict[Move, tuple[str, str]] = {
    "front": ("To the front", "vertical_align_top"),
    "up": ("Up", "arrow_upward"),
    "down": ("Down", "arrow_downward"),
}
_PRIORITIES: dict[Priority, str] = {"high": "High priority", "normal": "Normal priority", "low": "Low priority"}


def draw_job(backend: Backend, job: Job, brief: bool = False, *, queue: Sequence[Job] = ()) -> None:
    """Draw the job as it is now, with its buttons.

    brief: on the page of its results: without how they are made and the way there, and as high once it is done as
    before.
    queue: all that wait, in order: then a waiting job has buttons that move it there, and a run its priority.
    """
    forecast = _forecast(backend, job)
    details = Html("") if brief else paragraph(_details(job), css="sd-muted sd-small")
    with st.container(border=True, key=f"job-{job.id}", gap="xsmall"):
        frame.show(
            element("div", _head(backend, job), details, *_progress_lines(backend, job, brief, forecast), css="sd-job")
        )
        if job.state == "cancelled":
            # Somebody wanted it so: nothing went wrong.
            # Of what verification has read, nothing is kept.
            advice = "" if job.kind == "verify" else job.error_advice
            frame.note(f"{job.error_text} {advice}".strip())
        elif job.error_text:
            frame.failure(job.error_text, job.error_advice)
        with st.container(horizontal=True, vertical_alignment="center"):
            _buttons(backend, job, brief)
            if job.state == "queued" and len(queue) > 1:
                _moves(backend, job, [other.id for other in queue if other.priority == job.priority])
                _priority(backend, job)
            _change(job)
            if not brief and forecast is not None:
                _took_button(backend, job, forecast)
            if job.started_at is not None:
                _log(backend, job)


def _details(job: Job) -> str:
    """How it is done, and for whom where that is somebody else."""
    how = job_title(job)[1]
    return how if job.owner in ("", current_user.current_user()) else f"{how} · for {job.owner}"


def _head(backend: Backend, job: Job) -> Html:
    title = job_name(backend, job)
    state = _STATES[job.state]
    if job.stopping:
        state = "⊘ Stopping"
    sign, word = state.split(" ")
    css = f"sd-state sd-state-{job.state}"
    return element(
        "div",
        element("span", element("span", escape(sign), css="sd-sign"), escape(f" {word}"), css=css),
        element("span", escape(title), css="sd-job-title"),
        css="sd-job-head",
    )


def _progress_lines(backend: Backend, job: Job, steady: bool, forecast: Forecast | None) -> list[Html]:
    match job.state:
        case "queued":
            return _lines(*job_progress_words(backend, job), escape(waiting_run_estimate(backend, job)))
        case "running":
            stage, more = job_activity(job)
            parts = element("b", escape(stage)), escape(f" · {more}" if more else "")
            return _lines(*job_progress_words(backend, job), join(*parts), stage_facts(job))
        case "done" if steady:
            return _lines(1.0, f"Done{_took(job)}", escape(_times(job, forecast)))
        case _:
            return [paragraph(_times(job, forecast), css="sd-muted sd-small")]


def _lines(share: float, whole: str, stage: Html, far: str = "") -> list[Html]:
    """The bar and what is said under it: the same lines before a job runs, while it does and after, so that nothing
    below them moves.
    """
    said = paragraph(whole, css="sd-whole")
    return [_bar(share, whole), said, element("p", stage, css="sd-stage"), paragraph(far, css="sd-facts")]


def _took(job: Job) -> str:
    if job.started_at is None or job.finished_at is None:
        return ""
    return f" in {wording.duration_words(job.finished_at - job.started_at)}"


def _bar(share: float, said: str) -> Html:
    """The bar of the whole job. said: the same in words."""
    filled = element("span", style=f"width: {100 * share:.1f}%")
    return element(
        "div",
        filled,
        css="sd-bar",
        role="progressbar",
        aria_label="The whole job",
        aria_valuemin="0",
        aria_valuemax="100",
        aria_valuenow=f"{100 * share:.0f}",
        aria_valuetext=said,
    )


def _times(job: Job, forecast: Forecast | None) -> str:
    zone = frame.zone()
    parts = [f"asked {wording.moment(job.created_at, zone)}"]
    if job.started_at is not None and job.finished_at is not None:
        parts.append(f"took {wording.duration_words(job.finished_at - job.started_at)}")
        parts += (
            [f"{wording.duration_words(forecast.seconds)} expected"]
            if forecast and forecast.seconds is not None
            else []
        )
    if job.attempt > 1:
        parts.append(f"attempt {job.attempt}")
    return " · ".join(parts)


def _buttons(backend: Backend, job: Job, brief: bool) -> None:
    match job.state:
        case "queued" | "running":
            st.button(
                "Cancel",
                key=f"cancel-{job.id}",
                disabled=job.cancel_requested_at is not None,
                on_click=frame.attempt,
                args=(lambda: backend.cancel(job.id),),
            )
        case "failed" | "crashed" | "cancelled":
            st.button(
                "Try again",
                key=f"retry-{job.id}",
                icon=":material/refresh:",
                on_click=frame.attempt,
                args=(lambda: _retry(backend, job),),
            )
        case "done" if not brief:
            _open(backend, job)


def _moves(backend: Backend, job: Job, peers: list[int]) -> None:
    """The buttons that move it. peers: the ids of those that wait with its priority, in order."""
    first, last = peers[:1] == [job.id], peers[-1:] == [job.id]
    possible: dict[Move, bool] = {"front": not first, "up": not first, "down": not last}
    if not backend.orders_queue():
        possible = {"down": True}
    for to in possible if len(peers) > 1 else ():
        name, icon = _MOVES[to]
        st.button(
            name,
            key=f"{to}-{job.id}",
            type="tertiary",
            icon=f":material/{icon}:",
            disabled=not possible[to],
            on_click=frame.attempt,
            args=(partial(backend.move, job.id, to),),
        )


def _priority(backend: Backend, job: Job) -> None:
    """The choice of its priority. What the table says is shown: another visitor may have changed it."""
    if not job.makes_run:
        return
    key = f"priority-{job.id}"
    st.session_state[key] = job.priority
    offered = [each for each in _PRIORITIES if each != "high" or job.priority == "high" or backend.orders_queue()]
    st.selectbox(
        "Priority",
        offered,
        format_func=_PRIORITIES.__getitem__,
        key=key,
        label_visibility="collapsed",
        width=170,
        on_change=frame.attempt,
        args=(lambda: backend.prioritise(job.id, st.session_state[key]),),
    )


def _change(job: Job) -> None:
    """A link to the form with the settings of a run that ended, to be changed and asked for again."""
    if job.live or not job.makes_run:
        return
    try:
        asked = form_address(run_or_find_settings(job.kind, job.settings))
    except SettingsError:
        return
    if asked is not None:
        frame.link("prune", "Change the settings", **asked)


def _retry(backend: Backend, job: Job) -> None:
    """Try again; where that makes another job, the address follows to it."""
    again = backend.retry(job.id)
    if address_bar.query_value(navigation.RUN) == job.key:
        address_bar.set_query({navigation.RUN: again.key})


def _open(backend: Backend, job: Job) -> None:
    """Where a finished job's results are."""
    if job.makes_run:
        judged = navigation.search_tolerance_query(job_search(job))
        frame.link("overview", "See what it cost", run=job.key, **judged)
        frame.link("compare", "Compare passages", run=job.key, **judged)
        return
    if job.kind == "timing":
        sparse = str(job.settings.get("sparse", ""))
        if timed := next((run for run in backend.runs() if sparse in run.sparse), None):
            frame.link("overview", "See what it wins", run=timed.key, against="reading")
        return
    if job.kind == "export":
        frame.link("models", "See the files")
        return
    if job.kind == "verify":
        frame.link("storage", "See what was found")
        return
    left, right = (str(job.settings.get(side, "")) for side in ("left", "right"))
    run = next((run for run in backend.runs() if right in run.sparse), None)
    if run is not None:
        known = {offer.key: offer.address for offer in record_choices(run, ())}
        sides = {"left": known.get(left, ""), "right": known.get(right, "")}
        frame.link("compare", "Compare passages", run=run.key, **sides)


def job_search(job: Job) -> FindSettings | None:
    """What a search was asked for; None for any other job, or where that cannot be read."""
    try:
        asked = run_or_find_settings(job.kind, job.settings) if job.kind == "find" else None
    except SettingsError:
        return None
    return asked if isinstance(asked, FindSettings) else None


def _forecast(backend: Backend, job: Job) -> Forecast | None:
    """What a run that is done was expected to take; None where it went on after an attempt that was broken off."""
    return backend.forecast(job) if job.makes_run and job.state == "done" and job.attempt == 1 else None


def _took_button(backend: Backend, job: Job, forecast: Forecast) -> None:
    """What a run took, beside what was expected: behind a button, since results are read for it."""
    if job.started_at is None or job.finished_at is None:
        return
    shown = st.popover("What it took", key=f"took-{job.id}", on_change="rerun", type="tertiary")
    if shown.open:
        with shown, frame.errors_in_words():
            run = backend.run(job.key)
            if run is None:
                frame.note("Its results are gone.")
            elif run.cached:
                frame.note(f"Parts of it were stored already: {', '.join(run.cached)}.")
            else:
                frame.show(measured_against_estimate(run, job.finished_at - job.started_at, forecast).html)


def _log(backend: Backend, job: Job) -> None:
    log = st.popover("Log", key=f"log-{job.id}", on_change="rerun", type="tertiary")
    if log.open:
        with log, frame.errors_in_words():
            lines = backend.log_tail(job.id, LOG_LINES + 1).split("\n")
            tail = "\n".join(lines[-LOG_LINES:])
            if len(lines) > LOG_LINES or len(tail) > LOG_CHARACTERS:
                frame.note(f"The end of the log; the lines before it are in {job.log_path}.")
            text = visible(tail[-LOG_CHARACTERS:]) or "The log is empty."
            st.code(text, language=None, wrap_lines=True)


JOBS_LISTED = 200
"""How many jobs are looked at, newest first, where all of them are listed."""


def watch_job(backend: Backend, job: Job, changed: Callable[[], bool] = lambda: False, brief: bool = False) -> None:
    """Draw the job's panel. Reruns the page when the job starts, ends or is to stop, or when `changed` says so.

    brief: leave out how the run is made, where the page says that already.
    """
    if job.live:
        _watch_live(backend, job, changed, brief)
    else:
        draw_job(backend, job, brief)


@frame.fragment(JOB_S)
def _watch_live(backend: Backend, seen: Job, changed: Callable[[], bool], brief: bool) -> None:
    job = backend.job(seen.id)
    if has_changed(seen, job) or changed():
        st.rerun()
    draw_job(backend, job, brief)
    browser_notices.announce(job_announcement(backend, job))


def has_changed(seen: Job, now: Job) -> bool:
    """Whether a page that has drawn a live job says something else of it by now."""
    return (now.state, now.stopping) != (seen.state, seen.stopping)


def watch_live_jobs(backend: Backend, live: list[Job]) -> None:
    """Draw the panels of all live jobs, running ones first. Reruns the page when one comes, starts or ends."""
    _watch_all_live(backend, {job.id: job.state for job in live})


@frame.fragment(JOB_S)
def _watch_all_live(backend: Backend, states: dict[int, JobState]) -> None:
    live = _live_jobs(backend)
    if {job.id: job.state for job in live} != states:
        st.rerun()
    queue = backend.queue()
    for job in live:
        draw_job(backend, job, queue=queue)
    browser_notices.announce(job_announcement(backend, live[0]))


def _live_jobs(backend: Backend) -> list[Job]:
    """As `live_runs`, jobs of every kind."""
    live = [job for job in backend.jobs(JOBS_LISTED) if job.live]
    return sorted(live, key=lambda job: (job.state != "running", queue_order(job)))


def live_run_jobs(backend: Backend) -> list[Job]:
    """The runs that wait or run: running ones first, the others in the order in which they will start."""
    return [job for job in _live_jobs(backend) if job.makes_run]


def mention_other_runs(backend: Backend, shown: str) -> None:
    """Draw a link to the next live run other than the one with the key `shown`, its progress, and how many more there
    are.

    Polls while there is such a run; reruns the page when one comes, starts or ends.
    """
    if others := _others(backend, shown):
        _mention(backend, shown, {job.id: job.state for job in others})


@frame.fragment(JOB_S)
def _mention(backend: Backend, shown: str, states: dict[int, JobState]) -> None:
    others = _others(backend, shown)
    if {job.id: job.state for job in others} != states:
        st.rerun()
    job, *more = others
    title, details = job_name(backend, job), job_title(job)[1]
    runs = job.state == "running"
    with st.container(gap=None):
        begun = "Another run is under way" if runs else "Another run waits"
        frame.link(
            "overview",
            widget_label(f"{begun}: {title}"),
            run=job.key,
            **navigation.search_tolerance_query(job_search(job)),
        )
        line = (
            " · ".join(part for part in (*job_activity(job), job_progress_words(backend, job)[1]) if part)
            if runs
            else details
        )
        frame.show(paragraph(line, css="sd-muted sd-small"))
        if more:
            frame.link("jobs", f"{len(more)} more in the list of jobs")


def _others(backend: Backend, shown: str) -> list[Job]:
    return [job for job in live_run_jobs(backend) if job.key != shown]


_MACHINES_HEAD = ["Machine", "Runs", "Memory used", "Memory free", "GPUs"]


def draw_machines(backend: Backend) -> None:
    """Draw the machines as they are now, and again every few seconds; nothing where no scheduler is named."""
    if backend.cluster() is not None:
        frame.section("Machines of the cluster")
        _machines(backend)


@frame.fragment(MACHINES_S)
def _machines(backend: Backend) -> None:
    view = backend.cluster()
    if view is None:
        return
    if view.trouble:
        frame.failure(view.trouble, "Meanwhile runs are done on this machine.")
    elif not view.machines:
        frame.note(f"{view.address} answers, and has no machines yet; docs/cluster.md says how they are started.")
        frame.note("Until one comes, runs are done on this machine.")
    else:
        rows = [_machine_row(seen) for seen in view.machines]
        drawn = table("Machines of the cluster", _machines_caption(view), _MACHINES_HEAD, rows)
        frame.show(element("div", drawn.html, css="sd-wrapped"))


def _machines_caption(view: ClusterView) -> str:
    n_free = sum(seen.job_id is None and not seen.machine.problem for seen in view.machines)
    said = wording.plural(len(view.machines), "machine")
    return f"{len(view.machines)} {said} at {view.address}, {n_free or 'none'} of them free."


def _machine_row(seen: MachineView) -> list[str]:
    facts = seen.machine.facts or MachineFacts()
    memory = [wording.size(n_bytes) if n_bytes else "–" for n_bytes in (facts.child_bytes, facts.free_bytes)]
    return [seen.machine.name, _machine_job(seen), *memory, ", ".join(facts.gpus) or "none"]


def _machine_job(seen: MachineView) -> str:
    machine, progress = seen.machine, seen.progress
    if machine.problem:
        return f"✕ {machine.problem}"
    if seen.job_id is None or progress is None:
        return "nothing"
    share = f", {wording.percent(progress.done / progress.total, 0)}" if progress.total > 1 else ""
    which = "" if progress.point is None else f", sparse model {progress.point + 1}"
    return f"job {seen.job_id}{which}: {wording.stage_title(progress.stage or 'start')}{share}"
