"""A server that does nothing but look after the jobs of a cluster: `python fake_cluster_server.py FOLDER`.

Every record that it keeps is a line in the file `kept`, so that it can be counted.
"""

import sys
import time
from functools import partial
from pathlib import Path

from sparsedash.jobs.cluster import Cluster
from sparsedash.jobs.cluster_parts import named_scheduler
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.records import Record
from sparsedash.service.cluster_runner import ClusterRunner
from sparsedash.storage.store import Store
from tests.faults.fake_machine import ON_MACHINE


class CountedStore:
    """A store that tells which records it was given."""

    def __init__(self, folder: Path) -> None:
        self._store, self._kept = Store(folder), folder / "kept"

    def __getattr__(self, name):
        return getattr(self._store, name)

    def put(self, key, record):
        self._store.put(key, record)
        if isinstance(record, Record):
            with self._kept.open("a") as file:
                file.write(f"{key}\n")


def cluster_runner(folder: Path, table: JobTable, grace_s: float = 60.0) -> ClusterRunner:
    connect = partial(Cluster, on_machine=ON_MACHINE)
    return ClusterRunner(folder, table, CountedStore(folder), named_scheduler(), connect=connect, grace_s=grace_s)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    cluster_runner(folder, JobTable(folder / "jobs.sqlite")).start()
    while True:
        time.sleep(1)
