"""A prompt of one's own, continued by both models; what was tried stays in a list for the session."""

import streamlit as st

from sparsedash.backend import Backend
from sparsedash.settings import ContinuationSettings
from sparsedash.ui import frame
from sparsedash.ui.job_panel import watch
from sparsedash.ui.pair import Pair
from sparsedash.ui.passage import show_continuations
from sparsedash.ui.text import element, escape

_PROMPT = "own-prompt"
_TRIED = "own-prompts-tried"
_SHOWN_CHARACTERS = 2_000


def try_prompt(backend: Backend, pair: Pair) -> None:
    """Draw the field, the button, and what this pair of models wrote after earlier prompts, newest first."""
    frame.section("Try a prompt of your own")
    st.text_area(
        "Prompt", key=_PROMPT, height=100, placeholder="The old harbour was quiet, and",
        help="Each model writes on from here, always its first choice, so that only the models differ.",
    )  # fmt: skip
    st.button(
        "Continue this with both models", key="continue-own", icon=":material/edit_note:",
        on_click=frame.attempt, args=(lambda: _ask(backend, pair),),
    )  # fmt: skip
    for request in _tried():
        if (request.left, request.right) == (pair.left.key, pair.right.key):
            _show(backend, pair, request)


def _ask(backend: Backend, pair: Pair) -> None:
    """Submit the prompt and put it at the head of the list. Raises SettingsError for one that is empty or too long."""
    prompt = st.session_state.get(_PROMPT, "")
    request = ContinuationSettings(left=pair.left.key, right=pair.right.key, prompt=prompt)
    backend.submit_continuation(request)
    others = [other for other in _tried() if other.key() != request.key()]
    st.session_state[_TRIED] = [request, *others]


def _tried() -> list[ContinuationSettings]:
    found: list[ContinuationSettings] = st.session_state.get(_TRIED, [])
    return found


def _show(backend: Backend, pair: Pair, request: ContinuationSettings) -> None:
    prompt = request.prompt
    shown = prompt if len(prompt) <= _SHOWN_CHARACTERS else f"… {prompt[-_SHOWN_CHARACTERS:]}"
    frame.show(element("p", escape(shown), css="sd-passage"))
    stored = backend.continuation(request.key())
    if stored is not None:
        show_continuations(pair, stored.left, stored.right)
        return
    job = next((job for job in backend.jobs() if job.key == request.key()), None)
    if job is not None:
        watch(backend, job, brief=True)
