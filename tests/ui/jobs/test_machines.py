"""The machines of the cluster on the jobs page: there only where a scheduler is named."""

from dataclasses import replace

from sparsedash.jobs.cluster_parts import ClusterMachine, ClusterView, MachineFacts, MachineView, PartProgress
from tests.ui.conftest import HOSTILE, words

ADDRESS = "tls://127.0.0.1:8786"
FACTS = MachineFacts(child_bytes=2 * 10**9, total_bytes=64 * 10**9, free_bytes=40 * 10**9, gpus=("H100",))


def machine(name="gpu-1", n_slots=1, **facts):
    return ClusterMachine(address="tls://127.0.0.1:1", name=name, n_slots=n_slots, facts=replace(FACTS, **facts))


def view(*machines, trouble=""):
    return ClusterView(address=ADDRESS, trouble=trouble, machines=machines)


def test_without_a_scheduler_nothing_is_said(open_page):
    assert "cluster" not in words(open_page("jobs"))


def test_each_machine_says_what_it_runs_and_its_memory(open_page, backend):
    progress = PartProgress(machine="gpu-1", stage="evaluate", done=30, total=120, point=2)
    busy = MachineView(machine=machine(), job_id=7, progress=progress)
    idle = MachineView(machine=machine("gpu-2", child_bytes=0, gpus=()))
    backend.known_cluster = view(busy, idle)
    said = words(open_page("jobs"))
    assert f"2 machines at {ADDRESS}, 1 of them free." in said
    assert "job 7, sparse model 3: Evaluating, 25 %" in said
    assert "2.0 GB" in said
    assert "40.0 GB" in said


def test_a_machine_that_takes_nothing_says_why(open_page, backend):
    without = MachineView(machine=machine(n_slots=0))
    full = MachineView(machine=machine("gpu-2", problem="The disk is full."))
    backend.known_cluster = view(without, full)
    said = words(open_page("jobs"))
    assert "none of them free" in said
    assert "--resources SLOT=1" in said
    assert "The disk is full." in said


def test_a_scheduler_that_does_not_answer_is_told_and_what_happens_meanwhile(open_page, backend):
    backend.known_cluster = view(trouble="No scheduler answers.")
    said = words(open_page("jobs"))
    assert "No scheduler answers." in said
    assert "Meanwhile runs are done on this machine." in said


def test_a_scheduler_without_machines_says_where_to_read(open_page, backend):
    backend.known_cluster = view()
    assert "docs/cluster.md" in words(open_page("jobs"))


def test_what_machines_say_is_shown_as_it_is(open_page, backend):
    for text in HOSTILE:
        backend.known_cluster = view(MachineView(machine=machine("gpu", gpus=(text,), problem=text)))
        assert "<img" not in "".join(markdown.value for markdown in open_page("jobs").markdown)
