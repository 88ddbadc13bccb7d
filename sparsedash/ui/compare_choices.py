"""The choices on the compare page: run, models, search, kinds of passages, range of changes, passage."""

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparsedash.reporting import wording
from sparsedash.reporting.charts.bar_charts import changes_chart, changes_words, clicked_bar
from sparsedash.reporting.html import element, widget_label
from sparsedash.reporting.passage_analysis import change_ranges, count_by_range
from sparsedash.reporting.record_pair import KIND_OF, KINDS, Kind, Order, Pair, load_pair, record_choices, unique_names
from sparsedash.reporting.run_results import run_results
from sparsedash.reporting.wording import EXAMPLE_TITLE
from sparsedash.schema.records import Passages, Run
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, frame
from sparsedash.ui.address_bar import BOUND
from sparsedash.ui.browser_scripts import show_chart
from sparsedash.ui.navigation import current_tolerance

OTHER_WORDS, CHANGE = "words", "change"
"""Parameters of the address: whether only passages with different answers are shown, and a range of changes."""
_OPEN = "choices-open"
_FIRST_KINDS: tuple[Kind, ...] = ("broke", "mended", "both-wrong", "both-right", "all")
"""Without a kind in the address, the first of these that has passages is shown."""


class Shown(NamedTuple):
    """The passages to step through, in order. kind: theirs; None on the blind page, where it would show too much."""

    pair: Pair
    positions: list[int]
    kind: Kind | None = None

    def query(self, at: int) -> dict[str, str] | None:
        """Parameters of the address for the passage at this place; None outside.

        They name the kind again: of two clicks at once, the browser sends the second with the address before the first.
        """
        if not 0 <= at < len(self.positions):
            return None
        return {"filter": self.kind or "", "passage": str(self.pair.left.outcomes[self.positions[at]].index)}


def begin_choices() -> DeltaGenerator:
    """The container of the choices of run, models, search, order and files; on a phone behind one button."""
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
        # Drawn either way: what follows would else move by one place, and be drawn anew.
        frame.show(element("span", css=f"sd-unseen{' sd-choices-open' if opened else ''}"))
    return choices


def choose_run(backend: Backend, runs: Sequence[Run], chosen: str) -> None:
    """Draw the choice among the runs; the address names the one that is shown."""
    if chosen not in {run.key for run in runs}:
        return
    zone, marks, titles = frame.zone(), backend.user_data.marks(), {}
    for run in runs:
        title = wording.stored_run_title(run, marks[run.key].name if run.key in marks else "")
        prefix = f"{EXAMPLE_TITLE}: " if run.made_on else ""
        titles[run.key] = f"{prefix}{title}, {wording.moment(run.started_at, zone)}"
    address_bar.select("run", "Run", unique_names(titles), chosen, along={"passage": "", "left": "", "right": ""})


def choose_pair(backend: Backend, run: Run, runs: Sequence[Run]) -> Pair | None:
    """Draw the choices of two records over the same passages, also of other runs; None where a chosen one is lost.

    Unless the address names others: dense, and the last record of the best method.
    """
    by_address = {choice.address: choice for choice in record_choices(run, runs)}
    names = {address: choice.name for address, choice in by_address.items()}
    addresses = {choice.key: address for address, choice in by_address.items()}
    found = run_results(backend, run, current_tolerance()) if len(run.settings.methods) > 1 else None
    rows = found.best if found is not None else []
    last = rows[-1].record.key if rows else [*wording.record_names(run)][-1]
    columns, below, chosen = st.columns(2, wrap=False), st.container(), []
    for column, side, usual in zip(columns, ("left", "right"), (run.dense, last), strict=True):
        with column:
            picked = address_bar.select(
                side, side.capitalize(), names, addresses[usual], along={"passage": ""}, noun="model", said_in=below
            )
        chosen.append(by_address[picked])
    return load_pair(backend, *chosen)


def search_passages(chosen: Pair, passages: Passages | None) -> Sequence[int]:
    """Draw the search. Returns the passages that contain its text; all of them while it is empty."""
    searched = st.text_input(
        "Search in the passages and answers", key="search", bind=BOUND, max_chars=200, type="search"
    )
    return chosen.holding(searched or "", passages)


def choose_order() -> Order:
    """Draw the choice of the order."""
    about = "How far it fell from the left model to the right one; for fixed passages, how far it rose."
    title = "Sort by the right word's log-probability"
    chosen: Order = st.selectbox(title, get_args(Order), key="sort", bind=BOUND, filter_mode=None, help=about)
    return chosen


def current_passage(shown: Shown) -> int | None:
    """The place of the passage that the address names, or the first; None, and a note, where none is shown."""
    if not shown.positions:
        undo = {"words": "switch “Only different words” off", "change": "show any change", "search": "clear the search"}
        others = "".join(f", or {words}" for name, words in undo.items() if address_bar.query_value(name))
        frame.note(f"No passage is of this kind. Choose another kind{others}.")
        return None
    outcomes, asked = shown.pair.left.outcomes, address_bar.query_value("passage")
    return next((i for i, p in enumerate(shown.positions) if str(outcomes[p].index) == asked), 0)


def choose_kind(pair: Pair, positions: Sequence[int]) -> tuple[Kind, bool]:
    """Draw the kinds of these passages with their counts, and the switch; the address keeps both.

    Returns the kind that is shown, and whether only passages with different answers are.
    """
    by_kind, names, asked = pair.kinds(positions), list(KINDS), address_bar.query_value("filter")
    usual = next((kind for kind in _FIRST_KINDS if by_kind[kind]), _FIRST_KINDS[0])
    chosen: Kind = next((kind for kind in KINDS if kind == asked), usual)
    at = names.index(chosen)
    following = next((kind for kind in names[at + 1 :] + names[:at] if by_kind[kind]), chosen)

    def show(kind: Kind) -> dict[str, Any]:
        return {"on_click": address_bar.set_query, "args": ({"filter": kind, "passage": ""},)}

    helps: dict[Kind, str] = {"all": "Every passage; the other four kinds add up to it"}
    for verdicts, kind in KIND_OF.items():
        left, right = ("right" if verdict else "wrong" for verdict in verdicts)
        helps[kind] = widget_label(f"{pair.left_name} {left}, {pair.right_name} {right}")
    for kind, found in by_kind.items():
        # The style sheet knows the chosen one by its icon: one of another type would be new, and lose the focus.
        icon = ":material/check:" if kind == chosen else None
        st.button(f"{KINDS[kind]} · {len(found):,}", key=f"flip-{kind}", icon=icon, help=helps[kind], **show(kind))
    about = "Go through the kinds that have passages."
    icon = ":material/filter_list:"
    st.button("Change kind", "next-kind", about, shortcut="F", type="tertiary", icon=icon, **show(following))
    only = st.toggle(
        f"Only different words · {len(pair.differing(by_kind[chosen])):,}",
        key=OTHER_WORDS,
        bind=BOUND,
        on_change=address_bar.set_query,
        args=({"filter": chosen, "passage": ""},),
        help="Of this kind only the passages that the two models answer with different words.",
    )
    return chosen, only


class ChangeFilter:
    """The filter by change that the address asks for. chosen: place in `ranges`; None for any change."""

    def __init__(self, pair: Pair) -> None:
        self.changes = [-pair.fall(position) for position in range(len(pair.left.outcomes))]
        self.ranges, asked = change_ranges(self.changes), address_bar.query_value(CHANGE)
        self.chosen = next((i for i, each in enumerate(self.ranges) if each.address == asked), None)

    def held(self, positions: Sequence[int]) -> Sequence[int]:
        """Those passages whose change is in the chosen range."""
        if self.chosen is None:
            return positions
        low, high = self.ranges[self.chosen].low, self.ranges[self.chosen].high
        return [position for position in positions if low <= self.changes[position] < high]

    def draw(self, positions: Sequence[int], kind: Kind) -> None:
        """Draw the histogram of these passages, whose bars can be pressed, and the same as a select box."""
        counts = count_by_range([self.changes[position] for position in positions], self.ranges)
        words, key = [each.words for each in self.ranges], f"changes-{self.chosen}"
        rest = {"filter": kind, "passage": ""}

        def press() -> None:
            """Filter by the bar that was pressed; no longer if it was pressed before."""
            at = clicked_bar(st.session_state[key]["selection"]["points"], len(self.ranges))
            if at is not None:
                address_bar.set_query({CHANGE: "" if at == self.chosen else self.ranges[at].address, **rest})

        bounds = tuple(each.high for each in self.ranges[:-1])
        chart = changes_chart(bounds, tuple(counts), tuple(words), self.chosen, frame.theme())
        show_chart(chart, "changes", changes_words(counts, words), key, press)
        options = {"": f"Any change · {len(positions):,}"} | {
            each.address: f"{each.words.capitalize()} · {n:,}" for each, n in zip(self.ranges, counts, strict=True)
        }
        address_bar.select(CHANGE, "Show passages of", options, "", along=rest, noun="range of changes")
