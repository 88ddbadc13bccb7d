"""Every run as a row of one table, and several of them in one chart."""

from sparsedash.reporting import run_list
from sparsedash.reporting.run_list import all_rows
from sparsedash.ui import frame, runs_table
from sparsedash.ui.navigation import current_tolerance
from sparsedash.ui.runs_table import explain_no_runs, is_overlaid, show_overlay, show_run_table, show_toolbar

backend = frame.page("Runs")
rows = all_rows(backend, current_tolerance())

if not rows:
    explain_no_runs(backend)
else:
    frame.opening(run_list.runs_sentence(rows, current_tolerance()))
    runs_table.watch_runs(backend, rows)
    listed = runs_table.filter_rows(rows)
    chosen = runs_table.ticked_rows(rows)
    show_toolbar(backend, rows, chosen, listed)
    if chosen and is_overlaid():
        show_overlay(backend, chosen)
    if listed:
        show_run_table(listed, {row.key for row in chosen})
    else:
        frame.note("No run matches. Clear the search, or choose all models.")
