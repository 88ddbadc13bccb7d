"""The choices on the compare page: run, models, search, kinds of passages, range of changes, passage."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparsedash.reporting import wording
from sparsedash.reporting.charts.bar_charts import changes_chart, changes_words, clicked_bar
from sparsedash.reporting.html import element, escape, widget_label
from sparsedash.reporting.passage_analysis import ChangeRange, change_ranges, count_by_range
from sparsedash.reporting.record_pair import KINDS, Kind, Pair, load_pair, record_choices, unique_names
from sparsedash.reporting.run_results import run_results
from sparsedash.reporting.wording import EXAMPLE_TITLE
from sparsedash.schema.records import Passages, Run
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, chart_files, frame
from sparsedash.ui.address_bar import BOUND
from sparsedash.ui.navigation import current_tolerance


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
    titles = {key: wording.stored_run_title(run, marks[key].name if key in marks else "") for key, run in keys.items()}
    names = unique_names(
        {key: f"{_mark(run)}{titles[key]}, {wording.moment(run.started_at, zone)}" for key, run in keys.items()}
    )
    address_bar.select("run", "Run", names, chosen, along={"passage": "", "left": "", "right": ""})


def _mark(run: Run) -> str:
    return f"{EXAMPLE_TITLE}: " if run.made_on else ""


def choose_pair(backend: Backend, run: Run, runs: Sequence[Run]) -> Pair | None:
    """Draw the two choices of records; dense beside the last one, of the best method, unless the address names others.

    Offered is every record over the same passages, also of other runs. None where a chosen record is lost.
    """
    offered = record_choices(run, runs)
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
    return load_pair(backend, *chosen)


def _last(backend: Backend, run: Run) -> str:
    """The key of the run's last record; of several methods, that of the best one's last."""
    found = run_results(backend, run, current_tolerance()) if wording.has_several_methods(run.settings) else None
    rows = found.best if found is not None else []
    return rows[-1].record.key if rows else wording.record_names(run)[-1][0]


def search_passages(chosen: Pair, passages: Passages | None) -> Sequence[int]:
    """Draw the search. Returns the passages that hold its text; all of them while it is empty."""
    searched = st.text_input(
        "Search in the passages and answers", key="search", bind=BOUND, max_chars=200, type="search"
    )
    return chosen.holding(searched or "", passages)


def current_passage(shown: Shown, chosen: Pair) -> int | None:
    """The place, among those shown, of the passage that the address names; of the first where it names none of them.

    None, and a note, where none is shown.
    """
    if not shown.positions:
        frame.note(f"No passage is of this kind. Choose another kind{_what_else()}.")
        return None
    outcomes, asked = chosen.left.outcomes, address_bar.query_value("passage")
    return next((i for i, p in enumerate(shown.positions) if str(outcomes[p].index) == asked), 0)


def _what_else() -> str:
    """What else can be undone where the choices together leave nothing."""
    steps = {"words": "switch “Only different words” off", "change": "show any change", "search": "clear the search"}
    return "".join(f", or {words}" for name, words in steps.items() if address_bar.query_value(name))


def draw_steps(shown: Shown, chosen: Pair, at: int) -> None:
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
                on_click=address_bar.set_query,
                args=({"filter": shown.kind or "", "passage": target},),
            )
        frame.show(element("p", escape(f"{at + 1:,} of {len(positions):,}"), css="sd-muted sd-count"))


OTHER_WORDS = "words"
"""The parameter of the address that says whether only passages with different answers are shown."""
_FIRST_KINDS: tuple[Kind, ...] = ("broke", "mended", "both-wrong", "both-right", "all")
"""What is shown where the address names no kind: the first of these that has passages."""


@dataclass(frozen=True, kw_only=True)
class KindShown:
    """The kind that is shown and its passages, in the order of the file. only_other: with different answers only."""

    kind: Kind
    positions: Sequence[int]
    only_other: bool


def choose_kind(pair: Pair, positions: Sequence[int]) -> KindShown:
    """Draw the kinds of these passages with their counts, and the switch; the address says what is chosen."""
    by_kind = pair.kinds(positions)
    asked = address_bar.query_value("filter")
    usual = next((kind for kind in _FIRST_KINDS if by_kind[kind]), _FIRST_KINDS[0])
    chosen: Kind = next((kind for kind in KINDS if kind == asked), usual)
    for kind, found in by_kind.items():
        st.button(
            f"{KINDS[kind]} · {len(found):,}",
            key=f"flip-{kind}",
            # The style sheet knows the chosen one by its icon: one of another type would be a new button, and lose
            # the focus.
            icon=":material/check:" if kind == chosen else None,
            on_click=address_bar.set_query,
            args=({"filter": kind, "passage": ""},),
            help=_kind_help(kind, pair),
        )
    st.button(
        "Change kind",
        key="next-kind",
        shortcut="F",
        type="tertiary",
        icon=":material/filter_list:",
        on_click=address_bar.set_query,
        args=({"filter": _next_kind(by_kind, chosen), "passage": ""},),
        help="Go through the kinds that have passages.",
    )
    other = pair.differing(by_kind[chosen])
    only = st.toggle(
        f"Only different words · {len(other):,}",
        key=OTHER_WORDS,
        bind=BOUND,
        on_change=address_bar.set_query,
        args=({"filter": chosen, "passage": ""},),
        help="Of this kind only the passages that the two models answer with different words.",
    )
    return KindShown(kind=chosen, positions=other if only else by_kind[chosen], only_other=only)


def passages_of_kind(pair: Pair, positions: Sequence[int], shown: KindShown) -> Sequence[int]:
    """Those of these passages that are of the kind that is shown."""
    found = pair.kinds(positions)[shown.kind]
    return pair.differing(found) if shown.only_other else found


def _next_kind(by_kind: dict[Kind, list[int]], chosen: Kind) -> Kind:
    names = list(KINDS)
    at = names.index(chosen)
    return next((k for k in names[at + 1 :] + names[:at] if by_kind[k]), chosen)


def _kind_help(kind: Kind, chosen: Pair) -> str:
    if kind == "all":
        return "Every passage; the other four kinds add up to it"
    left = "right" if kind in ("both-right", "broke") else "wrong"
    right = "right" if kind in ("both-right", "mended") else "wrong"
    return widget_label(f"{chosen.left_name} {left}, {chosen.right_name} {right}")


CHANGE = "change"
"""The parameter of the address that names a range of changes."""


@dataclass(frozen=True, kw_only=True)
class ChangeFilter:
    """What is filtered by. changes: of every passage of the pair, by its position. chosen: None for any change."""

    changes: Sequence[float]
    ranges: Sequence[ChangeRange]
    chosen: int | None

    def held(self, positions: Sequence[int]) -> Sequence[int]:
        """Those of these passages whose change is in the chosen range."""
        if self.chosen is None:
            return positions
        low, high = self.ranges[self.chosen].low, self.ranges[self.chosen].high
        return [position for position in positions if low <= self.changes[position] < high]


def asked_change(pair: Pair) -> ChangeFilter:
    """What the address asks for."""
    changes = [-pair.fall(position) for position in range(len(pair.left.outcomes))]
    found, asked = change_ranges(changes), address_bar.query_value(CHANGE)
    return ChangeFilter(
        changes=changes, ranges=found, chosen=next((i for i, each in enumerate(found) if each.address == asked), None)
    )


def choose_change(by: ChangeFilter, positions: Sequence[int], kind: str) -> None:
    """Draw the histogram of these passages, and the list of its bars for those who do not press them."""
    counts = count_by_range([by.changes[position] for position in positions], by.ranges)
    words = [each.words for each in by.ranges]
    key = f"changes-{by.chosen}"
    st.plotly_chart(
        changes_chart(
            tuple(each.high for each in by.ranges[:-1]), tuple(counts), tuple(words), by.chosen, frame.theme()
        ),
        theme=None,
        config=chart_files.chart_config("changes"),
        alt=changes_words(counts, words),
        key=key,
        on_select=lambda: _press(key, by, kind),
        selection_mode="points",
    )
    chart_files.offer_chart()
    options = {"": f"Any change · {len(positions):,}"} | {
        each.address: f"{each.words.capitalize()} · {n:,}" for each, n in zip(by.ranges, counts, strict=True)
    }
    address_bar.select(
        CHANGE, "Show passages of", options, "", along={"filter": kind, "passage": ""}, noun="range of changes"
    )


def _press(key: str, by: ChangeFilter, kind: str) -> None:
    """Filter by the bar that was pressed; not any more where it was the one that is filtered by."""
    at = clicked_bar(st.session_state[key]["selection"]["points"], len(by.ranges))
    if at is not None:
        to = "" if at == by.chosen else by.ranges[at].address
        address_bar.set_query({CHANGE: to, "filter": kind, "passage": ""})
