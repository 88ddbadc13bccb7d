"""Choose a model and what to remove, see what it will take, start it; and the published results, to
repeat a row.
"""

import streamlit as st

from sparsedash.reporting.html import paragraph
from sparsedash.ui import form_fields, form_run, frame, navigation, prune_published, widgets
from sparsedash.ui.address_bar import choose_view

backend = frame.page("Prune")
if choose_view({"": "Set up a run", "published": "Published results"}) == "published":
    prune_published.show_summary()
    prune_published.show_tables()
    prune_published.show_row(backend)
    st.stop()

widgets.opening("Choose a model and a sparsity, or search for the largest within your limits.")

form, aside = st.columns([3, 2], gap="medium")
with form:
    settings = form_run.prune_form(backend)


def start() -> None:
    """Submit what the form says and go to the page of the run."""
    if settings is not None:
        job = backend.submit(settings)
        st.switch_page(
            "pages/overview.py", query_params={"run": job.key, **navigation.tolerance_query()}
        )


with aside, st.container(key="estimate"):
    ready = form_fields.show_estimate(backend, settings)
    with st.container(key="start"):
        pressed = st.button("Start", type="primary", width="stretch", disabled=not ready)
        if not ready:
            # On a phone the reason is far from the button, which stays in view.
            widgets.show(
                paragraph(
                    "The form says above why it cannot start.", css="sd-muted sd-small sd-why"
                )
            )
    # A click that was on its way when a field was refused starts nothing.
    if pressed and ready:
        widgets.attempt(start)
