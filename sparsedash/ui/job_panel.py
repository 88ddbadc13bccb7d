"""One job as it is now: what it is, how far it is or how it ended, and the buttons that change that."""

from collections.abc import Sequence
from functools import partial

import streamlit as st

from sparsedash.jobs.job import Job, JobState, Move, Priority
from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, element, escape, join, paragraph, visible
from sparsedash.reporting.job_status import doing, facts, named, overall, what, when_started
from sparsedash.reporting.record_pair import offers
from sparsedash.reporting.runs.took import took
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.searches import FindSettings, asked_settings
from sparsedash.service.backend import Backend
from sparsedash.service.preflight import Forecast
from sparsedash.ui import address_bar, carried, frame
from sparsedash.ui.form_address import form_address
from sparsedash.ui.serving import visitor

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


def draw(backend: Backend, job: Job, brief: bool = False, *, queue: Sequence[Job] = ()) -> None:
    """Draw the job as it is now, with its buttons.

    brief: on the page of its results: without how they are made and the way there, and as high once it is done as
    before.
    queue: all that wait, in order: then a waiting job has buttons that move it there, and a run its priority.
    """
    forecast = _forecast(backend, job)
    details = Html("") if brief else paragraph(_details(job), css="sd-muted sd-small")
    with st.container(border=True, key=f"job-{job.id}", gap="xsmall"):
        frame.show(element("div", _head(backend, job), details, *_body(backend, job, brief, forecast), css="sd-job"))
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
    how = what(job)[1]
    return how if job.owner in ("", visitor.current()) else f"{how} · for {job.owner}"


def _head(backend: Backend, job: Job) -> Html:
    title = named(backend, job)
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


def _body(backend: Backend, job: Job, steady: bool, forecast: Forecast | None) -> list[Html]:
    match job.state:
        case "queued":
            return _lines(*overall(backend, job), escape(when_started(backend, job)))
        case "running":
            stage, more = doing(job)
            parts = element("b", escape(stage)), escape(f" · {more}" if more else "")
            return _lines(*overall(backend, job), join(*parts), facts(job))
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
    return f" in {wording.duration(job.finished_at - job.started_at)}"


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
        parts.append(f"took {wording.duration(job.finished_at - job.started_at)}")
        parts += [f"{wording.duration(forecast.seconds)} expected"] if forecast and forecast.seconds is not None else []
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
        case "failed" | "crashed" | "cancelled" if not job.lost:
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
        asked = form_address(asked_settings(job.kind, job.settings))
    except SettingsError:
        return
    if asked is not None:
        frame.link("prune", "Change the settings", **asked)


def _retry(backend: Backend, job: Job) -> None:
    """Try again; where that makes another job, the address follows to it."""
    again = backend.retry(job.id)
    if address_bar.asked(carried.RUN) == job.key:
        address_bar.go({carried.RUN: again.key})


def _open(backend: Backend, job: Job) -> None:
    """Where a finished job's results are."""
    if job.makes_run:
        judged = carried.asked_tolerance(search_of(job))
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
        known = {offer.key: offer.address for offer in offers(run, ())}
        sides = {"left": known.get(left, ""), "right": known.get(right, "")}
        frame.link("compare", "Compare passages", run=run.key, **sides)


def search_of(job: Job) -> FindSettings | None:
    """What a search was asked for; None for any other job, or where that cannot be read."""
    try:
        asked = asked_settings(job.kind, job.settings) if job.kind == "find" else None
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
        with shown, frame.told():
            run = backend.run(job.key)
            if run is None:
                frame.note("Its results are gone.")
            elif run.cached:
                frame.note(f"Parts of it were stored already: {', '.join(run.cached)}.")
            else:
                frame.show(took(run, job.finished_at - job.started_at, forecast).html)


def _log(backend: Backend, job: Job) -> None:
    log = st.popover("Log", key=f"log-{job.id}", on_change="rerun", type="tertiary")
    if log.open:
        with log, frame.told():
            lines = backend.log_tail(job.id, LOG_LINES + 1).split("\n")
            tail = "\n".join(lines[-LOG_LINES:])
            if len(lines) > LOG_LINES or len(tail) > LOG_CHARACTERS:
                frame.note(f"The end of the log; the lines before it are in {job.log_path}.")
            text = visible(tail[-LOG_CHARACTERS:]) or "The log is empty."
            st.code(text, language=None, wrap_lines=True)
