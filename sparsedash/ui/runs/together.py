"""Draws the chosen runs over each other in one chart."""

from collections.abc import Sequence

import streamlit as st

from sparsedash.reporting.charts.far_points import far_words
from sparsedash.reporting.charts.palette import repainting
from sparsedash.reporting.charts.points import Measure
from sparsedash.reporting.charts.tradeoff import clicked, tradeoff_chart, tradeoff_words
from sparsedash.reporting.html import Html, paragraph
from sparsedash.reporting.run_results import run_results
from sparsedash.reporting.runs.overlay import MOST_RUNS, Overlay, overlay
from sparsedash.reporting.runs.rows import RunRow
from sparsedash.service.backend import Backend
from sparsedash.ui import carried, chart_files, frame
from sparsedash.ui.address_bar import BOUND

MEASURE = "measure"
_JUDGED = "The green band is what may be lost: ✓ within, ✕ beyond, ? undecided, under the axis where there are several."
_CLICK = "A click on a point opens its answers beside the dense model's."
_VERDICT = f"Each run against its own dense model. Bars: the intervals that the verdict rests on. {_JUDGED} {_CLICK}"
_DRAWN: dict[Measure, str] = {
    "word perplexity": _VERDICT,
    "accuracy": _VERDICT,
    "flips": f"Each run against its own dense model. Bars: 95 % intervals. {_CLICK}",
    "share right": f"Bars and the blue band: 95 % intervals. {_CLICK}",
}


def show_together(backend: Backend, chosen: Sequence[RunRow]) -> None:
    """Draw the chart of the chosen runs, what it leaves out and why, and its numbers."""
    looked_at = [row for row in chosen if row.run is not None][:MOST_RUNS]
    allowed = carried.tolerance()
    found = [results for row in looked_at if (results := run_results(backend, row.run, allowed, row.mark.name))]
    frame.section("Laid over each other" if len(chosen) > 1 else "The chart of this run")
    drawn = overlay(found)
    if drawn is None:
        frame.note("None of the chosen runs has a sparse model with answers yet.")
        return
    frame.show(Html(f"<style>{repainting()}</style>"))
    _draw(drawn)
    for said in drawn.notes:
        frame.note(said)
    if len(looked_at) < len([row for row in chosen if row.run is not None]):
        frame.note(f"Only the first {MOST_RUNS} of the chosen runs are looked at.")
    with st.expander("The numbers as a table"):
        frame.show_table(drawn.numbers())


def _draw(drawn: Overlay) -> None:
    asked = st.segmented_control(
        "What the chart shows",
        drawn.measures,
        default=drawn.measures[0],
        key=MEASURE,
        bind=BOUND,
        required=True,
        label_visibility="collapsed",
    )
    measure: Measure = asked or drawn.measures[0]
    selected = st.plotly_chart(
        tradeoff_chart(drawn.tradeoff(), measure, frame.theme()),
        theme=None,
        config=chart_files.chart_config(f"runs-{measure}".replace(" ", "-")),
        alt=tradeoff_words(drawn.tradeoff(brief=False), measure),
        key=f"together-{measure}",
        on_select="rerun",
        selection_mode="points",
    )
    chart_files.offer_chart()
    said = f"{_DRAWN[measure]} {far_words(drawn.tradeoff(), measure)}".strip()
    frame.show(drawn.legend(), paragraph(said, css="sd-muted sd-small"))
    if address := drawn.comparisons().get(clicked(selected["selection"]["points"])):
        st.switch_page("pages/compare.py", query_params={**address, **carried.tolerance_address()})
