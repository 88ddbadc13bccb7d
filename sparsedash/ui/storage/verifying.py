"""Reading everything that carries a checksum: the button, the job, and what was found."""

import streamlit as st

from sparsedash.jobs.job import Job
from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, element, escape, paragraph, table
from sparsedash.reporting.storage import verified
from sparsedash.schema.hosting.upkeep import Verification
from sparsedash.service.backend import Backend
from sparsedash.ui import frame, job_watch
from sparsedash.ui.storage import rows

_WHAT = (
    "Every result, everything that calibration left, and every file of unpacked models, uploads and models taken away "
    "is read and held against the checksum that was written with it. Nothing is changed. The list of jobs checks its "
    "rows whenever it is read; logs have no checksum."
)
MOST_SHOWN = 50
_HEAD = ["What", "Called", "What is wrong", "What to do"]


def show_verification(backend: Backend) -> None:
    """Draw what was found the last time, and the button that reads everything again; or the job that does."""
    frame.section("Is everything whole?")
    found = backend.housekeeping.verification()
    job = next((job for job in backend.jobs(job_watch.LISTED) if job.kind == "verify"), None)
    if found is not None:
        _show_found(backend, found)
    else:
        frame.show(paragraph(_WHAT, css="sd-muted sd-small"))
    if job is not None and _is_worth_showing(job, found):
        job_watch.watch(backend, job, brief=True)
    if job is None or not job.live:
        st.button(
            "Verify everything" if found is None else "Verify everything again",
            key="verify",
            icon=":material/fact_check:",
            on_click=frame.attempt,
            args=(backend.submit_verification,),
        )


def _is_worth_showing(job: Job, found: Verification | None) -> bool:
    """Whether it is under way, or ended early after what was found."""
    if job.live:
        return True
    return job.state != "done" and (found is None or (job.finished_at or 0.0) > found.finished_at)


def _show_found(backend: Backend, found: Verification) -> None:
    said = verified.sentence(found, frame.zone())
    if not found.n_damaged:
        frame.show(paragraph(said), paragraph(verified.basis(found), css="sd-muted sd-small"))
        return
    frame.failure(said.removeprefix("✕ "), verified.basis(found))
    damaged = verified.rows(found)
    frame.show(element("ul", *(_item(row) for row in damaged[:MOST_SHOWN]), css="sd-damaged"))
    if found.n_damaged > MOST_SHOWN:
        frame.note(f"The first {MOST_SHOWN} of {found.n_damaged:,}.")
    with st.container(horizontal=True, vertical_alignment="center"):
        house = backend.housekeeping
        rows.ask("damaged", house.plan_damaged, house.remove_damaged, {}, "Delete what is damaged")
        listed = [[row.what, row.name, row.fault, row.advice] for row in damaged]
        frame.offer_table(table("What is damaged", "", _HEAD, listed))


def _item(row: verified.DamagedRow) -> Html:
    name = element("span", escape(row.name), css="sd-damaged-name")
    title = element("p", element("b", escape(f"{row.what} ")), name)
    fault = element("p", escape(f"✕ {wording.first_upper(row.fault)}."), css="sd-damaged-fault")
    return element("li", title, fault, paragraph(row.advice, css="sd-muted"))
