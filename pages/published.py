"""The published results, what follows from them, and the way to repeat each row."""

from sparsedash.ui import frame, published_tables

backend = frame.page("Published")
frame.opening(published_tables.published_sentence())
published_tables.show_source()
published_tables.show_tables()
published_tables.show_row(backend)
