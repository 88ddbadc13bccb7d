"""What the data folder holds and how much room it takes, whether it is intact, and the machines of
a cluster.
"""

from sparsedash.reporting import storage_words as words
from sparsedash.reporting import wording
from sparsedash.reporting.html import card, cards
from sparsedash.ui import frame, settings_machines, settings_storage

backend = frame.page("Settings")


def show_data_folder() -> None:
    """Draw what an administrator sees, or the one user of this machine."""
    held = backend.housekeeping.holdings()
    frame.opening(words.holdings_sentence(held), str(backend.data_dir))
    if held.is_empty:
        frame.empty(
            "Results, calibration data, unpacked models, uploads and exports will be listed here with their sizes, by "
            "kind, by model and by run, each with a Delete button."
        )
        with frame.row():
            frame.link("prune", "Prune a model")
            frame.link("runs", "or open a run from another machine")
    else:
        frame.show(cards([card(*each, css="") for each in words.holdings_cards(held)]))
        marks = backend.user_data.marks()
        names = {key: mark.name for key, mark in marks.items()}
        titles = {
            each.run.key: wording.stored_run_title(each.run, names.get(each.run.key, ""))
            for each in held.runs
        }
        settings_storage.show_verification(backend)
        settings_storage.show_holdings(backend, words.held_rows(held, marks, frame.zone()), titles)
    settings_storage.show_limit(backend, held)


if backend.administers:
    show_data_folder()
else:
    frame.opening("Administrators manage the data folder.")
    frame.empty("Delete your own runs, exports and texts on these pages.")
    with frame.row():
        frame.link("runs", "Your runs")
        frame.link("models", "Your exported models")
        frame.link("prune", "Your uploaded texts")
if backend.cluster() is not None:
    settings_machines.watch_machines(backend)
