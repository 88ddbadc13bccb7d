"""What to do next, under the answer, with the way there."""

import streamlit as st

from sparsedash.reporting.html import paragraph
from sparsedash.reporting.run_results import RunResults, headline
from sparsedash.reporting.runs.next_step import next_step
from sparsedash.ui import frame
from sparsedash.ui.chosen_run import link_to_files
from sparsedash.ui.form_address import form_address


def show_next(found: RunResults | None, *, grows: bool) -> None:
    """Draw the next step and the link to it, once the run is finished.

    grows: the run is, or was, under way before the visitor's eyes: then the room for it is kept from the beginning.
    """
    step = next_step(found) if found is not None else None
    if step is None and not grows:
        return
    with st.container(key="next-step-grows" if grows else "next-step", horizontal=True, vertical_alignment="center"):
        frame.show(paragraph(step.said if step else "", css="sd-next"))
        if found is None or step is None:
            return
        record = headline(found)
        if step.asked is None and record is not None:
            link_to_files(found.run.key, found.name_of(record))
        elif step.asked is not None and (address := form_address(step.asked)) is not None:
            frame.link("prune", step.link, **address)
