"""The three tables of the page: by kind, by model, by run."""

from collections.abc import Mapping
from functools import partial

import streamlit as st

from sparsedash.reporting import wording
from sparsedash.reporting.html import element, escape, label, paragraph
from sparsedash.reporting.storage import held as words
from sparsedash.schema.pair_records import RunMark
from sparsedash.service.backend import Backend
from sparsedash.service.upkeep.holdings import Holdings
from sparsedash.ui import address_bar, frame
from sparsedash.ui.storage import rows

PAGE = "page"
"""Parameter of the address: which part of the list of runs is shown, from 1."""

A_PAGE = 10
_SHORT = 16
_LAST_USE = (
    "Only what calibration left notes when it was last used; of all else it is when it was written, of a run when it "
    "was started."
)
_STAYS = "What a job that waits or runs may need, pinned runs and what other runs use stay, whatever is deleted."


def show_kinds(backend: Backend, held: Holdings, titles: Mapping[str, str]) -> None:
    """Draw a row for every kind that there is something of."""
    frame.section("By kind")
    frame.show(paragraph(_STAYS, css="sd-muted sd-small"))
    house = backend.housekeeping
    with st.container(key="by-kind", gap=None):
        rows.draw_heads("Kind")
        for kind, row, deletable in words.kind_rows(held, frame.zone()):
            plan, remove = partial(house.plan_kind, kind), partial(house.remove_kind, kind)
            rows.draw_row(kind, row, partial(rows.ask, kind, plan, remove, titles) if deletable else None)
    frame.show(paragraph(_LAST_USE, css="sd-muted sd-small"))


def show_models(backend: Backend, held: Holdings, titles: Mapping[str, str]) -> None:
    """Draw a row for every model of which something is here."""
    if not held.models:
        return
    frame.section("By model")
    house = backend.housekeeping
    with st.container(key="by-model", gap=None):
        rows.draw_heads("Model")
        show_all = len(held.models) <= A_PAGE or st.session_state.get("all-models", False)
        for number, model in enumerate(held.models if show_all else held.models[:A_PAGE]):
            plan, remove = partial(house.plan_model, model.identity), partial(house.remove_model, model.identity)
            name = f"model-{number}"
            rows.draw_row(name, words.model_row(model, frame.zone()), partial(rows.ask, name, plan, remove, titles))
    if not show_all:
        st.button(f"Show all {len(held.models)} models", key="all-models")


def show_runs(backend: Backend, held: Holdings, marks: Mapping[str, RunMark], titles: Mapping[str, str]) -> None:
    """Draw the runs, the largest first, a part at a time."""
    if not held.runs:
        return
    frame.section("By run, the largest first")
    number, n_parts = _part(len(held.runs))
    house = backend.housekeeping
    with st.container(key="by-run", gap=None):
        rows.draw_heads("Run")
        for found in held.runs[number * A_PAGE : (number + 1) * A_PAGE]:
            key = found.run.key
            plan, remove = partial(house.plan_runs, [key]), partial(house.remove_runs, [key])
            row, name = words.run_row(found, marks, frame.zone()), f"run-{key[:_SHORT]}"
            delete = partial(rows.ask, name, plan, remove, titles)
            rows.draw_row(name, row, delete, partial(frame.link, "overview", label(row.title), run=key))
    if n_parts > 1:
        _steps(number, n_parts, len(held.runs))
    frame.link("runs", "Name, pin and take runs along on their own page")


def _part(n_runs: int) -> tuple[int, int]:
    """Which part is shown, from 0, and how many there are."""
    n_parts, wanted = max(1, -(-n_runs // A_PAGE)), address_bar.asked(PAGE)
    number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 6 else 1
    return min(max(number, 1), n_parts) - 1, n_parts


def _steps(number: int, n_parts: int, n_runs: int) -> None:
    first, last = number * A_PAGE + 1, min(n_runs, (number + 1) * A_PAGE)
    with st.container(horizontal=True, vertical_alignment="center"):
        for name, icon, to in (("Previous", "chevron_left", number - 1), ("Next", "chevron_right", number + 1)):
            st.button(
                name,
                key=f"part-{name}",
                icon=f":material/{icon}:",
                disabled=not 0 <= to < n_parts,
                on_click=address_bar.go,
                args=({PAGE: str(to + 1) if to else ""},),
            )
        said = f"{first} to {last} of {n_runs} {wording.plural(n_runs, 'run')}"
        frame.show(element("p", escape(said), css="sd-muted sd-count"))
