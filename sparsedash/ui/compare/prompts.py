"""A visitor's own prompt, continued by all models of a run at once; the prompts tried before are listed."""

from collections.abc import Mapping

import streamlit as st

from sparsedash.catalog.example import is_example
from sparsedash.reporting import model_names
from sparsedash.reporting.files.written import how_written
from sparsedash.reporting.html import element, escape, paragraph
from sparsedash.reporting.record_pair import Pair
from sparsedash.reporting.wording import first_upper
from sparsedash.schema.pair_settings import ContinuationSettings
from sparsedash.schema.records import Run
from sparsedash.service.backend import Backend
from sparsedash.ui import frame
from sparsedash.ui.compare.continuation import show_written
from sparsedash.ui.compare.views import View

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
    names = _others(pair, run)
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
        args=(lambda: _ask(backend, pair, tuple(names)),),
    )
    _list_tried(backend, view, pair, names)


def _others(pair: Pair, run: Run) -> dict[str, str]:
    """The run's models beside the two, by their records' keys, as they are headed."""
    shown = (pair.left.key, pair.right.key)
    return {
        key: "Dense" if key == run.dense else f"Sparse, {name}"
        for key, name in model_names.record_names(run)
        if key not in shown
    }


def _list_tried(backend: Backend, view: View, pair: Pair, names: Mapping[str, str]) -> None:
    tried = backend.user_data.prompts(pair.left.key, pair.right.key)
    if not tried:
        frame.note("What you try will be listed here, and will be here again after a reload.")
    show_all = len(tried) <= _AT_FIRST or st.session_state.get("all-prompts", False)
    for request in tried if show_all else tried[:_AT_FIRST]:
        with st.container(border=True, key=f"tried-{request.key()[:16]}"):
            _show(backend, view, pair, request, names)
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


def _ask(backend: Backend, pair: Pair, others: tuple[str, ...]) -> None:
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
    backend.submit_continuation(request)
    backend.user_data.keep_prompt(request)


def _show(backend: Backend, view: View, pair: Pair, request: ContinuationSettings, names: Mapping[str, str]) -> None:
    prompt = request.prompt
    shown = prompt if len(prompt) <= _SHOWN_CHARACTERS else f"… {prompt[-_SHOWN_CHARACTERS:]}"
    frame.show(
        element("p", escape(shown), css="sd-passage"),
        paragraph(first_upper(how_written(request)), css="sd-muted sd-small"),
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
