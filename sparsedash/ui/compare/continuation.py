"""What models write after a text: started by a button, shown while it is written, stored like every result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


def show_written(
    backend: Backend, seen: SideBySide, request: ContinuationSettings, names: Mapping[str, str] | None = None
) -> None:
    """Draw what was written, or what is being written, with what can be done about it.

    names: of the models that were asked beside the two, by their records' keys.
    """
    asked = _Asked(seen=seen, others=tuple((names or {}).get(key, key[:8]) for key in request.others))
    job = backend.newest_job(request.key())
    stored = backend.continuation(request.key())
    whole = stored is not None and not stored.stopped
    if job is not None and job.live and not whole:
        _watch(backend, asked, job.id)
    elif stored is not None:
        _draw_written(asked, (stored.left, stored.right, *stored.others))
        if stored.stopped:
            with st.container(horizontal=True, vertical_alignment="center"):
                frame.note("⊘ Stopped before the end; this is what was written by then.")
                _again(backend, request)
    elif job is not None:
        if any(job.texts):
            frame.show(_growing(asked, job.texts))
        job_panel.draw(backend, job, brief=True)
    else:
        with st.container(horizontal=True, vertical_alignment="center"):
            frame.note("What was written is no longer stored.")
            _again(backend, request)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The two models, and the names of the others that write as well."""

    seen: SideBySide
    others: tuple[str, ...]


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
def _watch(backend: Backend, asked: _Asked, job_id: int) -> None:
    """All texts as far as they are. Reruns the page when the job has ended."""
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
        frame.show(_growing(asked, job.texts))


def _progress(backend: Backend, job: Job) -> str:
    if job.cancel_requested_at is not None:
        return "⊘ Stopping"
    if job.state == "queued":
        place = backend.queue_position(job.id) or 1
        return "◷ Waiting for a worker" if place < 2 else f"◷ Waiting, {place - 1} before it"
    if job.stage != "continue":
        return f"▶ {wording.stage(job.stage) if job.stage else 'Starting the worker'}"
    whose = f", {job.message}" if job.message else ""
    speed = f" · {job.rate:.0f} a second" if job.rate else ""
    return f"▶ Writing{whose}: {job.done:,} of {job.total:,} tokens each{speed}"


def _growing(asked: _Asked, texts: Sequence[str]) -> Html:
    return _beside(asked, [element("p", escape(text.strip() or "…"), css="sd-written sd-growing") for text in texts])


def _draw_written(asked: _Asked, texts: Sequence[str]) -> None:
    """All texts, each with a mark where it parts from the left model's."""
    left, right, *others = (text.strip() or NOTHING for text in texts)
    both = parted(left, right)
    # Among several it parts from each of them elsewhere.
    first = escape(left) if asked.others and not asked.seen.hidden else both[0]
    drawn = [first, both[1], *(parted(left, text)[1] for text in others)]
    frame.show(_beside(asked, [element("p", text, css="sd-written") for text in drawn]))
    if asked.others and not asked.seen.hidden:
        legend = f"The mark {SIGN} stands where a text parts from that of {asked.seen.pair.left_name}."
    else:
        legend = f"Both wrote the same words up to the mark {SIGN}." if left != right else "Both wrote the same."
    frame.show(paragraph(legend, css="sd-muted sd-small"))


def _beside(asked: _Asked, drawn: Sequence[Html]) -> Html:
    """The markup of every text under its model's name; of one that is not there yet, a sign that it will be."""
    left, right, *others = drawn
    waiting = element("p", escape("…"), css="sd-written sd-growing")
    named = {name: others[i] if i < len(others) else waiting for i, name in enumerate(asked.others)}
    return asked.seen.beside(left, right, named)
