"""Choose a model and what to remove, see what it will take, start it; and the published results, to
repeat a row.
"""

import streamlit as st

from sparsedash.reporting.html import paragraph
from sparsedash.ui import (
    form_fields,
    form_model,
    form_run,
    frame,
    navigation,
    prune_published,
    widgets,
)
from sparsedash.ui.address_bar import choose_view

backend = frame.page("Prune")
if choose_view({"": "Set up a run", "published": "Published results"}) == "published":
    prune_published.show_summary()
    prune_published.show_tables()
    prune_published.show_row(backend)
    st.stop()

widgets.opening("How much of a model can go?")

form, aside = st.columns([3, 2], gap="medium")
with form:
    settings = form_run.prune_form(backend)


def start() -> None:
    """Submit what the form says and go to the page of the run."""
    if settings is not None:
        job = backend.submit(settings)
        st.switch_page(
            "pages/overview.py",
            query_params={"run": job.key, **navigation.tolerance_query()},
        )


with aside, st.container(key="estimate"):
    check = form_fields.show_estimate(backend, settings)
    ready = check.is_possible and not form_model.was_refused(settings)
    label = f"Start · {check.takes}" if check.takes else "Start"
    with st.container(key="start"):
        if ready and check.doubts:
            # What is likely to fail, or takes long, is confirmed.
            with st.popover(label, width="stretch", key="start-anyway"):
                widgets.show(*(paragraph(doubt) for doubt in check.doubts))
                pressed = st.button("Start anyway", type="primary", key="start-run")
        else:
            pressed = st.button(
                label,
                type="primary",
                width="stretch",
                disabled=not ready,
                key="start-run",
            )
        if not ready:
            # On a phone the reason is far from the button, which stays in view.
            widgets.show(
                paragraph(
                    "The form says above why it cannot start.",
                    css="sd-muted sd-small sd-why",
                )
            )
    # A click that was on its way when a field was refused starts nothing.
    if pressed and ready:
        widgets.attempt(start)
