"""The choices of the compare page: which two records, which kind of passages, in which order, and which one of them."""

from collections.abc import Sequence
from typing import get_args

import streamlit as st

from sparsedash.reporting import wording
from sparsedash.reporting.html import element, escape, label
from sparsedash.reporting.record_pair import KINDS, Kind, Order, Pair, offers, pair, told_apart
from sparsedash.schema.records import Passages, Run
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, frame
from sparsedash.ui.address_bar import BOUND

_FIRST_KINDS: tuple[Kind, ...] = ("broke", "mended", "other-answer", "both-wrong", "both-right")
"""What is shown where the address names no kind: the first of these that has passages."""
NEIGHBOURS = 100
"""Passages offered on each side of the chosen one: a list of thousands would slow every step."""

_SQUARE: tuple[Kind, ...] = ("both-right", "broke", "mended", "both-wrong")


def choose_run(runs: Sequence[Run], chosen: str) -> None:
    """Draw the choice among the runs there are; the address says which one is shown."""
    keys = {run.key: run for run in runs}
    if chosen not in keys:
        return
    zone = frame.zone()
    names = told_apart(
        {key: f"{wording.run_title(run.settings)}, {wording.moment(run.started_at, zone)}" for key, run in keys.items()}
    )
    address_bar.select("run", "Run", names, chosen, along={"passage": "", "left": "", "right": ""})


def choose_pair(backend: Backend, run: Run, runs: Sequence[Run]) -> Pair | None:
    """Draw the two choices of records; dense beside the run's last one unless the address names others there are.

    Offered is every record over the same passages, also of other runs. None where a chosen record is lost.
    """
    offered = offers(run, runs)
    by_address = {offer.address: offer for offer in offered}
    names = {address: offer.name for address, offer in by_address.items()}
    addresses = {offer.key: offer.address for offer in offered}
    last = (run.sparse or (run.dense,))[-1]
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


def choose_view(chosen: Pair, passages: Passages | None) -> tuple[Kind, list[int]]:
    """Draw search, order and the kinds with their counts. Returns the kind and its passages in that order."""
    kinds = chosen.kinds(_searched(chosen, passages))
    kind = _choose_kind(kinds, chosen)
    order = st.selectbox(
        "Sort by the target's log-probability",
        get_args(Order),
        key="sort",
        bind=BOUND,
        filter_mode=None,
        help="How far it fell from the left model to the right one; for mended passages, how far it rose.",
    )
    return kind, chosen.ordered(kinds[kind], kind, order)


def choose_blindly(chosen: Pair, passages: Passages | None) -> list[int]:
    """Draw the search alone: kinds and order would tell which side is which.

    Returns the passages answered differently.
    """
    searched = _searched(chosen, passages)
    found = chosen.differing(searched)
    holding = "" if len(searched) == len(chosen.left.outcomes) else " that hold this text"
    frame.note(
        f"Offered are {len(found):,} of {len(searched):,} passages{holding}: those that the two models answer with "
        "different words. Where both say the same, there is nothing to judge."
    )
    return found


def _searched(chosen: Pair, passages: Passages | None) -> Sequence[int]:
    searched = st.text_input(
        "Search in the passages and answers", key="search", bind=BOUND, max_chars=200, type="search"
    )
    return chosen.holding(searched or "", passages)


def choose_passage(positions: list[int], chosen: Pair, kind: Kind | None) -> int | None:
    """Draw the steps through these passages. Returns the position of the chosen one, None where there are none.

    kind: theirs; None where neither it nor a target is to be told.

    Every step says the kind again: a browser that is clicked twice at once still sends the address before the first
    click.
    """
    if not positions:
        return None
    outcomes = chosen.left.outcomes
    asked = address_bar.asked("passage")
    at = next((i for i, p in enumerate(positions) if str(outcomes[p].index) == asked), 0)
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
                args=({"filter": kind or "", "passage": target},),
            )
        frame.show(element("p", escape(f"{at + 1:,} of {len(positions):,}"), css="sd-muted sd-count"))
    near = positions[max(0, at - NEIGHBOURS) : at + NEIGHBOURS + 1]
    by_index = {str(outcomes[p].index): p for p in near}
    # While nothing may tell the sides apart, the target is left out as well.
    titles = {
        index: f"{int(index) + 1:,}" + (f" · {outcomes[position].target[:80]}" if kind else "")
        for index, position in by_index.items()
    }
    address_bar.select("passage", "Passage", titles, str(outcomes[positions[at]].index), along={"filter": kind or ""})
    return positions[at]


def _choose_kind(kinds: dict[Kind, list[int]], chosen_pair: Pair) -> Kind:
    """The two-by-two of buttons: left right or wrong across, right right or wrong down; below, the fifth kind."""
    asked = address_bar.asked("filter")
    usual = next((kind for kind in _FIRST_KINDS if kinds[kind]), _FIRST_KINDS[0])
    chosen: Kind = next((kind for kind in KINDS if kind == asked), usual)
    with st.container(key="flips", gap="small"):
        for row in (_SQUARE[:2], _SQUARE[2:], ("other-answer",)):
            for column, kind in zip(st.columns(len(row), gap="small", wrap=False), row, strict=True):
                column.button(
                    f"{KINDS[kind]} · {len(kinds[kind]):,}",
                    key=f"flip-{kind}",
                    width="stretch",
                    type="primary" if kind == chosen else "secondary",
                    icon=":material/check:" if kind == chosen else None,
                    on_click=address_bar.go,
                    args=({"filter": kind, "passage": ""},),
                    help=_explain(kind, chosen_pair),
                )
    st.button(
        "Change kind",
        key="next-kind",
        shortcut="F",
        type="tertiary",
        icon=":material/filter_list:",
        on_click=address_bar.go,
        args=({"filter": _next_kind(kinds, chosen), "passage": ""},),
        help="Go through the kinds that have passages.",
    )
    return chosen


def _next_kind(kinds: dict[Kind, list[int]], chosen: Kind) -> Kind:
    names = list(KINDS)
    at = names.index(chosen)
    return next((k for k in names[at + 1 :] + names[:at] if kinds[k]), chosen)


def _explain(kind: Kind, chosen: Pair) -> str:
    if kind == "other-answer":
        return "Right or wrong on both sides, with different words"
    left = "right" if kind in ("both-right", "broke") else "wrong"
    right = "right" if kind in ("both-right", "mended") else "wrong"
    return label(f"{chosen.left_name} {left}, {chosen.right_name} {right}")
