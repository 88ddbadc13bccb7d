"""Two models beside each other, passage by passage."""

import streamlit as st

from sparsedash.reporting import verdicts, wording
from sparsedash.reporting.record_pair import Kind
from sparsedash.reporting.run_results import adjusted, run_results
from sparsedash.stats.significance import compare
from sparsedash.ui import address_bar, frame
from sparsedash.ui.chosen_run import chosen_run
from sparsedash.ui.compare import blind, empty_state, selectors
from sparsedash.ui.compare.downloads import offer_files
from sparsedash.ui.compare.prompts import try_prompt
from sparsedash.ui.compare.reading import read_passage

backend = frame.page("Compare")
runs = [run for run in backend.runs() if run.sparse]
chosen = chosen_run(backend, runs)
run = chosen.run

if run is None or not empty_state.can_be_compared(backend, run):
    empty_state.explain(backend, chosen)
    st.stop()

verdict = st.container()
choice_of_run, choice_of_records = st.columns(2)
with choice_of_run:
    selectors.choose_run(runs, chosen.key)
with choice_of_records:
    pair = selectors.choose_pair(backend, run, runs)
if pair is None:
    with verdict:
        frame.opening("These two cannot be compared.")
        frame.note("One of the records is no longer stored. Choose another one.")
    st.stop()
with verdict:
    is_blind = address_bar.asked("mode") == "blind"
    basis = f"{wording.run_title(run.settings)} · {wording.run_details(run.settings)}"
    if is_blind:
        frame.opening("Which answer is better?", basis)
        blind.show_tally(backend, pair)
    else:
        judged = compare(pair.left, pair.right)
        basis = f"{pair.right_name} against {pair.left_name} · {basis}"
        frame.opening(verdicts.verdict(judged), basis)
        found = run_results(backend, run)
        notes = [
            found and verdicts.among(judged, adjusted(found, pair.left, pair.right), len(found.sparse)),
            verdicts.doubt(judged),
            verdicts.endings({pair.left_name: pair.left, pair.right_name: pair.right}),
        ]
        for said in filter(None, notes):
            frame.note(said)
    with st.container(horizontal=True, vertical_alignment="center"):
        frame.link("overview", "Back to the chart", run=chosen.key)
        frame.link("layers", "See what each layer lost", run=chosen.key, record=pair.right_name)
        blind.choose_mode()

passages = pair.texts(backend.passages(pair.left.passages_key))
# On a phone the columns stand one below the other: the passage first.
reading, choices = st.columns([3, 2], gap="medium")
kind: Kind | None = None
with choices:
    if is_blind:
        view = selectors.choose_blindly(pair, passages)
    else:
        kind, view = selectors.choose_view(pair, passages)
        offer_files(backend, run, pair, passages, (kind, view))
with reading:
    position = selectors.choose_passage(view, pair, kind)
    if position is None:
        clear = ", or clear the search" if address_bar.asked("search") else ""
        frame.note(f"No passage is of this kind. Choose another kind{clear}.")
    else:
        read_passage(backend, pair, passages, position, is_blind)
try_prompt(backend, pair, is_blind)
