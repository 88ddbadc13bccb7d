"""The published results, what follows from them, and the way to repeat each row."""

from sparsedash.ui import frame
from sparsedash.ui.published import tables

backend = frame.page("Published")
frame.opening(tables.opening())
tables.show_source()
tables.show_tables()
tables.show_row(backend)
