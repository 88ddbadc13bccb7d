"""Two models side by side, passage by passage; and what each layer of a sparse one lost."""

import streamlit as st

from sparsedash.reporting.run_results import run_results
from sparsedash.ui import (
    compare_answers,
    compare_views,
    frame,
    judged_files,
    task_answers,
    widgets,
)
from sparsedash.ui.address_bar import choose_view
from sparsedash.ui.chosen_run import chosen_run, show_example_note
from sparsedash.ui.compare_layers import show_layers_of
from sparsedash.ui.compare_passage import show_passage, show_passage_table, try_prompt
from sparsedash.ui.compare_views import ChangeFilter, Shown
from sparsedash.ui.navigation import current_tolerance

backend = frame.page("Compare")
if judged_files.is_asked():
    compare_answers.show_questions(backend)
    st.stop()
runs = [run for run in backend.runs() if run.sparse]
chosen = chosen_run(backend, runs)
run = chosen.run

if run is None or not compare_views.can_be_compared(backend, run):
    compare_views.explain_no_comparison(backend, chosen)
    st.stop()

offered = [*runs, run] if run.made_on else runs
view = choose_view(
    {"": "Passages", "layers": "Layers"}
    | ({task_answers.TASKS_VIEW: "Tasks"} if run.answers else {})
)
show_example_note(run)
if view == task_answers.TASKS_VIEW:
    compare_answers.show_run_questions(backend, run)
    st.stop()
results = run_results(
    backend,
    run,
    current_tolerance(),
    backend.user_data.name_of(run.key),
)
assert results is not None, "the page has read the dense record already"
if view:
    show_layers_of(backend, chosen, results, offered)
    st.stop()
verdict = st.container()
choices = compare_views.begin_choices()
with choices:
    choice_of_run, choice_of_records, choice_of_view = st.columns(
        [7, 7, 2.4], vertical_alignment="bottom"
    )
    searching, sorting, taking = st.columns([3, 3, 2], vertical_alignment="bottom")
with choice_of_run:
    compare_views.choose_run(backend, offered, chosen.key)
with choice_of_records:
    pair = compare_views.choose_pair(backend, results, [] if run.made_on else runs)
if pair is None:
    with verdict:
        widgets.opening("These two models cannot be compared.")
        widgets.note(
            "A record is no longer stored, or the two share no passage. Choose another model."
        )
    st.stop()
with choice_of_view:
    blind = not run.made_on and compare_views.choose_blind()
kinds = st.container(
    key="kinds",
    horizontal=True,
    vertical_alignment="center",
    gap="small",
)
# On a phone the columns stand one below the other: the passage first.
with st.container(key="compared"):
    reading, listing = st.columns([3, 2], gap="large")
about = st.container(key="about")
passages = pair.texts(backend.passages(pair.left.passages_key))
with verdict:
    if blind:
        compare_views.show_question(backend, run, pair, about)
    else:
        compare_views.show_verdict(backend, results, pair, about)
with searching:
    searched = compare_views.search_passages(pair, passages)
if blind:
    shown = Shown(pair, pair.differing(searched))
    with listing:
        compare_views.note_offered(shown, len(searched))
else:
    changes = ChangeFilter(results, pair)
    matching = changes.matching(searched)
    with kinds:
        kind, only_different = compare_views.choose_kind(pair, matching)
    with listing:
        changes.draw(pair.of_kind(searched, kind, only_different), kind)
    with sorting:
        order = compare_views.choose_order()
    positions = pair.of_kind(matching, kind, only_different)
    shown = Shown(pair, pair.ordered(positions, kind, order), kind)
    with taking:
        compare_views.offer_files(backend, results, passages, shown)
with reading:
    place = compare_views.current_passage(shown)
if place is not None:
    with reading:
        show_passage(backend, shown, passages, place, blind=blind)
    with listing:
        show_passage_table(shown, passages, place)
with about:
    compare_views.show_links(run, chosen, pair)
if not blind and passages is not None:
    with st.container(key="breaking"):
        compare_views.show_breaking(pair, passages)
with st.container(key="trying"):
    try_prompt(backend, pair, run, blind=blind)
