"""The kinds of passages as a row of buttons whose numbers add up, and the switch inside each: only different words."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from sparsedash.reporting.html import label
from sparsedash.reporting.record_pair import KINDS, Kind, Pair
from sparsedash.ui import address_bar
from sparsedash.ui.address_bar import BOUND

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
    asked = address_bar.asked("filter")
    usual = next((kind for kind in _FIRST_KINDS if by_kind[kind]), _FIRST_KINDS[0])
    chosen: Kind = next((kind for kind in KINDS if kind == asked), usual)
    for kind, found in by_kind.items():
        st.button(
            f"{KINDS[kind]} · {len(found):,}",
            key=f"flip-{kind}",
            # The style sheet knows the chosen one by its icon: one of another type would be a new button, and lose
            # the focus.
            icon=":material/check:" if kind == chosen else None,
            on_click=address_bar.go,
            args=({"filter": kind, "passage": ""},),
            help=_explain(kind, pair),
        )
    st.button(
        "Change kind",
        key="next-kind",
        shortcut="F",
        type="tertiary",
        icon=":material/filter_list:",
        on_click=address_bar.go,
        args=({"filter": _next_kind(by_kind, chosen), "passage": ""},),
        help="Go through the kinds that have passages.",
    )
    other = pair.differing(by_kind[chosen])
    only = st.toggle(
        f"Only different words · {len(other):,}",
        key=OTHER_WORDS,
        bind=BOUND,
        on_change=address_bar.go,
        args=({"filter": chosen, "passage": ""},),
        help="Of this kind only the passages that the two models answer with different words.",
    )
    return KindShown(kind=chosen, positions=other if only else by_kind[chosen], only_other=only)


def of_kind(pair: Pair, positions: Sequence[int], shown: KindShown) -> Sequence[int]:
    """Those of these passages that are of the kind that is shown."""
    found = pair.kinds(positions)[shown.kind]
    return pair.differing(found) if shown.only_other else found


def _next_kind(by_kind: dict[Kind, list[int]], chosen: Kind) -> Kind:
    names = list(KINDS)
    at = names.index(chosen)
    return next((k for k in names[at + 1 :] + names[:at] if by_kind[k]), chosen)


def _explain(kind: Kind, chosen: Pair) -> str:
    if kind == "all":
        return "Every passage; the other four kinds add up to it"
    left = "right" if kind in ("both-right", "broke") else "wrong"
    right = "right" if kind in ("both-right", "mended") else "wrong"
    return label(f"{chosen.left_name} {left}, {chosen.right_name} {right}")
