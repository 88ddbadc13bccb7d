"""Jobs on a page: a job's panel with its buttons, kept up to date while it is live; live and ended
ones.
"""

from collections.abc import Callable, Sequence
from functools import partial

import streamlit as st

from sparsedash.jobs.job import Job, Move, Priority, queue_order, resume_advice
from sparsedash.reporting import job_status, wording
from sparsedash.reporting.html import (
    Html,
    element,
    escape,
    join,
    paragraph,
    visible,
    widget_label,
)
from sparsedash.reporting.record_pair import ADDRESS_LENGTH, record_choices
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.progress import ignore
from sparsedash.schema.settings import RunSettings
from sparsedash.service.backend import Backend
from sparsedash.service.preflight import Preflight
from sparsedash.ui import (
    address_bar,
    browser_scripts,
    frame,
    login,
    navigation,
    widgets,
)
from sparsedash.ui.form_address import form_address
from sparsedash.ui.widgets import JOB_S

JOBS_LISTED = 200
"""Jobs that are looked at where all are listed, newest first."""
_AT_FIRST = 10
LOG_LINES = 40
LOG_CHARACTERS = 16_000
"""The end of a log that is shown."""

_MOVES: dict[Move, tuple[str, str]] = {
    "front": ("To the front", "vertical_align_top"),
    "up": ("Up", "arrow_upward"),
    "down": ("Down", "arrow_downward"),
}
_PRIORITIES: dict[Priority, str] = {
    "high": "High priority",
    "normal": "Normal priority",
    "low": "Low priority",
}


def draw_job(
    backend: Backend, job: Job, brief: bool = False, *, queue: Sequence[Job] = ()
) -> None:
    """Draw the job as it is now, with its buttons.

    brief: on the page of its results: without details and links there, and as high once it is done
    as before.
    queue: all waiting jobs in order: a waiting job then has buttons that move it, and a run its
    priority.
    """
    if job.state == "queued" and not brief:
        _draw_waiting(backend, job, queue)
        return
    # A run that was resumed took less than was expected of the whole.
    fresh = job.makes_run and job.state == "done" and job.attempt == 1
    forecast = backend.forecast(job) if fresh else None
    parts = [_head(backend, job)]
    if not brief:
        parts.append(paragraph(_details(backend, job), css="sd-muted sd-small"))
    parts += _progress_lines(backend, job, brief, forecast)
    with st.container(border=True, key=f"job-{job.id}", gap="xsmall"):
        widgets.show(element("div", *parts, css="sd-job"))
        if job.state == "cancelled":
            # On request: nothing went wrong.
            widgets.note(f"{job.error_text} {job.error_advice}".strip())
        elif job.error_text:
            widgets.failure(job.error_text, job.error_advice)
        with widgets.row():
            _draw_buttons(backend, job, brief, queue)
            if not brief and forecast is not None:
                # Behind a button, since results are read for it.
                measurements = partial(_show_measurements, backend, job, forecast)
                widgets.popover("What it took", f"took-{job.id}", measurements)
            if job.started_at is not None:
                widgets.popover(
                    "Log", f"log-{job.id}", partial(_show_log, backend, job)
                )


def _head(backend: Backend, job: Job) -> Html:
    """The job's state and name."""
    sign, word = ("⊘", "Stopping") if job.stopping else job_status.STATES[job.state]
    state = element(
        "span",
        element("span", escape(sign), css="sd-sign"),
        escape(f" {word}"),
        css=f"sd-state sd-state-{job.state}",
    )
    name = element(
        "span", escape(job_status.job_name(backend, job)), css="sd-job-title"
    )
    return element("div", state, name, css="sd-job-head")


def _details(backend: Backend, job: Job) -> str:
    """Settings of the job's run, and its user if that is somebody else."""
    _, details = job_status.job_title(job)
    # Who asked for the same does not learn who else did.
    if backend.sees_all and job.owner not in ("", login.current_user()):
        return f"{details} · for {job.owner}"
    return details


def _draw_waiting(backend: Backend, job: Job, queue: Sequence[Job]) -> None:
    """Draw a waiting job on one line: its name, when it starts and how long it takes, its buttons.

    What it asks for stands behind the name.
    """
    _, starts = job_status.job_progress_words(backend, job)
    takes = job_status.waiting_run_estimate(backend, job)
    about = " · ".join(filter(None, [starts, takes]))
    with st.container(
        border=True, key=f"job-{job.id}", horizontal=True, vertical_alignment="center"
    ):
        details = _details(backend, job)
        line = element(
            "div", _head(backend, job), paragraph(about, css="sd-muted sd-small")
        )
        widgets.show(element("div", line, css="sd-job sd-waiting", title=details))
        _draw_buttons(backend, job, brief=False, queue=queue)


def _progress_lines(
    backend: Backend, job: Job, steady: bool, forecast: Preflight | None
) -> list[Html]:
    """The bar and three lines under it: before a job runs, while it does, and after it if steady,
    so that nothing below moves; else one line of times.
    """
    took_s = job.took_s
    times = [f"submitted {wording.moment(job.queued_at, frame.zone())}"]
    if took_s is not None:
        times.append(f"took {wording.duration_words(took_s)}")
        if forecast is not None and forecast.duration.total_s is not None:
            times.append(
                f"{wording.duration_words(forecast.duration.total_s)} estimated"
            )
    times += filter(None, [job_status.attempt_words(job)])
    facts = ""
    match job.state:
        case "queued":
            share, whole = job_status.job_progress_words(backend, job)
            stage = escape(job_status.waiting_run_estimate(backend, job))
        case "running":
            share, whole = job_status.job_progress_words(backend, job)
            name, more = job_status.job_activity(job)
            stage = join(
                element("b", escape(name)), escape(f" · {more}" if more else "")
            )
            facts = job_status.stage_facts(job)
        case "done" if steady:
            share = 1.0
            whole = (
                "Done"
                if took_s is None
                else f"Done in {wording.duration_words(took_s)}"
            )
            stage = escape(" · ".join(times))
        case _:
            return [paragraph(" · ".join(times), css="sd-muted sd-small")]
    bar = element(
        "div",
        element("span", style=f"width: {100 * share:.1f}%"),
        css="sd-bar",
        role="progressbar",
        aria_label="The whole job",
        aria_valuemin="0",
        aria_valuemax="100",
        aria_valuenow=f"{100 * share:.0f}",
        aria_valuetext=whole,
    )
    return [
        bar,
        paragraph(whole, css="sd-whole"),
        element("p", stage, css="sd-stage"),
        paragraph(facts, css="sd-facts"),
    ]


def _draw_buttons(
    backend: Backend, job: Job, brief: bool, queue: Sequence[Job]
) -> None:
    may_stop = backend.may_stop(job)
    if job.live:
        stopping = job.cancel_requested_at is not None
        if may_stop:
            widgets.action_button(
                "Cancel",
                lambda: backend.cancel(job.id),
                key=f"cancel-{job.id}",
                disabled=stopping,
            )
    elif job.state != "done":
        widgets.action_button(
            "Resume",
            lambda: follow(backend.retry(job.id), job.key),
            key=f"resume-{job.id}",
            icon="refresh",
            help=resume_advice(job.kind),
        )
    elif not brief:
        _link_to_results(backend, job)
    if may_stop and job.state == "queued" and len(queue) > 1:
        peers = [waiting.id for waiting in queue if waiting.priority == job.priority]
        _draw_moves(backend, job, peers)
    request = job_status.job_request(job)
    if request is not None and not brief and not job.live:
        link_to_form(request, judged_here=False)


def follow(again: Job, before: str) -> None:
    """Have the address name the run of a job that was queued again. before: the key of the run that
    it stands for.
    """
    in_address = address_bar.query_value(navigation.RUN)
    if in_address and before.startswith(in_address) and again.key != before:
        address_bar.set_query({navigation.RUN: again.key})


def link_to_form(request: RunSettings | FindSettings, *, judged_here: bool) -> None:
    """Draw the link to the form with these settings; nothing where the form has no room for them.

    judged_here: the page judges them by its own tolerance, which goes along in place of a search's.
    """
    address = form_address(request)
    if address is None:
        return
    if judged_here:
        address |= navigation.whole_tolerance_query(navigation.current_tolerance())
    widgets.link("prune", "Change the settings", **address)


def _draw_moves(backend: Backend, job: Job, peers: list[int]) -> None:
    """The buttons that move a waiting job, and a run's priority. peers: ids of its priority's jobs,
    in order.
    """
    may_order = backend.administers
    # Nobody but an administrator passes others.
    moves: Sequence[Move] = tuple(_MOVES) if may_order else ("down",)
    for to in moves if len(peers) > 1 else ():
        name, icon = _MOVES[to]
        end = peers[-1] if to == "down" else peers[0]
        widgets.action_button(
            name,
            partial(backend.move, job.id, to),
            key=f"{to}-{job.id}",
            icon=icon,
            kind="tertiary",
            disabled=may_order and job.id == end,
        )
    if job.makes_run:
        key = f"priority-{job.id}"
        # As the job table has it: another user may have changed it.
        st.session_state[key] = job.priority
        priorities = list(_PRIORITIES)
        if not may_order and job.priority != "high":
            priorities.remove("high")
        st.selectbox(
            "Priority",
            priorities,
            format_func=_PRIORITIES.__getitem__,
            key=key,
            label_visibility="collapsed",
            width=170,
            on_change=widgets.attempt,
            args=(lambda: backend.prioritise(job.id, st.session_state[key]),),
        )


def _link_to_results(backend: Backend, job: Job) -> None:
    if job.makes_run and backend.run(job.key) is None:
        with st.container(width="content"):
            widgets.note("Its results were deleted.")
    elif job.makes_run:
        judged = navigation.search_tolerance_query(job_search(job))
        widgets.link("overview", "See what it cost", run=job.key, **judged)
        widgets.link("compare", "Compare passages", run=job.key, **judged)
    elif job.kind == "export":
        widgets.link("models", "See the files")
    elif job.kind == "verify":
        widgets.link("settings", "See the result")
    else:
        run, _ = job_status.job_model(backend, job)
        if run is not None and job.kind == "timing":
            address = {"run": run.key, "against": "reading"}
            if job.settings.get("runtime", "torch") != "torch":
                address["runtime"] = job.settings["runtime"]
            widgets.link("overview", "See the speed-up", **address)
        elif run is not None:
            names = {choice.key: choice.address for choice in record_choices(run, ())}
            address = {"run": run.key}
            for side in ("left", "right"):
                key = job.settings[side]
                address[side] = names.get(key, key[:ADDRESS_LENGTH])
            widgets.link("compare", "Compare passages", **address)


def job_search(job: Job) -> FindSettings | None:
    """The settings of a search; None for any other job."""
    request = job_status.job_request(job)
    return request if isinstance(request, FindSettings) else None


def _show_measurements(backend: Backend, job: Job, forecast: Preflight) -> None:
    """Time and memory that a run took, next to the estimates."""
    run = backend.run(job.key)
    if run is None:
        widgets.note("Its results are no longer stored.")
    elif run.cached:
        widgets.note(
            f"Not measured: parts were reused from earlier runs ({', '.join(run.cached)})."
        )
    else:
        widgets.show(
            job_status.measured_against_estimate(run, job.all_s, forecast).html
        )


def _show_log(backend: Backend, job: Job) -> None:
    lines = backend.log_tail(job.id, LOG_LINES + 1).split("\n")
    tail = "\n".join(lines[-LOG_LINES:])
    if len(lines) > LOG_LINES or len(tail) > LOG_CHARACTERS:
        widgets.note(f"The end of the log; all of it: {job.log_path}.")
    text = visible(tail[-LOG_CHARACTERS:]) or "The log is empty."
    st.code(text, language=None, wrap_lines=True)


def watch_job(
    backend: Backend,
    job: Job,
    changed: Callable[[], bool] = lambda: False,
    brief: bool = False,
    below: Callable[[Job], None] = ignore,
) -> None:
    """Draw the job's panel. Reruns the page when the job starts, ends or is to stop, or when
    `changed` says so.

    brief: as in `draw_job`. below: draws what is kept up to date with the job, under its panel.
    """
    if job.live:
        _watch_live_job(backend, job, changed, brief, below)
    else:
        draw_job(backend, job, brief)
        below(job)


@widgets.fragment(JOB_S)
def _watch_live_job(
    backend: Backend,
    seen: Job,
    changed: Callable[[], bool],
    brief: bool,
    below: Callable[[Job], None],
) -> None:
    job = backend.job(seen.id)
    if (job.state, job.stopping) != (seen.state, seen.stopping) or changed():
        st.rerun()
    draw_job(backend, job, brief)
    browser_scripts.announce(job_status.job_announcement(backend, job))
    below(job)


def live_states(backend: Backend, live: Sequence[Job]) -> dict[int, tuple[str, int]]:
    """State of each of these live jobs by its id, and the number of sparse models of a run."""
    states: dict[int, tuple[str, int]] = {}
    for job in live:
        run = backend.run(job.key) if job.makes_run else None
        states[job.id] = (job.state, len(run.sparse) if run else -1)
    return states


@widgets.fragment(JOB_S)
def watch_live_jobs(backend: Backend, before: dict[int, tuple[str, int]]) -> None:
    """Draw the panels of all live jobs, running ones first. Reruns the page when their
    `live_states` change.
    """
    live = jobs_under_way(backend)
    queue = backend.queue()
    if not live or live_states(backend, live) != before:
        st.rerun()
    for job in live:
        draw_job(backend, job, queue=queue)
    browser_scripts.announce(job_status.job_announcement(backend, live[0]))


def jobs_sentence(live: Sequence[Job]) -> str:
    """Numbers of jobs that run and that wait."""
    if not live:
        return "Nothing is running."
    n_running = sum(job.state == "running" for job in live)
    n_waiting = len(live) - n_running
    return f"{n_running} running, {n_waiting or 'none'} waiting."


def show_ended_jobs(backend: Backend, ended: Sequence[Job]) -> None:
    """Draw the panels of ended jobs, the newest first; the older ones once they are asked for."""
    if not ended:
        widgets.empty("Ended jobs will be listed here, with their errors and logs.")
        widgets.link("prune", "Start a run")
    show_all = len(ended) <= _AT_FIRST or st.session_state.get("all-jobs", False)
    for job in ended if show_all else ended[:_AT_FIRST]:
        draw_job(backend, job)
    if not show_all:
        widgets.show_all(len(ended), "all-jobs")


def jobs_under_way(
    backend: Backend, seen: Sequence[Job] | None = None, but: str | None = None
) -> list[Job]:
    """The live jobs, running ones first, the others in the order in which they will start.

    but: of runs alone, without the one with this key. seen: reruns the page where they are others,
    or in other states.
    """
    jobs = [job for job in backend.jobs(JOBS_LISTED) if job.live]
    if but is not None:
        jobs = [job for job in jobs if job.makes_run and job.key != but]
    if seen is not None and _states(jobs) != _states(seen):
        st.rerun()
    return sorted(jobs, key=lambda job: (job.state != "running", queue_order(job)))


def _states(jobs: Sequence[Job]) -> set[tuple[int, str]]:
    return {(job.id, job.state) for job in jobs}


def mention_other_runs(backend: Backend, shown: str) -> None:
    """Draw, in one line, a link to the next live run but the one with the key `shown`, with its
    progress, and the number of others.

    Polls while there is such a run; reruns the page when one comes, starts or ends.
    """
    if others := jobs_under_way(backend, but=shown):
        _mention_other_runs(backend, shown, others)


@widgets.fragment(JOB_S)
def _mention_other_runs(backend: Backend, shown: str, seen: list[Job]) -> None:
    job, *more = jobs_under_way(backend, seen, but=shown)
    state = "is under way" if job.state == "running" else "is waiting"
    name = job_status.job_name(backend, job)
    with widgets.row("other-run"):
        widgets.link(
            "overview",
            widget_label(f"Another run {state}: {name}"),
            run=job.key,
            **navigation.search_tolerance_query(job_search(job)),
        )
        widgets.remark(job_status.job_progress_words(backend, job)[1])
        if more:
            widgets.link("runs", f"{len(more)} more", view="jobs")
