"""The published results, what follows from them, and the way to repeat each row."""

from sparsedash.published import SOURCE, SOURCE_URL
from sparsedash.ui import frame, reference

backend = frame.page("Published")
frame.opening(reference.opening(), f"{SOURCE}: {SOURCE_URL}")
reference.show_tables()
reference.show_rows(backend)
