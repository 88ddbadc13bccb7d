"""The published results, what follows from them, and the way to repeat each row."""

from sparsedash.ui import frame, reference

backend = frame.page("Published")
frame.opening(reference.opening())
reference.show_source()
reference.show_tables()
reference.show_row(backend)
