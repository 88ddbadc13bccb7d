"""The passages of one change only: a histogram whose bars are pressed, and the same as a list to choose from."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from sparsedash.reporting.charts.changes import changes_chart, changes_words, clicked_bar
from sparsedash.reporting.passages.changes import Range, counted, ranges
from sparsedash.reporting.record_pair import Pair
from sparsedash.ui import address_bar, chart_files, frame

CHANGE = "change"
"""The parameter of the address that names a range of changes."""


@dataclass(frozen=True, kw_only=True)
class ChangeFilter:
    """What is filtered by. changes: of every passage of the pair, by its position. chosen: None for any change."""

    changes: Sequence[float]
    ranges: Sequence[Range]
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
    found, asked = ranges(changes), address_bar.asked(CHANGE)
    return ChangeFilter(
        changes=changes, ranges=found, chosen=next((i for i, each in enumerate(found) if each.address == asked), None)
    )


def choose_change(by: ChangeFilter, positions: Sequence[int], kind: str) -> None:
    """Draw the histogram of these passages, and the list of its bars for those who do not press them."""
    counts = counted([by.changes[position] for position in positions], by.ranges)
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
        address_bar.go({CHANGE: to, "filter": kind, "passage": ""})
