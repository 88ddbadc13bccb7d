"""How long the first run will take on this machine, under the button that starts it."""

from sparsedash.reporting import wording
from sparsedash.reporting.html import paragraph
from sparsedash.service.backend import Backend
from sparsedash.service.preflight import Duration
from sparsedash.ui import frame
from sparsedash.ui.form.run_form import first_run
from sparsedash.ui.polling import JOB_S


def show_duration(backend: Backend) -> None:
    """Draw the time of the first run, and have a worker ready for it; asks again while the machine is being measured.

    Not both at once: a worker that loads the engine would make the machine look slow.
    """
    known = backend.preflight(first_run()).duration
    if known.total_s is not None:
        backend.expect_work()
        _say(known)
    else:
        _wait(backend)


@frame.fragment(JOB_S)
def _wait(backend: Backend) -> None:
    known = backend.preflight(first_run()).duration
    if known.total_s is not None:
        backend.expect_work()
    _say(known)


def _say(known: Duration) -> None:
    said = "How long it will take is being measured." if known.total_s is None else duration_words(known)
    frame.show(paragraph(said, css="sd-muted sd-small"))


def duration_words(known: Duration) -> str:
    """The time of a run whose every part is known, and what is behind it."""
    by = "a measurement of this machine" if known.counted else "what ran here before"
    return f"It takes about {wording.duration(known.seconds)}, by {by}; the first answers come sooner."
