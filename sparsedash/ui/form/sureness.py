"""How sure a run shall be: three sizes, each with its time and the smallest loss that it can show."""

from dataclasses import dataclass, replace

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparsedash.catalog.choices import EVALUATION_CORPORA
from sparsedash.reporting import wording
from sparsedash.schema.searches import FindSettings
from sparsedash.schema.settings import BUILTIN_CLOZE, BUILTIN_CLOZE_402, RunSettings
from sparsedash.service.backend import Backend
from sparsedash.stats.smallest_loss import smallest_loss
from sparsedash.ui.address_bar import asked
from sparsedash.ui.form.fields import PASSAGES

N_PASSAGES = "passages"
_SURE, _OWN = "sure", "As chosen below"
_N_TEXTS = {choice.name: choice.n_texts for choice in EVALUATION_CORPORA}


@dataclass(frozen=True, kw_only=True)
class Size:
    """One way to be sure. text: the passages, all of which are answered. source: what they are."""

    name: str
    text: str
    source: str


SIZES = (
    Size(name="Quick look", text=BUILTIN_CLOZE, source="built in"),
    Size(name="Decide", text=BUILTIN_CLOZE_402, source="built in"),
    Size(name="Paper", text="lambada_openai", source="LAMBADA, fetched once from the hub"),
)


def other_passages(*also: str) -> DeltaGenerator:
    """Where passages are named that none of the sizes has; open from the beginning where the address names some.

    also: names of fields that stand there as well.
    """
    named = asked(PASSAGES.key) not in ("", *(size.text for size in SIZES))
    st.session_state.setdefault("others", named or any(map(asked, also)))
    return st.expander("Other passages, or a text of your own", key="others", on_change="rerun")


def choose_size(backend: Backend, place: DeltaGenerator, settings: RunSettings | FindSettings | None) -> None:
    """Draw the three sizes in their place above the fields that they fill in.

    settings: what the form says; None while that is wrong, when no time is told.
    """
    text, n_asked = str(st.session_state.get(PASSAGES.key, "")), st.session_state.get(N_PASSAGES)
    names = {size.name: size for size in SIZES}
    chosen = next((size.name for size in SIZES if size.text == text and n_asked is None), _OWN)
    captions = [_caption(backend, size, settings) for size in SIZES]
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


def _take(size: Size | None) -> None:
    if size is not None:
        st.session_state[PASSAGES.key] = size.text
        st.session_state[N_PASSAGES] = None


def _caption(backend: Backend, size: Size, settings: RunSettings | FindSettings | None) -> str:
    n = _N_TEXTS[size.text]
    parts = [f"{n:,} passages, {size.source}"]
    if settings is not None:
        asked = replace(settings, evaluation=replace(settings.evaluation, corpus=size.text, n_passages=None))
        known = backend.preflight(asked).duration.total_s
        parts.append("time not known yet" if known is None else f"about {wording.duration(known)}")
    return " · ".join([*parts, _shown(n)])


def _shown(n_passages: int) -> str:
    """What so many passages show; nothing where nobody knows how many there are."""
    if not n_passages:
        return ""
    least = smallest_loss(n_passages)
    return f"can show losses from about {least.ratio:.2f}{wording.NBSP}× word perplexity or {least.points:.1f} points"
