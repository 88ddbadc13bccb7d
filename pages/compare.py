"""Dense beside sparse, passage by passage."""

import streamlit as st

from sparsedash.ui import comparison, frame, wording
from sparsedash.ui.continuation import continue_passage
from sparsedash.ui.sweep import compare, sweep

backend = frame.page("Compare")
runs = [run for run in backend.runs() if run.sparse]
chosen = frame.query("run") or (runs[0].key if runs else "")
found = sweep(backend, backend.run(chosen)) if chosen else None

if found is None or not found.sparse:
    frame.opening("Nothing to compare yet.")
    frame.empty(
        "Here a dense and a sparse model will stand side by side: each passage, both answers, both probabilities."
    )
    frame.link("overview", "See the runs" if runs else "Run the built-in model first")
    st.stop()

verdict = st.container()
choice_of_run, choice_of_records = st.columns(2)
with choice_of_run:
    comparison.choose_run(runs, chosen)
with choice_of_records:
    pair = comparison.choose_pair(found)
settings = found.run.settings
with verdict:
    basis = f"{pair.right_name} against {pair.left_name} · {wording.run_title(settings)} · {wording.run_details(settings)}"
    frame.opening(wording.verdict(compare(pair.left, pair.right)), basis)

flips = pair.flips()
choices, reading = st.columns([2, 3], gap="medium")
with choices:
    flip = comparison.choose_flip(flips, pair)
    position = comparison.choose_passage(flips[flip], pair)
with reading:
    if position is None:
        frame.note("No passage is of this kind. Choose another one of the four.")
    else:
        passages = backend.passages(pair.left.passages_key)
        comparison.show_passage(position, pair, passages)
        if passages is not None:
            continue_passage(backend, pair, passages.contexts[position])
