"""Estimates beside the form: time, memory, disk and reused results, and the smallest loss that each size detects.

An evaluation size is a set of passages: a quick look, enough to decide, or a paper's.
"""

from dataclasses import replace

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparsedash.catalog.choices import EVALUATION_CORPORA
from sparsedash.reporting import wording
from sparsedash.reporting.html import fact_list
from sparsedash.schema.fields import field_rows
from sparsedash.schema.settings import BUILTIN_CLOZE, BUILTIN_CLOZE_402, EvaluationSettings, FindSettings, RunSettings
from sparsedash.service.backend import Backend
from sparsedash.service.preflight import Cached, Duration, Memory
from sparsedash.stats.significance import smallest_loss
from sparsedash.ui import frame
from sparsedash.ui.address_bar import query_value
from sparsedash.ui.form_fields import expander
from sparsedash.ui.frame import JOB_S

_NAMED = 2
"""Most stages without an estimate for which a time is given at all."""


def show_estimate(backend: Backend, settings: RunSettings | FindSettings | None) -> bool:
    """Draw the estimate. Returns whether the run can be started."""
    frame.section("What it will take")
    if settings is None:
        frame.note("Fix the highlighted fields.")
        return False
    before = backend.preflight(settings)
    stored, memory, disk, duration = before.stored, before.memory, before.disk, before.duration
    time, by_stage, room, notes = "a moment: everything is stored", "", "", []
    if not (stored.dense and stored.sparse == stored.n_sparse):
        time = _time(duration) + (", less where trials stop early" if isinstance(settings, FindSettings) else "")
        parts = [f"{name} {wording.duration_words(seconds)}" for name, seconds in duration.parts]
        by_stage, room = ", ".join(parts[1:] and parts), wording.disk_words(disk.takes) if disk else ""
        if disk is not None and disk.too_little:
            free = wording.size(disk.free_bytes or 0)
            notes.append(f"The data folder's disk has {free} left: the run is likely to fill it.")
    rows = [("Time", time), ("By stage", by_stage), ("Memory", _memory(memory)), ("Disk", room)]
    rows.append(("Reused from earlier runs", _stored(stored)))
    frame.show(fact_list([row for row in rows if row[1]]))
    if duration.unknown and backend.is_measuring():
        _wait(backend)
    if memory.too_little:
        there = wording.size(memory.there_bytes or 0)
        less = "A smaller model or bfloat16 takes less."
        notes.append(f"This machine has {there} of memory: the run is likely to run out of it. {less}")
    for text in notes:
        frame.note(text)
    for problem in before.problems:
        frame.failure(problem.message)
    return not before.problems


@frame.fragment(JOB_S)
def _wait(backend: Backend) -> None:
    """Redraw the page as soon as the speed of this machine is known."""
    if not backend.is_measuring():
        st.rerun()


def _time(duration: Duration) -> str:
    known, unknown = duration.seconds, " and ".join(duration.unknown)
    if unknown and (not known or len(duration.unknown) > _NAMED):
        return "not known: no run like this has finished here yet"
    by = ", by a measurement of this machine" if duration.counted else ""
    more = f", and {unknown}, which has not been measured here yet" if unknown else by
    return f"about {wording.duration_words(known)}{more}"


def _memory(memory: Memory) -> str:
    """The memory of earlier runs, unless this one needs more."""
    measured, least = memory.measured_bytes, memory.least
    if least and least.streamed:
        reason = wording.streaming_reason(memory.resident_bytes, memory.there_bytes)
        return f"{wording.least_memory_words(least)}. {reason}"
    if least and (measured is None or measured < least.n_bytes):
        return wording.least_memory_words(least)
    if measured is None:
        return "not known yet"
    unknown = ", and more for the backward pass" if memory.backward and not least else ""
    return f"about {wording.size(measured)}{unknown}"


def _stored(stored: Cached) -> str:
    sparse = f"{stored.sparse} of {stored.n_sparse} sparse {wording.plural(stored.n_sparse, 'model')}"
    parts = {"calibration": stored.calibration, "dense answers": stored.dense, sparse: stored.sparse}
    return ", ".join(name for name, there in parts.items() if there) or "nothing"


_ROWS = field_rows(EvaluationSettings)
_TEXT, _N_PASSAGES = _ROWS["corpus"].key, _ROWS["n_passages"].key
_SIZE, _OTHER = "sure", "As chosen below"
_N_TEXTS = {choice.name: choice.n_texts for choice in EVALUATION_CORPORA}
_SIZES = {
    "Quick look": (BUILTIN_CLOZE, "built in"),
    "Decide": (BUILTIN_CLOZE_402, "built in"),
    "Paper": ("lambada_openai", "LAMBADA, fetched once from the hub"),
}
"""The passages of each evaluation size, all of which are answered, and where they come from."""


def other_passages_expander(*keys: str) -> DeltaGenerator:
    """The expander of other passages; open at first where the address names some. keys: of other fields in it."""
    other = query_value(_TEXT) not in ("", *(text for text, _ in _SIZES.values()))
    return expander("Other passages, or a text of your own", "others", keys, other)


def evaluation_size_field(backend: Backend, place: DeltaGenerator, settings: RunSettings | FindSettings | None) -> None:
    """Draw the evaluation sizes in their place above the fields that they fill in.

    settings: of the form, for the times; None while a field is wrong.
    """
    text, n_asked = str(st.session_state.get(_TEXT, "")), st.session_state.get(_N_PASSAGES)
    chosen = next((name for name, (its_text, _) in _SIZES.items() if its_text == text and n_asked is None), _OTHER)
    captions = [_caption(backend, *size, settings) for size in _SIZES.values()]
    if chosen == _OTHER:
        known = _N_TEXTS.get(text, 0)
        captions.append(_smallest_loss_words(min(n_asked or known, known or n_asked or 0)))
    st.session_state[_SIZE] = chosen
    place.radio(
        "How sure",
        [*_SIZES, *([_OTHER] if chosen == _OTHER else [])],
        key=_SIZE,
        captions=captions,
        label_visibility="collapsed",
        on_change=_fill_in_size,
    )


def _fill_in_size() -> None:
    if size := _SIZES.get(st.session_state[_SIZE]):
        st.session_state[_TEXT] = size[0]
        st.session_state[_N_PASSAGES] = None


def _caption(backend: Backend, text: str, source: str, settings: RunSettings | FindSettings | None) -> str:
    n = _N_TEXTS[text]
    parts = [f"{n:,} passages, {source}"]
    if settings is not None:
        asked = replace(settings, evaluation=replace(settings.evaluation, corpus=text, n_passages=None))
        known = backend.preflight(asked).duration.total_s
        parts.append("time not known yet" if known is None else f"about {wording.duration_words(known)}")
    return " · ".join([*parts, _smallest_loss_words(n)])


def _smallest_loss_words(n_passages: int) -> str:
    """The smallest losses that so many passages show; nothing of an unknown number."""
    if not n_passages:
        return ""
    ratio, points = smallest_loss(n_passages)
    return f"detects losses of about {ratio:.2f}{wording.NBSP}× perplexity or {points:.1f} points and up"
