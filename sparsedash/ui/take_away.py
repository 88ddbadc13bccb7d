"""The way from a sparse model to its files, the same on every page."""

from sparsedash.ui import frame


def link_to_files(run: str, record: str) -> None:
    """Draw the link to the page where this sparse model's files are written. record: its name within the run."""
    frame.link("models", "Take this model away", run=run, record=record)
