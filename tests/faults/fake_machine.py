"""What a Dask worker of the tests is asked to do: as sparsedash.service.cluster_machine, but for its child."""

import sys
from functools import cache
from pathlib import Path

from sparsedash.jobs.cluster import OnMachine
from sparsedash.service import cluster_machine
from sparsedash.storage.local_machine import data_folder

COMMAND = (sys.executable, "-P", str(Path(__file__).with_name("fake_part_worker.py")))


@cache
def here() -> cluster_machine.PartMachine:
    folder = data_folder()
    folder.mkdir(exist_ok=True)
    return cluster_machine.PartMachine(folder, command=COMMAND)


def do(part, report, stopped, fetch):
    cluster_machine.this_part_machine = here
    return cluster_machine.perform_part(part, report, stopped, fetch)


def facts():
    cluster_machine.this_part_machine = here
    return cluster_machine.machine_facts()


ON_MACHINE = OnMachine(do=do, facts=facts, artefact=cluster_machine.kept_artefact)
