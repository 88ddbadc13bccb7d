"""What a visitor has chosen on the page with all runs; all of it is in the address."""

from collections.abc import Sequence

import streamlit as st

from sparsedash.reporting.html import label
from sparsedash.reporting.runs import listing
from sparsedash.reporting.runs.rows import RunRow
from sparsedash.ui import address_bar
from sparsedash.ui.address_bar import BOUND, asked, go

CHOSEN, TOGETHER, PAGE, TEXT = "chosen", "together", "page", "contains"
"""Parameters of the address: the runs that are ticked; whether they are laid over each other; which part of the table
is shown; the text that is looked for. No field of another page may be called as the last: Streamlit hands values on.
"""

A_PAGE = 25
"""Rows of the table at once."""


def chosen(rows: Sequence[RunRow]) -> list[RunRow]:
    """The runs that are ticked, in the order in which they were; what is gone is left out."""
    known = listing.by_address(rows)
    addresses = dict.fromkeys(st.query_params.get_all(CHOSEN))
    return [known[address] for address in addresses if address in known]


def choose(addresses: Sequence[str]) -> None:
    """Tick these runs and no other."""
    if addresses:
        st.query_params[CHOSEN] = list(addresses)
    else:
        go({CHOSEN: "", TOGETHER: ""})


def tick(row: RunRow, shown: Sequence[RunRow], is_chosen: bool) -> None:
    """Draw the box that chooses a run. shown: the rows of this part of the table."""
    key = _key(row.address)
    st.session_state[key] = is_chosen
    st.checkbox(
        label(f"Choose {row.title}"),
        key=key,
        label_visibility="collapsed",
        on_change=_ticked,
        args=([each.address for each in shown],),
    )


def together() -> bool:
    """Whether the chosen runs are laid over each other."""
    return bool(asked(TOGETHER))


def narrowed(rows: Sequence[RunRow]) -> list[RunRow]:
    """Draw the search, the choice of a model and the order. Returns the rows they leave, in that order."""
    back = {PAGE: ""}
    looked_for, rest = st.columns(2, gap="small")
    with looked_for:
        text = st.text_input("Search", key=TEXT, bind=BOUND, max_chars=100, type="search")
    # Beside each other on a phone as well: the table is what somebody came for.
    of_model, by = rest.columns([3, 2], gap="small", wrap=False)
    with of_model:
        found = {"": "All models", **listing.models(rows)}
        model = address_bar.select("model", "Model", found, "", along=back, noun="model")
    with by:
        order = address_bar.select("sort", "Order", listing.ORDERS, next(iter(listing.ORDERS)), along=back)
    return listing.ordered(listing.matching(rows, text or "", model), order)


def part(rows: Sequence[RunRow]) -> tuple[int, int]:
    """Which part of the table is shown, from 0, and how many there are."""
    n_parts = max(1, -(-len(rows) // A_PAGE))
    wanted = asked(PAGE)
    number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 6 else 1
    return min(max(number, 1), n_parts) - 1, n_parts


def _ticked(shown: Sequence[str]) -> None:
    """Keep what was ticked in the address.

    Read from all boxes that are shown: of two clicks at once the second still brings the address before the first.
    """
    before = list(dict.fromkeys(st.query_params.get_all(CHOSEN)))
    now = [address for address in shown if st.session_state.get(_key(address))]
    kept = [address for address in before if address in now or address not in shown]
    choose([*kept, *(address for address in now if address not in kept)])


def _key(address: str) -> str:
    return f"tick-{address}"
