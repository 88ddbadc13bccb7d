"""Texts that the models write: the continuation of a passage, and a user's own prompts."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import streamlit as st

from sparsedash.catalog.choices import is_example
from sparsedash.jobs.job import Job
from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, element, escape, paragraph
from sparsedash.reporting.job_status import job_activity, job_progress_words, stage_facts
from sparsedash.reporting.record_pair import DIVERGENCE_SIGN, Pair, end_of, mark_divergence
from sparsedash.reporting.run_reports import sampling_words
from sparsedash.reporting.wording import first_upper
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.fields import field_rows
from sparsedash.schema.pair_records import ContinuationSettings
from sparsedash.schema.records import Run
from sparsedash.service.backend import Backend
from sparsedash.ui import frame, job_panel
from sparsedash.ui.compare_views import judge_blind, sides

NOTHING = "(nothing)"
_POLL_S = 0.25
"""How often texts that are being written are drawn again."""
_NOT_HERE = (
    "Continuations and prompts need the models themselves, and this example was made elsewhere: only its answers ship "
    "with SparseDash. Run it here, and both models write for you."
)
_PROMPT, _ALL = "own-prompt", "own-all"
_ROWS = field_rows(ContinuationSettings)
_DRAWS = "0: always the first choice. Above it, all draw with the same random numbers, so that only the models differ."
_SETTINGS: dict[str, tuple[Any, ...]] = {
    "temperature_percent": ("Temperature", 0.0, _ROWS["temperature_percent"].high / 100, 0.0, 0.1, _DRAWS),
    "seed": ("Seed", 0, _ROWS["seed"].high, 0, 1, "Another seed draws other words."),
    "n_tokens": ("Tokens to write", 1, _ROWS["n_tokens"].high, _ROWS["n_tokens"].default, 1, None),
}
"""Label, limits, default, step and help of the fields."""
_SHOWN_CHARACTERS = 2_000
_AT_FIRST = 5


def continue_passage(backend: Backend, pair: Pair, context: str) -> None:
    """Draw the continuations of the context as far as they are, or the button that asks for them."""
    try:
        request = ContinuationSettings(left=pair.left.key, right=pair.right.key, prompt=context)
    except SettingsError as error:
        frame.note(f"This passage cannot be continued: {error.message}")
        return
    job = backend.newest_job(request.key())
    # A job that is done has left a result; without one, somebody has cleared the store.
    if backend.continuation(request.key()) is not None or (job is not None and job.state != "done"):
        frame.section("Continued by both models")
        _show_written(backend, pair, request, {})
        return
    about = f"Each model writes on from here, {request.n_tokens} tokens, always its first choice."
    submit = partial(backend.submit, request)
    frame.action_button("Continue with both models", submit, key="continue", icon="edit_note", help=about)


def _show_written(backend: Backend, pair: Pair, request: ContinuationSettings, names: Mapping[str, str]) -> None:
    """Draw what was or is being written. names: of the further models that write, by their records' keys."""
    others = [names.get(key, key[:8]) for key in request.others]
    job, stored = backend.newest_job(request.key()), backend.continuation(request.key())
    if job is not None and job.live and (stored is None or stored.stopped):
        _watch_writing(backend, pair, others, job.id)
        return
    if stored is None and job is not None:
        if any(job.progress.texts):
            _draw_growing(pair, others, job.progress.texts or ("", ""))
        job_panel.draw_job(backend, job, brief=True)
        return
    remark = "What was written is no longer stored."
    if stored is not None:
        _draw_written(pair, others, (stored.left, stored.right, *stored.others))
        remark = "⊘ Stopped before the end; this is what was written by then." if stored.stopped else ""
    if remark:
        with frame.row():
            frame.note(remark)
            submit, key = partial(backend.submit, request), f"again-{request.key()}"
            frame.action_button("Write it again", submit, key=key, icon="refresh", kind="tertiary")


@frame.fragment(_POLL_S)
def _watch_writing(backend: Backend, pair: Pair, others: Sequence[str], job_id: int) -> None:
    """All texts as far as they are. Reruns the page when the job has ended."""
    job = backend.job(job_id)
    if not job.live:
        st.rerun()
    cancel = partial(backend.cancel, job.id)
    with st.container(key=f"writing-{job.id}", gap="small"):
        with frame.row():
            frame.show(element("p", escape(_progress(backend, job)), css="sd-progress", role="status"))
            frame.action_button("Stop", cancel, key=f"stop-{job.id}", icon="stop_circle", disabled=job.stopping)
        _draw_growing(pair, others, job.progress.texts or ("", ""))


def _progress(backend: Backend, job: Job) -> str:
    if job.stopping:
        return "⊘ Stopping"
    if job.state == "queued":
        return f"◷ Waiting: {job_progress_words(backend, job)[1]}"
    return f"▶ {' · '.join(filter(None, (*job_activity(job), stage_facts(job))))}"


def _draw_growing(pair: Pair, others: Sequence[str], texts: Sequence[str]) -> None:
    """All texts under their models' names, with a sign in place of one to come."""
    _draw_texts(pair, others, [escape(text.strip() or "…") for text in texts], "sd-written sd-growing")


def _draw_written(pair: Pair, others: Sequence[str], texts: Sequence[str]) -> None:
    """All texts, each with a mark where it diverges from the left model's; among two also the left one."""
    left, right, *more = (text.strip() or NOTHING for text in texts)
    alone = pair.hidden or not others
    both = mark_divergence(left, right)
    rest = [mark_divergence(left, text)[1] for text in more]
    _draw_texts(pair, others, [both[0] if alone else escape(left), both[1], *rest], "sd-written")
    beside = "the other" if alone else f"that of {pair.left_name}"
    parts = f"The mark {DIVERGENCE_SIGN} stands where a text parts from {beside}."
    frame.remark("Both wrote the same." if alone and left == right else parts)


def _draw_texts(pair: Pair, others: Sequence[str], texts: Sequence[Html], css: str) -> None:
    left, right, *more = (element("p", text, css=css) for text in texts)
    waiting = element("p", escape("…"), css="sd-written sd-growing")
    frame.show(pair.beside(left, right, dict(zip_longest(others, more, fillvalue=waiting))))


def try_prompt(backend: Backend, pair: Pair, run: Run, *, blind: bool) -> None:
    """Draw the prompt field with its settings, and earlier prompts to these two models, newest first.

    All models of the run can write at once.
    """
    frame.section("Try a prompt of your own")
    if is_example(pair.left.key):
        frame.note(_NOT_HERE)
        return
    about = "The models write on from here at the same time."
    st.text_area("Prompt", key=_PROMPT, height=100, placeholder="The old harbour was quiet, and", help=about)
    names = {
        key: "Dense" if key == run.dense else f"Sparse, {name}"
        for key, name in wording.record_names(run).items()
        if key not in (pair.left.key, pair.right.key)
    }
    if names:
        about = "Off: only the two that are compared. These begin first; the others write as soon as each is made."
        st.toggle(f"All {len(names) + 2} models of the run", value=True, key=_ALL, help=about)
    with st.expander("More settings"):
        for column, (name, row) in zip(st.columns(3), _SETTINGS.items(), strict=True):
            label, low, high, usual, step, help_text = row
            column.number_input(label, low, high, usual, step, key=f"own-{name}", help=help_text)
    submit = partial(_submit_prompt, backend, pair, tuple(names))
    frame.action_button("Continue this prompt", submit, key="continue-own", icon="edit_note")
    tried = backend.user_data.prompts(pair.left.key, pair.right.key)
    if not tried:
        frame.note("What you try will be listed here, and will be here again after a reload.")
    show_all = len(tried) <= _AT_FIRST or st.session_state.get("all-prompts", False)
    for request in tried if show_all else tried[:_AT_FIRST]:
        with st.container(border=True, key=f"tried-{request.key()[:16]}"):
            _show_tried(backend, pair, request, names, blind)
    if not show_all:
        st.button(f"Show all {len(tried)}", key="all-prompts")


def _submit_prompt(backend: Backend, pair: Pair, others: tuple[str, ...]) -> None:
    """Submit the prompt and put it at the head of the list. Raises SettingsError for one that is empty or too long."""
    state = st.session_state
    values = {name: state.get(f"own-{name}", row[3]) for name, row in _SETTINGS.items()}
    values["temperature_percent"] = round(100 * values["temperature_percent"])
    request = ContinuationSettings(
        left=pair.left.key,
        right=pair.right.key,
        prompt=state.get(_PROMPT, ""),
        others=others if state.get(_ALL, False) else (),
        **values,
    )
    backend.submit(request)
    backend.user_data.keep_prompt(request)


def _show_tried(
    backend: Backend, pair: Pair, request: ContinuationSettings, names: Mapping[str, str], blind: bool
) -> None:
    subject = request.key()
    frame.show(
        element("p", escape(end_of(request.prompt, _SHOWN_CHARACTERS)), css="sd-passage"),
        paragraph(first_upper(sampling_words(request)), css="sd-muted sd-small"),
    )
    pair = sides(backend, pair, subject, blind)
    _show_written(backend, pair, request, names)
    stored = backend.continuation(subject)
    if blind and stored is not None and not stored.stopped:
        judge_blind(backend, pair, subject)
    drop = partial(backend.user_data.drop_prompt, request)
    frame.action_button("Remove from the list", drop, key=f"remove-{subject}", icon="close", kind="tertiary")
