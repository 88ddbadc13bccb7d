"""Two models beside each other, passage by passage."""

import streamlit as st

from sparsedash.reporting import wording
from sparsedash.ui import frame
from sparsedash.ui.chosen_run import chosen_run, link_to_files, show_mark
from sparsedash.ui.compare import empty_state, open_view, selectors
from sparsedash.ui.compare.passage import show_passage
from sparsedash.ui.compare.prompts import try_prompt
from sparsedash.ui.compare.views import choose_view, view_asked_for
from sparsedash.ui.run_ending import show_ending

backend = frame.page("Compare")
runs = [run for run in backend.runs() if run.sparse]
chosen = chosen_run(backend, runs)
run = chosen.run

if run is None or not empty_state.can_be_compared(backend, run):
    empty_state.explain(backend, chosen)
    st.stop()

show_mark(run, brief=True)
verdict = st.container()
choice_of_run, choice_of_records = st.columns(2)
with choice_of_run:
    selectors.choose_run(backend, [*runs, run] if run.made_on else runs, chosen.key)
with choice_of_records:
    pair = selectors.choose_pair(backend, run, [] if run.made_on else runs)
if pair is None:
    with verdict:
        frame.opening("These two cannot be compared.")
        frame.note("One of the records is no longer stored, or they answer no passage in common. Choose another one.")
    st.stop()

view = open_view if run.made_on else view_asked_for()
with verdict:
    title = wording.title_of(run, backend.user_data.name_of(run.key))
    view.begin(backend, run, pair, f"{title} · {wording.details_of(run)}")
    show_ending(run, chosen.job)
    with st.container(horizontal=True, vertical_alignment="center"):
        frame.link("overview", "Back to the chart", run=chosen.key)
        frame.link("layers", "See what each layer lost", run=chosen.key, record=pair.right_name)
        if pair.right.key in run.sparse:
            link_to_files(chosen.key, pair.right_name)
        if not run.made_on:
            choose_view()

passages = pair.texts(backend.passages(pair.left.passages_key))
# On a phone the columns stand one below the other: the passage first.
reading, choices = st.columns([3, 2], gap="medium")
with choices:
    shown = view.choose_passages(backend, run, pair, passages)
with reading:
    position = selectors.choose_passage(shown, pair)
    if position is not None:
        show_passage(backend, view, pair, passages, position)
try_prompt(backend, view, pair)
