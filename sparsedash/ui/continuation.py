"""Both models' continuation of one passage: asked for by a button, written by a job, kept like every other result."""

import streamlit as st

from sparsedash.backend import Backend
from sparsedash.errors import SettingsError
from sparsedash.settings import ContinuationSettings
from sparsedash.ui import frame
from sparsedash.ui.job_panel import watch
from sparsedash.ui.pair import Pair
from sparsedash.ui.passage import show_continuations


def continue_passage(backend: Backend, pair: Pair, context: str) -> None:
    """The continuations of the context where they are stored, else the job that writes them, else the button."""
    try:
        request = ContinuationSettings(left=pair.left.key, right=pair.right.key, prompt=context)
    except SettingsError as error:
        frame.note(f"This passage cannot be continued: {error.message}")
        return
    stored = backend.continuation(request.key())
    if stored is not None:
        frame.section("Continued by both models")
        show_continuations(pair, stored.left, stored.right)
        return
    job = next((job for job in backend.jobs() if job.key == request.key()), None)
    if job is not None and job.state != "done":
        watch(backend, job)
        return
    st.button(
        "Continue with both models", key="continue", icon=":material/edit_note:",
        on_click=frame.attempt, args=(lambda: backend.submit_continuation(request),),
        help=f"Each model writes on from here, {request.n_tokens} tokens, always its first choice.",
    )  # fmt: skip
