"""Estimates of the form: time, memory, disk, reused results, and the loss that each sample size detects."""

from dataclasses import dataclass, replace

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparsedash.catalog.choices import EVALUATION_CORPORA
from sparsedash.reporting import wording
from sparsedash.reporting.html import fact_list
from sparsedash.schema.settings import BUILTIN_CLOZE, BUILTIN_CLOZE_402, FindSettings, RunSettings
from sparsedash.service.backend import Backend
from sparsedash.service.preflight import Cached, Memory, Preflight
from sparsedash.stats.significance import smallest_loss
from sparsedash.ui import frame
from sparsedash.ui.address_bar import query_value
from sparsedash.ui.form_fields import PASSAGES_FIELD
from sparsedash.ui.frame import JOB_S

_NAMED = 2
"""Parts without a time that are named; of more, nothing of what a run takes is known."""


def show_estimate(backend: Backend, settings: RunSettings | FindSettings | None) -> bool:
    """Draw the estimate. Returns whether the run can be started."""
    frame.section("What it will take")
    if settings is None:
        frame.note("Correct what is marked in the form first.")
        return False
    before = backend.preflight(settings)
    time = _time(before)
    if isinstance(settings, FindSettings) and not everything_stored(before.stored):
        time += ", less where trials stop early"
    if before.duration.unknown and backend.is_measuring():
        _wait(backend)
    rows = [("Time", time), *_stages(before), ("Memory", _memory(before.memory))]
    if before.disk is not None and not everything_stored(before.stored):
        rows.append(("Disk", wording.disk_words(before.disk.takes)))
    frame.show(fact_list([*rows, ("Stored already", _stored(before.stored))]))
    if before.memory.too_little:
        frame.note(
            f"This machine has {wording.size(before.memory.there_bytes or 0)} of memory: the run is likely to run "
            "out of it. A smaller model or bfloat16 takes less."
        )
    if before.disk is not None and before.disk.too_little and not everything_stored(before.stored):
        free = wording.size(before.disk.free_bytes or 0)
        frame.note(f"The data folder's disk has {free} left: the run is likely to fill it.")
    for problem in before.problems:
        frame.failure(problem.message)
    return not before.problems


@frame.fragment(JOB_S)
def _wait(backend: Backend) -> None:
    """Draw the page again as soon as it is known how fast this machine is."""
    if not backend.is_measuring():
        st.rerun()


def everything_stored(stored: Cached) -> bool:
    """Whether the run would compute nothing."""
    return stored.dense and stored.sparse == stored.n_sparse


def _time(before: Preflight) -> str:
    if everything_stored(before.stored):
        return "a moment: everything is stored"
    known, unknown = before.duration.seconds, " and ".join(before.duration.unknown)
    if not unknown:
        by = ", by a measurement of this machine" if before.duration.counted else ""
        return f"about {wording.duration_words(known)}{by}"
    if not known or len(before.duration.unknown) > _NAMED:
        return "not known: no run like this has finished here yet"
    return f"about {wording.duration_words(known)}, and {unknown}, which has not been measured here yet"


def _stages(before: Preflight) -> list[tuple[str, str]]:
    """The time of every stage, where more than one is known."""
    parts = before.duration.parts
    if everything_stored(before.stored) or len(parts) < 2:
        return []
    return [("By stage", ", ".join(f"{name} {wording.duration_words(seconds)}" for name, seconds in parts))]


def _memory(memory: Memory) -> str:
    """What was measured, unless these methods need more than whatever was run then."""
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
    parts = []
    if stored.calibration:
        parts.append("calibration")
    if stored.dense:
        parts.append("dense answers")
    if stored.sparse:
        parts.append(f"{stored.sparse} of {stored.n_sparse} sparse {wording.plural(stored.n_sparse, 'model')}")
    return ", ".join(parts) or "nothing"


N_PASSAGES_KEY = "passages"
_SURE, _OWN = "sure", "As chosen below"
_N_TEXTS = {choice.name: choice.n_texts for choice in EVALUATION_CORPORA}


@dataclass(frozen=True, kw_only=True)
class EvaluationSize:
    """One way to be sure. text: the passages, all of which are answered. source: what they are."""

    name: str
    text: str
    source: str


EVALUATION_SIZES = (
    EvaluationSize(name="Quick look", text=BUILTIN_CLOZE, source="built in"),
    EvaluationSize(name="Decide", text=BUILTIN_CLOZE_402, source="built in"),
    EvaluationSize(name="Paper", text="lambada_openai", source="LAMBADA, fetched once from the hub"),
)


def other_passages_expander(*also: str) -> DeltaGenerator:
    """Where passages are named that none of the sizes has; open from the beginning where the address names some.

    also: names of fields that stand there as well.
    """
    named = query_value(PASSAGES_FIELD.key) not in ("", *(size.text for size in EVALUATION_SIZES))
    st.session_state.setdefault("others", named or any(map(query_value, also)))
    return st.expander("Other passages, or a text of your own", key="others", on_change="rerun")


def evaluation_size_field(backend: Backend, place: DeltaGenerator, settings: RunSettings | FindSettings | None) -> None:
    """Draw the three sizes in their place above the fields that they fill in.

    settings: what the form says; None while that is wrong, when no time is told.
    """
    text, n_asked = str(st.session_state.get(PASSAGES_FIELD.key, "")), st.session_state.get(N_PASSAGES_KEY)
    names = {size.name: size for size in EVALUATION_SIZES}
    chosen = next((size.name for size in EVALUATION_SIZES if size.text == text and n_asked is None), _OWN)
    captions = [_caption(backend, size, settings) for size in EVALUATION_SIZES]
    if chosen == _OWN:
        captions.append(_shown(min(n_asked or _N_TEXTS.get(text, 0), _N_TEXTS.get(text) or n_asked or 0)))
    st.session_state[_SURE] = chosen
    place.radio(
        "How sure",
        [*names, *([_OWN] if chosen == _OWN else [])],
        key=_SURE,
        captions=captions,
        label_visibility="collapsed",
        on_change=lambda: _take(names.get(st.session_state[_SURE])),
    )


def _take(size: EvaluationSize | None) -> None:
    if size is not None:
        st.session_state[PASSAGES_FIELD.key] = size.text
        st.session_state[N_PASSAGES_KEY] = None


def _caption(backend: Backend, size: EvaluationSize, settings: RunSettings | FindSettings | None) -> str:
    n = _N_TEXTS[size.text]
    parts = [f"{n:,} passages, {size.source}"]
    if settings is not None:
        asked = replace(settings, evaluation=replace(settings.evaluation, corpus=size.text, n_passages=None))
        known = backend.preflight(asked).duration.total_s
        parts.append("time not known yet" if known is None else f"about {wording.duration_words(known)}")
    return " · ".join([*parts, _shown(n)])


def _shown(n_passages: int) -> str:
    """What so many passages show; nothing where nobody knows how many there are."""
    if not n_passages:
        return ""
    least = smallest_loss(n_passages)
    return f"can show losses from about {least.ratio:.2f}{wording.NBSP}× word perplexity or {least.points:.1f} points"
