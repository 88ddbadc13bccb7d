"""Texts that the models write: the continuation of a passage, and a user's own prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from sparsedash.catalog.choices import is_example
from sparsedash.jobs.job import Job
from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, element, escape, paragraph
from sparsedash.reporting.record_pair import DIVERGENCE_SIGN, Pair, SideBySide, mark_divergence
from sparsedash.reporting.run_reports import sampling_words
from sparsedash.reporting.wording import first_upper
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.pair_records import ContinuationSettings
from sparsedash.schema.records import Run
from sparsedash.service.backend import Backend
from sparsedash.ui import frame, job_panel
from sparsedash.ui.compare_views import View
from sparsedash.ui.frame import WRITTEN_S

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
        args=(lambda: backend.submit(request),),
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
        job_panel.draw_job(backend, job, brief=True)
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
        args=(lambda: backend.submit(request),),
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
        return f"▶ {wording.stage_title(job.stage) if job.stage else 'Starting the worker'}"
    whose = f", {job.message}" if job.message else ""
    speed = f" · {job.rate:.0f} a second" if job.rate else ""
    return f"▶ Writing{whose}: {job.done:,} of {job.total:,} tokens each{speed}"


def _growing(asked: _Asked, texts: Sequence[str]) -> Html:
    return _beside(asked, [element("p", escape(text.strip() or "…"), css="sd-written sd-growing") for text in texts])


def _draw_written(asked: _Asked, texts: Sequence[str]) -> None:
    """All texts, each with a mark where it parts from the left model's."""
    left, right, *others = (text.strip() or NOTHING for text in texts)
    both = mark_divergence(left, right)
    # Among several it parts from each of them elsewhere.
    first = escape(left) if asked.others and not asked.seen.hidden else both[0]
    drawn = [first, both[1], *(mark_divergence(left, text)[1] for text in others)]
    frame.show(_beside(asked, [element("p", text, css="sd-written") for text in drawn]))
    if asked.others and not asked.seen.hidden:
        legend = f"The mark {DIVERGENCE_SIGN} stands where a text parts from that of {asked.seen.pair.left_name}."
    else:
        legend = (
            f"Both wrote the same words up to the mark {DIVERGENCE_SIGN}." if left != right else "Both wrote the same."
        )
    frame.show(paragraph(legend, css="sd-muted sd-small"))


def _beside(asked: _Asked, drawn: Sequence[Html]) -> Html:
    """The markup of every text under its model's name; of one that is not there yet, a sign that it will be."""
    left, right, *others = drawn
    waiting = element("p", escape("…"), css="sd-written sd-growing")
    named = {name: others[i] if i < len(others) else waiting for i, name in enumerate(asked.others)}
    return asked.seen.beside(left, right, named)


_NOT_HERE = (
    "Continuations and prompts need the models themselves, and this example was made elsewhere: only its answers ship "
    "with SparseDash. Run it here, and both models write for you."
)
_PROMPT, _ALL = "own-prompt", "own-all"
_SHOWN_CHARACTERS = 2_000
_AT_FIRST = 5


def try_prompt(backend: Backend, view: View, pair: Pair, run: Run) -> None:
    """Draw the prompt field, the buttons, and what was written after earlier prompts with these two, newest first.

    All models of the run can write at once.
    """
    frame.section("Try a prompt of your own")
    if is_example(pair.left.key):
        frame.note(_NOT_HERE)
        return
    st.text_area(
        "Prompt",
        key=_PROMPT,
        height=100,
        placeholder="The old harbour was quiet, and",
        help="The models write on from here at the same time.",
    )
    names = _other_models(pair, run)
    if names:
        st.toggle(
            f"All {len(names) + 2} models of the run",
            value=True,
            key=_ALL,
            help="Off: only the two that are compared. These begin first; the others write as soon as each is made.",
        )
    with st.expander("More settings"):
        _more_settings()
    st.button(
        "Continue this prompt",
        key="continue-own",
        icon=":material/edit_note:",
        on_click=frame.attempt,
        args=(lambda: _submit_prompt(backend, pair, tuple(names)),),
    )
    _list_tried(backend, view, pair, names)


def _other_models(pair: Pair, run: Run) -> dict[str, str]:
    """The run's models beside the two, by their records' keys, as they are headed."""
    shown = (pair.left.key, pair.right.key)
    return {
        key: "Dense" if key == run.dense else f"Sparse, {name}"
        for key, name in wording.record_names(run)
        if key not in shown
    }


def _list_tried(backend: Backend, view: View, pair: Pair, names: Mapping[str, str]) -> None:
    tried = backend.user_data.prompts(pair.left.key, pair.right.key)
    if not tried:
        frame.note("What you try will be listed here, and will be here again after a reload.")
    show_all = len(tried) <= _AT_FIRST or st.session_state.get("all-prompts", False)
    for request in tried if show_all else tried[:_AT_FIRST]:
        with st.container(border=True, key=f"tried-{request.key()[:16]}"):
            _show_tried(backend, view, pair, request, names)
    if not show_all:
        st.button(f"Show all {len(tried)}", key="all-prompts")


def _more_settings() -> None:
    temperature, seed, tokens = st.columns(3)
    temperature.number_input(
        "Temperature",
        0.0,
        2.0,
        0.0,
        0.1,
        key="own-temperature",
        help="0: always the first choice. Above it, all models draw with the same random numbers, so that "
        "only the models differ.",
    )
    seed.number_input("Seed", 0, 2**31 - 1, 0, key="own-seed", help="Another seed draws other words.")
    tokens.number_input("Tokens to write", 1, 400, 40, key="own-tokens")


def _submit_prompt(backend: Backend, pair: Pair, others: tuple[str, ...]) -> None:
    """Submit the prompt and put it at the head of the list. Raises SettingsError for one that is empty or too long."""
    state = st.session_state
    request = ContinuationSettings(
        left=pair.left.key,
        right=pair.right.key,
        prompt=state.get(_PROMPT, ""),
        n_tokens=int(state.get("own-tokens", 40)),
        temperature_percent=round(100 * state.get("own-temperature", 0.0)),
        seed=int(state.get("own-seed", 0)),
        others=others if state.get(_ALL, False) else (),
    )
    backend.submit(request)
    backend.user_data.keep_prompt(request)


def _show_tried(
    backend: Backend, view: View, pair: Pair, request: ContinuationSettings, names: Mapping[str, str]
) -> None:
    prompt = request.prompt
    shown = prompt if len(prompt) <= _SHOWN_CHARACTERS else f"… {prompt[-_SHOWN_CHARACTERS:]}"
    frame.show(
        element("p", escape(shown), css="sd-passage"),
        paragraph(first_upper(sampling_words(request)), css="sd-muted sd-small"),
    )
    subject = request.key()
    seen = view.sides(backend, pair, subject)
    show_written(backend, seen, request, names)
    stored = backend.continuation(subject)
    if stored is not None and not stored.stopped:
        view.judge(backend, seen, subject)
    st.button(
        "Remove from the list",
        key=f"remove-{subject}",
        type="tertiary",
        icon=":material/close:",
        on_click=frame.attempt,
        args=(lambda: backend.user_data.drop_prompt(request),),
    )
