"""What each layer of a sparse model lost, and whether its fit holds for other text."""

import streamlit as st

from sparsedash.reporting.html import file_name
from sparsedash.reporting.run_answer import run_ending
from sparsedash.reporting.run_results import run_results
from sparsedash.reporting.wording import file_stem
from sparsedash.ui import frame, job_panel, layers_losses
from sparsedash.ui.chosen_run import choose_record, chosen_run, link_to_export, show_example_note, show_incomplete

backend = frame.page("Layers")
chosen = chosen_run(backend, [run for run in backend.runs() if run.sparse])
found = run_results(backend, chosen.run)

if found is not None and found.sparse:
    show_example_note(found.run)
    answer = st.container()
    record = choose_record(found)
    assert record.pruned is not None
    with answer:
        frame.opening(layers_losses.layers_sentence(record.pruned), layers_losses.layers_basis(record, record.pruned))
        show_incomplete(found.run, run_ending(found.run, chosen.job))
    stem = file_name(file_stem(found.run), found.names[record.key])
    layers_losses.show_layers(record.pruned, stem)
    layers_losses.show_shapes(backend, record, stem)
    with st.container(horizontal=True):
        frame.link("overview", "Back to the chart", run=chosen.key)
        name = found.names[record.key]
        frame.link("compare", "Compare its answers with the dense model's", run=chosen.key, right=name)
        link_to_export(chosen.key, name)
elif chosen.job is not None:
    frame.opening("No layer has been pruned yet." if chosen.job.live else "This run pruned nothing.")
    if chosen.job.live:
        frame.empty("Each layer's width and loss appear here with the first sparse model.")
    job_panel.watch_job(backend, chosen.job, lambda: bool((grown := backend.run(chosen.key)) and grown.sparse))
elif chosen.asked:
    frame.opening("There is nothing about layers at this address.")
    frame.empty("The run may have been made in another data folder, or its sparse models are lost.")
    frame.link("overview", "Show the newest run")
else:
    frame.opening("No layer has been pruned yet.")
    frame.empty(
        "Here every layer of a sparse model will be shown: how wide it still is, how much of its output it lost on the "
        "text it was fitted to, on text kept out of the fit and on the passages, and what compensation bought back."
    )
    frame.link("prune", "Prune a model")
