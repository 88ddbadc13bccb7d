"""The published results, what follows from them, and the way to repeat each row."""

from sparsedash.ui import frame, published_tables

backend = frame.page("Published")
published_tables.show_summary()
published_tables.show_tables()
published_tables.show_row(backend)
