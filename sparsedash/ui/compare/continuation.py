"""What both models write after a text: started by a button, shown while it is written, stored like every result."""

import streamlit as st

from sparsedash.jobs.job import Job
from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, element, escape, paragraph
from sparsedash.reporting.side_by_side import SideBySide
from sparsedash.reporting.text_diff import SIGN, parted
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.pair_settings import ContinuationSettings
from sparsedash.service.backend import Backend
from sparsedash.ui import frame, job_panel
from sparsedash.ui.polling import WRITTEN_S

NOTHING = "(nothing)"


def continue_passage(backend: Backend, seen: SideBySide, context: str) -> None:
    """Draw the continuations of the context as far as they are, or the button that asks for them."""
    pair = seen.pair
    try:
        request = ContinuationSettings(left=pair.left.key, right=pair.right.key, prompt=context)
    except SettingsError as error:
        frame.note(f"This passage cannot be continued: {error.message}")
        return
    if is_asked(backend, request):
        frame.section("Continued by both models")
        show_written(backend, seen, request)
        return
    st.button(
        "Continue with both models",
        key="continue",
        icon=":material/edit_note:",
        on_click=frame.attempt,
        args=(lambda: backend.submit_continuation(request),),
        help=f"Each model writes on from here, {request.n_tokens} tokens, always its first choice.",
    )


def is_asked(backend: Backend, request: ContinuationSettings) -> bool:
    """Whether there is something to show for the request: a result, or a job for it."""
    if backend.continuation(request.key()) is not None:
        return True
    job = backend.newest_job(request.key())
    # A job that is done has left a result; without one, somebody has cleared the store.
    return job is not None and job.state != "done"


def show_written(backend: Backend, seen: SideBySide, request: ContinuationSettings) -> None:
    """Draw what was written, or what is being written, with what can be done about it."""
    job = backend.newest_job(request.key())
    stored = backend.continuation(request.key())
    whole = stored is not None and not stored.stopped
    if job is not None and job.live and not whole:
        _watch(backend, seen, job.id)
    elif stored is not None:
        _draw_both(seen, stored.left, stored.right)
        if stored.stopped:
            with st.container(horizontal=True, vertical_alignment="center"):
                frame.note("⊘ Stopped before the end; this is what was written by then.")
                _again(backend, request)
    elif job is not None:
        if job.left_text or job.right_text:
            frame.show(_growing(seen, job))
        job_panel.draw(backend, job, brief=True)
    else:
        with st.container(horizontal=True, vertical_alignment="center"):
            frame.note("What was written is no longer stored.")
            _again(backend, request)


def _again(backend: Backend, request: ContinuationSettings) -> None:
    st.button(
        "Write it again",
        key=f"again-{request.key()}",
        type="tertiary",
        icon=":material/refresh:",
        on_click=frame.attempt,
        args=(lambda: backend.submit_continuation(request),),
    )


@frame.fragment(WRITTEN_S)
def _watch(backend: Backend, seen: SideBySide, job_id: int) -> None:
    """Both sides as far as they are. Reruns the page when the job has ended."""
    job = backend.job(job_id)
    if not job.live:
        st.rerun()
    with st.container(key=f"writing-{job.id}", gap="small"):
        with st.container(horizontal=True, vertical_alignment="center"):
            frame.show(element("p", escape(_progress(backend, job)), css="sd-progress", role="status"))
            st.button(
                "Stop",
                key=f"stop-{job.id}",
                icon=":material/stop_circle:",
                disabled=job.cancel_requested_at is not None,
                on_click=frame.attempt,
                args=(lambda: backend.cancel(job.id),),
            )
        frame.show(_growing(seen, job))


def _progress(backend: Backend, job: Job) -> str:
    if job.cancel_requested_at is not None:
        return "⊘ Stopping"
    if job.state == "queued":
        place = backend.queue_position(job.id) or 1
        return "◷ Waiting for a worker" if place < 2 else f"◷ Waiting, {place - 1} before it"
    if job.stage != "continue":
        return f"▶ {wording.stage(job.stage) if job.stage else 'Starting the worker'}"
    speed = f" · {job.rate:.0f} a second" if job.rate else ""
    return f"▶ Writing: {job.done:,} of {job.total:,} tokens each{speed}"


def _growing(seen: SideBySide, job: Job) -> Html:
    left, right = (
        element("p", escape(text.strip() or "…"), css="sd-written sd-growing")
        for text in (job.left_text, job.right_text)
    )
    return seen.beside(left, right)


def _draw_both(seen: SideBySide, left: str, right: str) -> None:
    """Side by side, with a mark where the two texts part."""
    one, other = left.strip() or NOTHING, right.strip() or NOTHING
    frame.show(seen.beside(*(element("p", text, css="sd-written") for text in parted(one, other))))
    legend = f"Both wrote the same words up to the mark {SIGN}." if one != other else "Both wrote the same."
    frame.show(paragraph(legend, css="sd-muted sd-small"))
