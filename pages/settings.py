"""What the data folder holds and its deletion, data integrity, and the machines of a cluster."""

from sparsedash.reporting import storage_words
from sparsedash.ui import frame, settings_machines, settings_storage, widgets

backend = frame.page("Settings")

if backend.administers:
    holdings = backend.housekeeping.holdings()
    widgets.opening(storage_words.holdings_sentence(holdings), str(backend.data_dir))
    if holdings.is_empty:
        widgets.empty(
            "Runs, files and the cache will be listed here with their sizes, each with a Delete button."
        )
        with widgets.row():
            widgets.link("prune", "Prune a model")
            widgets.link("runs", "or open a run from another machine")
    else:
        settings_storage.show_runs(backend, holdings)
        settings_storage.show_stored_files(backend, holdings)
    settings_storage.show_cache(backend, holdings)
    if not holdings.is_empty:
        settings_storage.show_verification(backend)
else:
    widgets.opening("Administrators manage the data folder.")
    widgets.empty("Delete your own runs, exports and texts on these pages.")
    with widgets.row():
        widgets.link("runs", "Your runs")
        widgets.link("models", "Your exported models")
        widgets.link("prune", "Your uploaded texts")
if backend.cluster() is not None:
    settings_machines.watch_machines(backend)
