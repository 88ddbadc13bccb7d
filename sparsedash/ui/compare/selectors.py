"""The choices that both views of the compare page have: which run, which two records, which text, and which passage."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparsedash.reporting import model_names, wording
from sparsedash.reporting.html import element, escape
from sparsedash.reporting.record_pair import Kind, Pair, offers, pair, told_apart
from sparsedash.reporting.run_results import best, run_results
from sparsedash.reporting.wording import EXAMPLE_TITLE
from sparsedash.schema.records import Passages, Run
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, frame
from sparsedash.ui.address_bar import BOUND
from sparsedash.ui.carried import tolerance


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where on the page the choices among the passages stand.

    choices: search, order and files. kinds: the row of kinds. listing: beside the passage, above the table.
    """

    choices: DeltaGenerator
    kinds: DeltaGenerator
    listing: DeltaGenerator


@dataclass(frozen=True, kw_only=True)
class About:
    """Where on the page more is said of the verdict. cost: right under it. about: after the passages."""

    cost: DeltaGenerator
    about: DeltaGenerator


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The passages that can be stepped through, in their order. kind: theirs; None while it would tell too much."""

    positions: list[int]
    kind: Kind | None


_OPEN = "choices-open"


def begin_choices() -> DeltaGenerator:
    """Where run, models, search, order and files are chosen; on a phone behind one button, which this draws."""
    opened = bool(st.session_state.get(_OPEN, False))
    with st.container(key="open-choices"):
        st.button(
            "Close" if opened else "Choose",
            key="open-choices-button",
            icon=":material/close:" if opened else ":material/tune:",
            on_click=lambda: st.session_state.update({_OPEN: not opened}),
            help="Run, models, search, order, files",
        )
    choices = st.container(key="choices")
    with choices:
        # There either way: what follows would else move by one place, and be drawn anew.
        frame.show(element("span", css=f"sd-unseen{' sd-choices-open' if opened else ''}"))
    return choices


def choose_run(backend: Backend, runs: Sequence[Run], chosen: str) -> None:
    """Draw the choice among the runs there are; the address says which one is shown."""
    keys = {run.key: run for run in runs}
    if chosen not in keys:
        return
    zone, marks = frame.zone(), backend.user_data.marks()
    titles = {key: wording.title_of(run, marks[key].name if key in marks else "") for key, run in keys.items()}
    names = told_apart(
        {key: f"{_mark(run)}{titles[key]}, {wording.moment(run.started_at, zone)}" for key, run in keys.items()}
    )
    address_bar.select("run", "Run", names, chosen, along={"passage": "", "left": "", "right": ""})


def _mark(run: Run) -> str:
    return f"{EXAMPLE_TITLE}: " if run.made_on else ""


def choose_pair(backend: Backend, run: Run, runs: Sequence[Run]) -> Pair | None:
    """Draw the two choices of records; dense beside the last one, of the best method, unless the address names others.

    Offered is every record over the same passages, also of other runs. None where a chosen record is lost.
    """
    offered = offers(run, runs)
    by_address = {offer.address: offer for offer in offered}
    names = {address: offer.name for address, offer in by_address.items()}
    addresses = {offer.key: offer.address for offer in offered}
    last = _last(backend, run)
    columns = st.columns(2, wrap=False)
    below = st.container()
    chosen = []
    for column, side, usual in zip(columns, ("left", "right"), (run.dense, last), strict=True):
        with column:
            picked = address_bar.select(
                side, side.capitalize(), names, addresses[usual], along={"passage": ""}, noun="model", said_in=below
            )
        chosen.append(by_address[picked])
    return pair(backend, *chosen)


def _last(backend: Backend, run: Run) -> str:
    """The key of the run's last record; of several methods, that of the best one's last."""
    found = run_results(backend, run, tolerance()) if model_names.has_several_methods(run.settings) else None
    rows = best(found) if found is not None else []
    return rows[-1].record.key if rows else model_names.record_names(run)[-1][0]


def search(chosen: Pair, passages: Passages | None) -> Sequence[int]:
    """Draw the search. Returns the passages that hold its text; all of them while it is empty."""
    searched = st.text_input(
        "Search in the passages and answers", key="search", bind=BOUND, max_chars=200, type="search"
    )
    return chosen.holding(searched or "", passages)


def current(shown: Shown, chosen: Pair) -> int | None:
    """The place, among those shown, of the passage that the address names; of the first where it names none of them.

    None, and a note, where none is shown.
    """
    if not shown.positions:
        frame.note(f"No passage is of this kind. Choose another kind{_what_else()}.")
        return None
    outcomes, asked = chosen.left.outcomes, address_bar.asked("passage")
    return next((i for i, p in enumerate(shown.positions) if str(outcomes[p].index) == asked), 0)


def _what_else() -> str:
    """What else can be undone where the choices together leave nothing."""
    steps = {"words": "switch “Only different words” off", "change": "show any change", "search": "clear the search"}
    return "".join(f", or {words}" for name, words in steps.items() if address_bar.asked(name))


def step(shown: Shown, chosen: Pair, at: int) -> None:
    """Draw the buttons to the passages before and after the one at this place.

    Every step says the kind again: a browser that is clicked twice at once still sends the address before the first
    click.
    """
    outcomes, positions = chosen.left.outcomes, shown.positions
    with st.container(horizontal=True, vertical_alignment="center", key="steps"):
        for name, icon, key, to in (("Previous", "chevron_left", "K", at - 1), ("Next", "chevron_right", "J", at + 1)):
            inside = 0 <= to < len(positions)
            target = str(outcomes[positions[to]].index) if inside else ""
            st.button(
                name,
                icon=f":material/{icon}:",
                disabled=not inside,
                key=f"step-{name}",
                shortcut=key,
                on_click=address_bar.go,
                args=({"filter": shown.kind or "", "passage": target},),
            )
        frame.show(element("p", escape(f"{at + 1:,} of {len(positions):,}"), css="sd-muted sd-count"))
