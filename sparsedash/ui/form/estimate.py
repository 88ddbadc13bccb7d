"""Draws the estimate beside the form: time, memory, what is stored already, and what is wrong."""

import streamlit as st

from sparsedash.reporting import wording
from sparsedash.reporting.cards import facts
from sparsedash.schema.searches import FindSettings
from sparsedash.schema.settings import RunSettings
from sparsedash.service.backend import Backend, Cached, Preflight
from sparsedash.service.preflight import Memory
from sparsedash.ui import frame
from sparsedash.ui.polling import JOB_S

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
        rows.append(("Disk", wording.disk(before.disk.takes)))
    frame.show(facts([*rows, ("Stored already", _stored(before.stored))]))
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
        return f"about {wording.duration(known)}{by}"
    if not known or len(before.duration.unknown) > _NAMED:
        return "not known: no run like this has finished here yet"
    return f"about {wording.duration(known)}, and {unknown}, which has not been measured here yet"


def _stages(before: Preflight) -> list[tuple[str, str]]:
    """The time of every stage, where more than one is known."""
    parts = before.duration.parts
    if everything_stored(before.stored) or len(parts) < 2:
        return []
    return [("By stage", ", ".join(f"{name} {wording.duration(seconds)}" for name, seconds in parts))]


def _memory(memory: Memory) -> str:
    """What was measured, unless these methods need more than whatever was run then."""
    measured, least = memory.measured_bytes, memory.least
    if least and least.streamed:
        return f"{wording.at_least(least)}. {wording.streamed(memory.resident_bytes, memory.there_bytes)}"
    if least and (measured is None or measured < least.n_bytes):
        return wording.at_least(least)
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
