"""Two models beside each other, passage by passage."""

import streamlit as st

from sparsedash.ui import comparison, frame, wording
from sparsedash.ui.continuation import continue_passage
from sparsedash.ui.own_prompt import try_prompt
from sparsedash.ui.passage import show_passage
from sparsedash.ui.sweep import compare
from sparsedash.ui.take_away import offer_files

backend = frame.page("Compare")
runs = [run for run in backend.runs() if run.sparse]
chosen = frame.query("run") or (runs[0].key if runs else "")
run = backend.run(chosen) if chosen else None

if run is None or not run.sparse or backend.record(run.dense) is None:
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
    pair = comparison.choose_pair(backend, run, runs)
if pair is None:
    with verdict:
        frame.opening("These two cannot be compared.")
        frame.note("One of the records is no longer stored. Choose another one.")
    st.stop()
with verdict:
    basis = f"{pair.right_name} against {pair.left_name} · {wording.run_title(run.settings)} · {wording.run_details(run.settings)}"
    judged = compare(pair.left, pair.right)
    frame.opening(wording.verdict(judged), basis)
    if doubt := wording.doubt(judged):
        frame.note(doubt)
    frame.link("overview", "Back to the chart", run=chosen)

passages = backend.passages(pair.left.passages_key)
choices, reading = st.columns([2, 3], gap="medium")
with choices:
    kind, view = comparison.choose_view(pair, passages)
    position = comparison.choose_passage(view, pair, kind)
    offer_files(backend, run, pair, passages, (kind, view))
with reading:
    if position is None:
        frame.note("No passage is of this kind. Choose another kind, or clear the search.")
    else:
        show_passage(position, pair, passages)
        if passages is not None:
            continue_passage(backend, pair, passages.contexts[position])
try_prompt(backend, pair)
