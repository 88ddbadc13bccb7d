"""What would pruning cost? One run's answer."""

import streamlit as st

from sparsedash.catalog.choices import EXAMPLE
from sparsedash.reporting.run_results import run_results
from sparsedash.ui import (
    address_bar,
    form_run,
    frame,
    job_panel,
    judged_files,
    overview_results,
    widgets,
)
from sparsedash.ui.chosen_run import chosen_run
from sparsedash.ui.navigation import current_tolerance

backend = frame.page("Overview")
if judged_files.is_asked():
    judged_files.show_answers(backend)
    st.stop()
runs = backend.runs()
damaged = backend.damaged_runs()
chosen = chosen_run(backend, runs)
results = run_results(
    backend, chosen.run, current_tolerance(), backend.user_data.name_of(chosen.key)
)


def try_built_in() -> None:
    """Ask for the default run and keep its key in the address, so that a refresh finds it again."""
    address_bar.set_query(
        {"run": backend.submit(form_run.first_run_settings(backend)).key}
    )


def invite() -> None:
    """Draw the page that is shown before anything has run."""
    widgets.opening("What would pruning cost this language model?")
    widgets.empty(
        "Nothing has run here yet. One click removes parts of a small built-in model and compares its answers with "
        "the dense one's."
    )
    with widgets.row():
        st.button(
            "Try the built-in model",
            type="primary",
            on_click=widgets.attempt,
            args=(try_built_in,),
        )
        if backend.run(EXAMPLE) is not None:
            widgets.link("overview", "Look at an example", run=EXAMPLE)
        widgets.link("prune", "or choose a model yourself")
    overview_results.show_first_run_duration(backend)
    example = run_results(backend, backend.run(EXAMPLE))
    if example is not None:
        overview_results.show_preview(backend, example)


if results is not None:
    overview_results.show_answer(backend, results, chosen.job)
    overview_results.show_results(backend, results, chosen.job)
elif chosen.job is not None or chosen.run is not None or chosen.key in damaged:
    overview_results.show_no_results(backend, chosen.key, chosen.run, chosen.job)
elif chosen.key:
    widgets.opening("There is no run with this address.")
    widgets.empty("It may be in another data folder.")
    with widgets.row():
        widgets.link("overview", "Show the newest run")
        widgets.link("runs", "All runs as a table")
else:
    invite()

# Results have it under the chips, so that the answer keeps the first screen.
if results is None:
    job_panel.mention_other_runs(backend, chosen.key)
