"""The machines of the cluster, where a scheduler is named: what each of them runs, and its memory."""

from sparsedash.jobs.parts import ClusterView, MachineFacts, MachineView
from sparsedash.reporting import wording
from sparsedash.reporting.html import element, table
from sparsedash.service.backend import Backend
from sparsedash.ui import frame
from sparsedash.ui.polling import MACHINES_S

_HEAD = ["Machine", "Runs", "Memory used", "Memory free", "GPUs"]


def draw(backend: Backend) -> None:
    """Draw the machines as they are now, and again every few seconds; nothing where no scheduler is named."""
    if backend.cluster() is not None:
        frame.section("Machines of the cluster")
        _machines(backend)


@frame.fragment(MACHINES_S)
def _machines(backend: Backend) -> None:
    view = backend.cluster()
    if view is None:
        return
    if view.trouble:
        frame.failure(view.trouble, "Meanwhile runs are done on this machine.")
    elif not view.machines:
        frame.note(f"{view.address} answers, and has no machines yet; docs/cluster.md says how they are started.")
        frame.note("Until one comes, runs are done on this machine.")
    else:
        rows = [_row(seen) for seen in view.machines]
        drawn = table("Machines of the cluster", _caption(view), _HEAD, rows)
        frame.show(element("div", drawn.html, css="sd-wrapped"))


def _caption(view: ClusterView) -> str:
    n_free = sum(seen.job_id is None and not seen.machine.problem for seen in view.machines)
    said = wording.plural(len(view.machines), "machine")
    return f"{len(view.machines)} {said} at {view.address}, {n_free or 'none'} of them free."


def _row(seen: MachineView) -> list[str]:
    facts = seen.machine.facts or MachineFacts()
    memory = [wording.size(n_bytes) if n_bytes else "–" for n_bytes in (facts.child_bytes, facts.free_bytes)]
    return [seen.machine.name, _runs(seen), *memory, ", ".join(facts.gpus) or "none"]


def _runs(seen: MachineView) -> str:
    machine, progress = seen.machine, seen.progress
    if machine.problem:
        return f"✕ {machine.problem}"
    if seen.job_id is None or progress is None:
        return "nothing"
    share = f", {wording.percent(progress.done / progress.total, 0)}" if progress.total > 1 else ""
    which = "" if progress.point is None else f", sparse model {progress.point + 1}"
    return f"job {seen.job_id}{which}: {wording.stage(progress.stage or 'start')}{share}"
