"""Every run as a row of one table, and several of them in one chart."""

from sparsedash.reporting.runs import listing
from sparsedash.reporting.runs.rows import all_rows
from sparsedash.ui import frame
from sparsedash.ui.carried import tolerance
from sparsedash.ui.runs import choices, watching
from sparsedash.ui.runs.empty_state import explain
from sparsedash.ui.runs.table import show_table
from sparsedash.ui.runs.together import show_together
from sparsedash.ui.runs.toolbar import show_toolbar

backend = frame.page("Runs")
rows = all_rows(backend, tolerance())

if not rows:
    explain(backend)
else:
    frame.opening(listing.sentence(rows, tolerance()))
    watching.watch(backend, rows)
    listed = choices.narrowed(rows)
    chosen = choices.chosen(rows)
    show_toolbar(backend, rows, chosen, listed)
    if chosen and choices.together():
        show_together(backend, chosen)
    if listed:
        show_table(listed, {row.key for row in chosen})
    else:
        frame.note("No run matches. Clear the search, or choose all models.")
