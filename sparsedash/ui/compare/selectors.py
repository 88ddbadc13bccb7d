"""The choices of the compare page: which two records, which kind of passages, in which order, and which one of them."""

from collections.abc import Sequence
from typing import get_args

import streamlit as st

from sparsedash.reporting import wording
from sparsedash.reporting.html import element, escape, label, visible
from sparsedash.reporting.record_pair import KINDS, Kind, Order, Pair, RecordChoice, offers, pair, told_apart, unknown
from sparsedash.schema.records import Passages, Run
from sparsedash.service.backend import Backend
from sparsedash.ui import frame

_FIRST_KINDS: tuple[Kind, ...] = ("broke", "mended", "other-answer", "both-wrong", "both-right")
"""What is shown where the address names no kind: the first of these that has passages."""
NEIGHBOURS = 100
"""Passages offered on each side of the chosen one: a list of thousands would slow every step."""

_SQUARE: tuple[Kind, ...] = ("both-right", "broke", "mended", "both-wrong")
_JUMP = "jump"
_RUN = "chosen-run"


def choose_run(runs: Sequence[Run], chosen: str) -> None:
    """Draw the choice among the runs there are; the address says which one is shown."""
    keys = {run.key: run for run in runs}
    if chosen not in keys:
        return
    zone = frame.zone()
    names = told_apart(
        {key: f"{wording.run_title(run.settings)}, {wording.moment(run.started_at, zone)}" for key, run in keys.items()}
    )
    st.session_state[_RUN] = chosen
    st.selectbox(
        "Run",
        list(keys),
        key=_RUN,
        on_change=_change_run,
        filter_mode="contains",
        format_func=lambda key: visible(names[key]),
    )


def choose_pair(backend: Backend, run: Run, runs: Sequence[Run]) -> Pair | None:
    """Draw the two choices of records; dense beside the run's last one unless the address names others there are.

    Offered is every record over the same passages, also of other runs. None where a chosen record is lost.
    """
    offered = {offer.key: offer for offer in offers(run, runs)}
    last = (run.sparse or (run.dense,))[-1]
    columns = st.columns(2, wrap=False)
    chosen: list[RecordChoice] = []
    not_there: list[str] = []
    for column, side, otherwise in zip(columns, ("left", "right"), (run.dense, last), strict=True):
        asked = frame.query(side)
        key = next((o.key for o in offered.values() if asked and o.address == asked), otherwise)
        widget = f"chosen-{side}"
        st.session_state[widget] = key
        column.selectbox(
            side.capitalize(),
            list(offered),
            key=widget,
            filter_mode="contains",
            on_change=_change_side,
            args=(side, {offer.key: offer.address for offer in offered.values()}),
            format_func=lambda k: visible(offered[k].name),
        )
        chosen.append(offered[key])
        if asked and offered[key].address != asked:
            not_there.append(unknown(asked, offered[key].name))
    for said in not_there:
        frame.note(said)
    return pair(backend, *chosen)


def choose_view(chosen: Pair, passages: Passages | None) -> tuple[Kind, list[int]]:
    """Draw search, order and the kinds with their counts. Returns the kind and its passages in that order."""
    kinds = chosen.kinds(_searched(chosen, passages))
    kind = _choose_kind(kinds, chosen)
    order = st.selectbox(
        "Sort by the target's log-probability",
        get_args(Order),
        key="sort",
        bind="query-params",
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
        "Search in the passages and answers", key="search", bind="query-params", max_chars=200, type="search"
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
    asked = frame.query("passage")
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
                on_click=_go,
                kwargs={"filter": kind or "", "passage": target},
            )
        frame.show(element("p", escape(f"{at + 1:,} of {len(positions):,}"), css="sd-muted sd-count"))
    near = positions[max(0, at - NEIGHBOURS) : at + NEIGHBOURS + 1]
    by_index = {str(outcomes[p].index): p for p in near}
    st.session_state[_JUMP] = str(outcomes[positions[at]].index)
    st.selectbox(
        "Passage",
        list(by_index),
        key=_JUMP,
        on_change=_jump,
        args=(kind,),
        filter_mode="contains",
        format_func=lambda i: f"{int(i) + 1:,}" + (f" · {visible(outcomes[by_index[i]].target[:80])}" if kind else ""),
    )
    return positions[at]


def _choose_kind(kinds: dict[Kind, list[int]], chosen_pair: Pair) -> Kind:
    """The two-by-two of buttons: left right or wrong across, right right or wrong down; below, the fifth kind."""
    asked = frame.query("filter")
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
                    on_click=_go,
                    kwargs={"filter": kind, "passage": ""},
                    help=_explain(kind, chosen_pair),
                )
    st.button(
        "Change kind",
        key="next-kind",
        shortcut="F",
        type="tertiary",
        icon=":material/filter_list:",
        on_click=_go,
        kwargs={"filter": _next_kind(kinds, chosen), "passage": ""},
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


def _change_run() -> None:
    _go(run=st.session_state[_RUN], passage="", left="", right="")


def _change_side(side: str, addresses: dict[str, str]) -> None:
    _go(**{side: addresses[st.session_state[f"chosen-{side}"]], "passage": ""})


def _jump(kind: Kind | None) -> None:
    _go(filter=kind or "", passage=st.session_state[_JUMP])


def _go(**address: str) -> None:
    """Change the address, which is where this page keeps what is chosen."""
    for name, value in address.items():
        if value:
            st.query_params[name] = value
        else:
            st.query_params.pop(name, None)
