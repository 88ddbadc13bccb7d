"""Jobs on a page: a job's panel with its buttons, kept up to date while it is live; live and ended
ones.
"""

from collections.abc import Callable, Sequence
from functools import partial

import streamlit as st

from sparsedash.jobs.job import Job, Move, Priority, queue_order, resume_advice
from sparsedash.reporting import job_status, wording
from sparsedash.reporting.html import Html, element, escape, join, paragraph, visible, widget_label
from sparsedash.reporting.record_pair import ADDRESS_LENGTH, record_choices
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.settings import RunSettings
from sparsedash.service.backend import Backend
from sparsedash.service.preflight import Preflight
from sparsedash.ui import address_bar, browser_scripts, frame, login, navigation
from sparsedash.ui.form_address import form_address
from sparsedash.ui.frame import JOB_S

JOBS_LISTED = 200
"""Jobs that are looked at where all are listed, newest first."""
_AT_FIRST = 10
LOG_LINES, LOG_CHARACTERS = 40, 16_000
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


def draw_job(backend: Backend, job: Job, brief: bool = False, *, queue: Sequence[Job] = ()) -> None:
    """Draw the job as it is now, with its buttons.

    brief: on the page of its results: without details and links there, and as high once it is done
    as before.
    queue: all waiting jobs in order: a waiting job then has buttons that move it, and a run its
    priority.
    """
    # A run that was resumed took less than was expected of the whole.
    fresh = job.makes_run and job.state == "done" and job.attempt == 1
    forecast = backend.forecast(job) if fresh else None
    sign, word = ("⊘", "Stopping") if job.stopping else job_status.STATES[job.state]
    state = element(
        "span",
        element("span", escape(sign), css="sd-sign"),
        escape(f" {word}"),
        css=f"sd-state sd-state-{job.state}",
    )
    head = element(
        "div",
        state,
        element("span", escape(job_status.job_name(backend, job)), css="sd-job-title"),
        css="sd-job-head",
    )
    # Who asked for the same does not learn who else did.
    own = job.owner in ("", login.current_user()) or not backend.sees_all
    owner = "" if own else f" · for {job.owner}"
    details = (
        []
        if brief
        else [paragraph(f"{job_status.job_title(job)[1]}{owner}", css="sd-muted sd-small")]
    )
    with st.container(border=True, key=f"job-{job.id}", gap="xsmall"):
        frame.show(
            element(
                "div", head, *details, *_progress_lines(backend, job, brief, forecast), css="sd-job"
            )
        )
        if job.state == "cancelled":
            # On request: nothing went wrong.
            frame.note(f"{job.error_text} {job.error_advice}".strip())
        elif job.error_text:
            frame.failure(job.error_text, job.error_advice)
        with frame.row():
            _draw_buttons(backend, job, brief, queue)
            if not brief and forecast is not None:
                _offer_measurements(backend, job, forecast)
            if job.started_at is not None:
                _offer_log(backend, job)


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
            times.append(f"{wording.duration_words(forecast.duration.total_s)} estimated")
    times += filter(None, [job_status.attempt_words(job)])
    facts = ""
    match job.state:
        case "queued":
            share, whole = job_status.job_progress_words(backend, job)
            stage = escape(job_status.waiting_run_estimate(backend, job))
        case "running":
            share, whole = job_status.job_progress_words(backend, job)
            name, more = job_status.job_activity(job)
            stage, facts = (
                join(element("b", escape(name)), escape(f" · {more}" if more else "")),
                job_status.stage_facts(job),
            )
        case "done" if steady:
            share, whole = (
                1.0,
                "Done" if took_s is None else f"Done in {wording.duration_words(took_s)}",
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
    lines = (
        paragraph(whole, css="sd-whole"),
        element("p", stage, css="sd-stage"),
        paragraph(facts, css="sd-facts"),
    )
    return [bar, *lines]


def _draw_buttons(backend: Backend, job: Job, brief: bool, queue: Sequence[Job]) -> None:
    may_stop = backend.may_stop(job)
    if job.live:
        stopping = job.cancel_requested_at is not None
        if may_stop:
            frame.action_button(
                "Cancel", lambda: backend.cancel(job.id), key=f"cancel-{job.id}", disabled=stopping
            )
    elif job.state != "done":
        frame.action_button(
            "Resume",
            lambda: follow(backend.retry(job.id), job.key),
            key=f"resume-{job.id}",
            icon="refresh",
            help=resume_advice(job.kind),
        )
    elif not brief:
        _link_to_results(backend, job)
    if may_stop and job.state == "queued" and len(queue) > 1:
        _draw_moves(backend, job, [other.id for other in queue if other.priority == job.priority])
    if not brief and not job.live and (asked := job_status.job_request(job)):
        link_to_form(asked, judged_here=False)


def follow(again: Job, before: str) -> None:
    """Have the address name the run of a job that was queued again. before: the key of the run that
    it stands for.
    """
    asked = address_bar.query_value(navigation.RUN)
    if asked and before.startswith(asked) and again.key != before:
        address_bar.set_query({navigation.RUN: again.key})


def link_to_form(asked: RunSettings | FindSettings, *, judged_here: bool) -> None:
    """Draw the link to the form with these settings; nothing where the form has no room for them.

    judged_here: the page judges them by its own tolerance, which goes along in place of a search's.
    """
    if (address := form_address(asked)) is not None:
        limits = (
            navigation.whole_tolerance_query(navigation.current_tolerance()) if judged_here else {}
        )
        frame.link("prune", "Change the settings", **address | limits)


def _draw_moves(backend: Backend, job: Job, peers: list[int]) -> None:
    """The buttons that move a waiting job, and a run's priority. peers: ids of its priority's jobs,
    in order.
    """
    is_first, is_last, may_order = (
        peers[:1] == [job.id],
        peers[-1:] == [job.id],
        backend.administers,
    )
    for to, (name, icon) in _MOVES.items() if len(peers) > 1 else ():
        if may_order or to == "down":
            nowhere = may_order and (is_last if to == "down" else is_first)
            move = partial(backend.move, job.id, to)
            frame.action_button(
                name, move, key=f"{to}-{job.id}", icon=icon, kind="tertiary", disabled=nowhere
            )
    if job.makes_run:
        key = f"priority-{job.id}"
        # As the job table has it: another user may have changed it.
        st.session_state[key] = job.priority
        st.selectbox(
            "Priority",
            [each for each in _PRIORITIES if each != "high" or job.priority == "high" or may_order],
            format_func=_PRIORITIES.__getitem__,
            key=key,
            label_visibility="collapsed",
            width=170,
            on_change=frame.attempt,
            args=(lambda: backend.prioritise(job.id, st.session_state[key]),),
        )


def _link_to_results(backend: Backend, job: Job) -> None:
    if job.makes_run and backend.run(job.key) is None:
        with st.container(width="content"):
            frame.note("Its results were deleted.")
    elif job.makes_run:
        judged = navigation.search_tolerance_query(job_search(job))
        frame.link("overview", "See what it cost", run=job.key, **judged)
        frame.link("compare", "Compare passages", run=job.key, **judged)
    elif job.kind == "export":
        frame.link("models", "See the files")
    elif job.kind == "verify":
        frame.link("settings", "See the result")
    else:
        run, _ = job_status.job_model(backend, job)
        if run is not None and job.kind == "timing":
            runtime = (
                {}
                if job.settings.get("runtime", "torch") == "torch"
                else {"runtime": job.settings["runtime"]}
            )
            frame.link("overview", "See the speed-up", run=run.key, against="reading", **runtime)
        elif run is not None:
            names = {choice.key: choice.address for choice in record_choices(run, ())}
            sides = {
                side: names.get(key := job.settings[side], key[:ADDRESS_LENGTH])
                for side in ("left", "right")
            }
            frame.link("compare", "Compare passages", run=run.key, **sides)


def job_search(job: Job) -> FindSettings | None:
    """The settings of a search; None for any other job."""
    asked = job_status.job_request(job)
    return asked if isinstance(asked, FindSettings) else None


def _offer_measurements(backend: Backend, job: Job, forecast: Preflight) -> None:
    """What a run took, next to its estimate: behind a button, since results are read for it."""

    def draw() -> None:
        run = backend.run(job.key)
        if run is None:
            frame.note("Its results are no longer stored.")
        elif run.cached:
            frame.note(
                f"Not measured: parts were reused from earlier runs ({', '.join(run.cached)})."
            )
        else:
            frame.show(job_status.measured_against_estimate(run, job.all_s, forecast).html)

    frame.popover("What it took", f"took-{job.id}", draw)


def _offer_log(backend: Backend, job: Job) -> None:
    def draw() -> None:
        lines = backend.log_tail(job.id, LOG_LINES + 1).split("\n")
        tail = "\n".join(lines[-LOG_LINES:])
        if len(lines) > LOG_LINES or len(tail) > LOG_CHARACTERS:
            frame.note(f"The end of the log; all of it: {job.log_path}.")
        st.code(
            visible(tail[-LOG_CHARACTERS:]) or "The log is empty.", language=None, wrap_lines=True
        )

    frame.popover("Log", f"log-{job.id}", draw)


def watch_job(
    backend: Backend,
    job: Job,
    changed: Callable[[], bool] = lambda: False,
    brief: bool = False,
    below: Callable[[Job], None] = lambda _: None,
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


@frame.fragment(JOB_S)
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
    runs = {job.id: backend.run(job.key) for job in live if job.makes_run}
    return {
        job.id: (job.state, len(run.sparse) if (run := runs.get(job.id)) else -1) for job in live
    }


@frame.fragment(JOB_S)
def watch_live_jobs(backend: Backend, before: dict[int, tuple[str, int]]) -> None:
    """Draw the panels of all live jobs, running ones first. Reruns the page when their
    `live_states` change.
    """
    live, queue = jobs_under_way(backend), backend.queue()
    if not live or live_states(backend, live) != before:
        st.rerun()
    for job in live:
        draw_job(backend, job, queue=queue)
    browser_scripts.announce(job_status.job_announcement(backend, live[0]))


def jobs_sentence(live: Sequence[Job]) -> str:
    """How many jobs run and how many wait."""
    running = sum(job.state == "running" for job in live)
    waiting = len(live) - running
    if not live:
        return "Nothing is running."
    return (
        f"{running} running, {waiting} waiting." if waiting else f"{running} running, none waiting."
    )


def show_ended_jobs(backend: Backend, ended: Sequence[Job]) -> None:
    """Draw the panels of ended jobs, the newest first; the older ones once they are asked for."""
    if not ended:
        frame.empty("Ended jobs will be listed here, with their errors and logs.")
        frame.link("prune", "Start a run")
    show_all = len(ended) <= _AT_FIRST or st.session_state.get("all-jobs", False)
    for job in ended if show_all else ended[:_AT_FIRST]:
        draw_job(backend, job)
    if not show_all:
        frame.show_all(len(ended), "all-jobs")


def jobs_under_way(
    backend: Backend, seen: Sequence[Job] | None = None, but: str | None = None
) -> list[Job]:
    """The live jobs, running ones first, the others in the order in which they will start.

    but: of runs alone, without the one with this key. seen: reruns the page where they are others,
    or in other states.
    """
    jobs = [
        job
        for job in backend.jobs(JOBS_LISTED)
        if job.live and (but is None or (job.makes_run and job.key != but))
    ]
    if seen is not None and {(job.id, job.state) for job in jobs} != {
        (job.id, job.state) for job in seen
    }:
        st.rerun()
    return sorted(jobs, key=lambda job: (job.state != "running", queue_order(job)))


def mention_other_runs(backend: Backend, shown: str) -> None:
    """Draw a link to the next live run but the one with the key `shown`, its progress, and the
    number of others.

    Polls while there is such a run; reruns the page when one comes, starts or ends.
    """
    if others := jobs_under_way(backend, but=shown):
        _mention_other_runs(backend, shown, others)


@frame.fragment(JOB_S)
def _mention_other_runs(backend: Backend, shown: str, seen: list[Job]) -> None:
    job, *more = jobs_under_way(backend, seen, but=shown)
    state, about = "is waiting", job_status.job_title(job)[1]
    if job.state == "running":
        activity = (*job_status.job_activity(job), job_status.job_progress_words(backend, job)[1])
        state, about = "is under way", " · ".join(filter(None, activity))
    with st.container(gap=None):
        title = widget_label(f"Another run {state}: {job_status.job_name(backend, job)}")
        frame.link(
            "overview", title, run=job.key, **navigation.search_tolerance_query(job_search(job))
        )
        frame.remark(about)
        if more:
            frame.link("runs", f"{len(more)} more in the list of jobs", view="jobs")
