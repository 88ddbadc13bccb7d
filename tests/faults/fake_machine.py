"""What a Dask worker of the tests is asked to do: as sparsedash.service.cluster.machine, but for its child."""

import sys
from functools import cache
from pathlib import Path

from sparsedash.jobs.cluster import OnMachine
from sparsedash.service.cluster import machine
from sparsedash.storage.data_dir import data_folder

COMMAND = (sys.executable, "-P", str(Path(__file__).with_name("fake_part_worker.py")))


@cache
def here() -> machine.Machine:
    folder = data_folder()
    folder.mkdir(exist_ok=True)
    return machine.Machine(folder, command=COMMAND)


def do(part, report, stopped, fetch):
    machine.here = here
    return machine.do(part, report, stopped, fetch)


def facts():
    machine.here = here
    return machine.facts()


ON_MACHINE = OnMachine(do=do, facts=facts, piece=machine.piece)
