"""`sparsedash cluster check`: whether the scheduler that is named answers, and what its machines are."""

import argparse
from collections.abc import Callable

from sparsedash.jobs.parts import Machine, MachineFacts
from sparsedash.jobs.scheduler import SCHEDULER, named_scheduler
from sparsedash.reporting import wording
from sparsedash.schema.errors import SettingsError
from sparsedash.shell.printed_table import aligned
from sparsedash.shell.terminal import EXIT_TO_MEND


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is to be done with the cluster."""
    parser.add_argument("what", choices=["check"], help=f"check: whether that of {SCHEDULER} can be used, and by whom")


def prepare(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once a scheduler is named that may be talked to. Raises SparseDashError."""
    scheduler = named_scheduler()
    if scheduler is None:
        raise SettingsError(SCHEDULER, "", "the address of a scheduler, as in tls://127.0.0.1:8786")

    def work() -> int:
        from sparsedash.service.cluster.check import checked

        found = checked(scheduler)
        way = "certificates at both ends" if scheduler.encrypted else "no certificates, on this machine only"
        print(f"The scheduler at {scheduler.address} answers; {way}.")
        head = ["machine", "host", "jobs", "sparsedash", "torch", "memory", "free", "GPUs"]
        table = aligned([head, *map(_row, found.machines)]) if found.machines else ()
        for line in (*table, *found.to_mend):
            print(line)
        return EXIT_TO_MEND if found.to_mend else 0

    return work


def _row(machine: Machine) -> list[str]:
    facts = machine.facts or MachineFacts()
    sizes = [_size(facts.total_bytes), _size(facts.free_bytes)]
    packages = [facts.sparsedash or "?", facts.torch or "?"]
    gpus = ", ".join(facts.gpus) or "none"
    return [machine.name, facts.hostname or "?", str(machine.n_slots), *packages, *sizes, gpus]


def _size(n_bytes: int | None) -> str:
    return "?" if n_bytes is None else wording.size(n_bytes)
