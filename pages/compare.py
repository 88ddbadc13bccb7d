"""Two models beside each other, passage by passage."""

import streamlit as st

from sparsedash.reporting import wording
from sparsedash.ui import frame
from sparsedash.ui.chosen_run import chosen_run, link_to_files, show_mark
from sparsedash.ui.compare import empty_state, open_view, selectors
from sparsedash.ui.compare.breaking import show_breaking
from sparsedash.ui.compare.passage import show_passage
from sparsedash.ui.compare.passage_table import show_table
from sparsedash.ui.compare.prompts import try_prompt
from sparsedash.ui.compare.selectors import About, Places
from sparsedash.ui.compare.views import choose_view, view_asked_for
from sparsedash.ui.run_ending import show_ending

backend = frame.page("Compare")
runs = [run for run in backend.runs() if run.sparse]
chosen = chosen_run(backend, runs)
run = chosen.run

if run is None or not empty_state.can_be_compared(backend, run):
    empty_state.explain(backend, chosen)
    st.stop()

show_mark(run)
verdict, cost = st.container(), st.container(key="cost")
choices = selectors.begin_choices()
with choices:
    choice_of_run, choice_of_records, choice_of_view = st.columns([7, 7, 2.4], vertical_alignment="bottom")
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
if not run.made_on:
    with choice_of_view:
        choose_view()
kinds = st.container(key="kinds", horizontal=True, vertical_alignment="center", gap="small")
# On a phone the columns stand one below the other: the passage first.
with st.container(key="compared"):
    reading, listing = st.columns([3, 2], gap="large")
about = st.container(key="about")
with verdict:
    title = wording.title_of(run, backend.user_data.name_of(run.key))
    view.begin(backend, run, pair, f"{title} · {wording.details_of(run)}", About(cost=cost, about=about))
passages = pair.texts(backend.passages(pair.left.passages_key))
shown = view.choose_passages(backend, run, pair, passages, Places(choices=choices, kinds=kinds, listing=listing))
with reading:
    at = selectors.current(shown, pair)
    if at is not None:
        selectors.step(shown, pair, at)
        show_passage(backend, view, pair, passages, shown.positions[at])
with listing:
    if at is not None:
        show_table(shown, pair, passages, at)
with about:
    show_ending(run, chosen.job)
    with st.container(horizontal=True, vertical_alignment="center"):
        frame.link("overview", "Back to the chart", run=chosen.key)
        frame.link("layers", "See what each layer lost", run=chosen.key, record=pair.right_name)
        if pair.right.key in run.sparse:
            link_to_files(chosen.key, pair.right_name)
if view is open_view and passages is not None:
    with st.container(key="breaking"):
        show_breaking(backend, pair, passages)
with st.container(key="trying"):
    try_prompt(backend, view, pair, run)
