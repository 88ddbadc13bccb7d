"""The machines of a cluster on the settings page: what each runs, or why nothing, with its memory
and GPUs.
"""

from sparsedash.jobs.cluster_parts import ClusterMachine, MachineFacts
from sparsedash.reporting import wording
from sparsedash.reporting.html import Table, element
from sparsedash.service.backend import Backend
from sparsedash.ui import frame
from sparsedash.ui.frame import JOB_S


@frame.fragment(2 * JOB_S)
def watch_machines(backend: Backend) -> None:
    """Draw the cluster's machines, and again every few seconds; nothing where no scheduler is
    named.
    """
    if (view := backend.cluster()) is None:
        return
    frame.section("Machines of the cluster")
    if view.trouble:
        frame.failure(view.trouble, "Runs use this machine, after a minute at most.")
        return
    n, n_free = (
        len(view.machines),
        sum(each.job_id is None and not each.problem for each in view.machines),
    )
    if not n:
        frame.note(
            f"{view.address} answers but has no machines; see docs/cluster.md. Until one joins, runs use this machine."
        )
        return
    caption = (
        f"{wording.quantity(n, 'machine')} at {view.address}, {n_free or 'none'} of them free."
    )
    head, rows = (
        ["Machine", "Runs", "Memory used", "Memory free", "GPUs"],
        list(map(_machine_row, view.machines)),
    )
    drawn = Table("Machines of the cluster", caption, head, rows)
    frame.show(element("div", drawn.html, css="sd-wrapped"))


def _machine_row(machine: ClusterMachine) -> list[str]:
    progress = machine.progress
    if machine.problem:
        job = f"✕ {machine.problem}"
    elif machine.job_id is None or progress is None:
        job = "nothing"
    else:
        share = f", {wording.percent(progress.share, 0)}" if progress.total > 1 else ""
        which = "" if progress.point is None else f", sparse model {progress.point + 1}"
        job = f"job {machine.job_id}{which}: {wording.stage_title(progress.stage)}{share}"
    facts = machine.facts or MachineFacts()
    memory = [
        wording.size(n_bytes) if n_bytes else "–"
        for n_bytes in (facts.child_bytes, facts.free_bytes)
    ]
    return [machine.name, job, *memory, ", ".join(facts.gpus) or "none"]
