"""The mark on every page that shows the run that ships with the program, and the way to run the same here."""

from sparsedash.reporting.wording import example_words
from sparsedash.schema.records import Run
from sparsedash.ui import frame
from sparsedash.ui.form_address import form_address


def show_mark(run: Run | None, brief: bool = False) -> None:
    """Draw that the run is an example, and the link that fills the form in with its settings; nothing of others.

    brief: without where and when it was made.
    """
    if run is None or not (said := example_words(run, brief)):
        return
    frame.note(said)
    frame.link("prune", "Run this here", **(form_address(run.settings) or {}))
