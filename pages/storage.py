"""What the data folder holds, how much room it takes, and whether it is intact."""

import streamlit as st

from sparsedash.reporting import storage_words as words
from sparsedash.reporting import wording
from sparsedash.reporting.html import card, cards
from sparsedash.ui import frame, storage_holdings

backend = frame.page("Storage")
if not backend.administers:
    frame.opening("What the data folder holds is for administrators.", "Your own runs are on the page Runs.")
    st.stop()
held = backend.housekeeping.holdings()

frame.opening(words.holdings_sentence(held), str(backend.data_dir))
if held.is_empty:
    frame.empty(
        "Here will be what takes how much room: runs and their answers, calibration data, unpacked models, uploads and "
        "exports, by kind, by model and by run, each with a way to delete it."
    )
    with st.container(horizontal=True):
        frame.link("prune", "Prune a model")
        frame.link("runs", "or open a run that was made elsewhere")
else:
    frame.show(cards([card(*each, css="") for each in words.holdings_cards(held)]))

if not held.is_empty:
    marks = backend.user_data.marks()
    names = {key: mark.name for key, mark in marks.items()}
    titles = {each.run.key: wording.stored_run_title(each.run, names.get(each.run.key, "")) for each in held.runs}
    storage_holdings.show_verification(backend)
    storage_holdings.show_holdings(backend, words.held_rows(held, marks, frame.zone()), titles)
storage_holdings.show_limit(backend, held)
