"""The cluster that the environment names, if it names one, as a runner of jobs and as a connection to be checked."""

import os
import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sparsedash.jobs.cluster_runner import ClusterRunner, Means
from sparsedash.jobs.scheduler import SCHEDULER, Scheduler, named_scheduler
from sparsedash.jobs.table import JobTable
from sparsedash.schema import notes
from sparsedash.schema.errors import JobError, SettingsError
from sparsedash.service.cluster import machine
from sparsedash.service.cluster.plan import plan_of
from sparsedash.storage.store import Store

if TYPE_CHECKING:
    from sparsedash.jobs.cluster import Cluster


def cluster_runner(folder: Path, table: JobTable, store: Store) -> ClusterRunner | None:
    """What has runs done by the cluster that is named, not started yet; None where none is.

    One that must not be talked to is shown with the reason, and everything is done here.
    """
    plan = partial(plan_of, store=store)
    try:
        scheduler = named_scheduler()
    except SettingsError as error:
        means = Means(connect=_nowhere, plan_of=plan)
        return ClusterRunner(folder, table, os.environ.get(SCHEDULER, ""), means, trouble=str(error))
    if scheduler is None:
        return None
    means = Means(connect=lambda: connected(scheduler, _name(store)), plan_of=plan)
    return ClusterRunner(folder, table, scheduler.address, means)


def connected(scheduler: Scheduler, name: str) -> "Cluster":
    """A new connection. name: of the data folder. Raises JobError where there is none."""
    try:
        from sparsedash.jobs.cluster import Cluster, OnMachine
    except ModuleNotFoundError as error:
        raise JobError(
            f"A scheduler is named, and the package {error.name} is not installed.",
            "Run: pip install -r requirements-cluster.txt",
        ) from error
    on_machine = OnMachine(do=machine.do, facts=machine.facts, piece=machine.piece)
    return Cluster(scheduler, name, on_machine)


def _name(store: Store) -> str:
    """What tells this data folder from others at the same scheduler."""
    known = store.recall(notes.cluster_name())
    if known is None:
        known = secrets.token_hex(8)
        store.remember(notes.cluster_name(), known)
    return known


def _nowhere() -> "Cluster":
    raise JobError("The scheduler that is named must not be asked.")
