"""The machines of a cluster on the settings page: their jobs or problems, memory and GPUs."""

from sparsedash.jobs.cluster_parts import ClusterMachine, MachineFacts
from sparsedash.reporting import wording
from sparsedash.reporting.html import Table, element
from sparsedash.service.backend import Backend
from sparsedash.ui import widgets
from sparsedash.ui.widgets import JOB_S


@widgets.fragment(2 * JOB_S)
def watch_machines(backend: Backend) -> None:
    """Draw the machines of the cluster, and again every few seconds."""
    view = backend.cluster()
    if view is None:
        return
    widgets.section("Machines of the cluster")
    if view.trouble:
        widgets.failure(view.trouble, "Runs use this machine, after a minute at most.")
        return
    if not view.machines:
        widgets.note(
            f"{view.address} answers but has no machines; see docs/cluster.md. Until one joins, runs use this machine."
        )
        return
    free = [
        machine
        for machine in view.machines
        if machine.job_id is None and not machine.problem
    ]
    machines = wording.quantity(len(view.machines), "machine")
    caption = f"{machines} at {view.address}, {len(free) or 'none'} of them free."
    head = ["Machine", "Runs", "Memory used", "Memory free", "GPUs"]
    rows = [_machine_row(machine) for machine in view.machines]
    table = Table("Machines of the cluster", caption, head, rows)
    widgets.show(element("div", table.html, css="sd-wrapped"))


def _machine_row(machine: ClusterMachine) -> list[str]:
    progress = machine.progress
    if machine.problem:
        job = f"✕ {machine.problem}"
    elif machine.job_id is None or progress is None:
        job = "nothing"
    else:
        job = f"job {machine.job_id}"
        if progress.point is not None:
            job += f", sparse model {progress.point + 1}"
        job += f": {wording.stage_title(progress.stage)}"
        if progress.total > 1:
            job += f", {wording.percent(progress.share, 0)}"
    facts = machine.facts or MachineFacts()
    memory = [
        wording.size(n_bytes) if n_bytes else "–"
        for n_bytes in (facts.child_bytes, facts.free_bytes)
    ]
    return [machine.name, job, *memory, ", ".join(facts.gpus) or "none"]
