"""Parts go to machines that can take one; one that waits for machines that are gone is lost. The
client is a fake.
"""

from types import SimpleNamespace

import pytest

from sparsedash.jobs.cluster_parts import (
    SLOT,
    ClusterMachine,
    MachineFacts,
    Part,
    Scheduler,
)

cluster = pytest.importorskip("sparsedash.jobs.cluster")


class FakeClient:
    """Keeps where parts were sent; none of them begins."""

    def __init__(self):
        self.status = "running"
        self.workers = {}
        self.sent_to = []

    def subscribe_topic(self, topic, hear):
        pass

    def register_plugin(self, plugin, name):
        pass

    def publish_dataset(self, future, name, override):
        pass

    def scheduler_info(self, n_workers):
        return {"workers": self.workers}

    def submit(self, *_, workers, resources, **__):
        assert resources == {SLOT: 1}
        self.sent_to.append(workers)
        return SimpleNamespace(status="pending")


def machine(name, n_slots=1, problem=""):
    facts = MachineFacts(problem=problem)
    return ClusterMachine(
        address=f"tls://{name}:1", name=name, n_slots=n_slots, facts=facts
    )


MACHINES = (
    machine("ann"),
    machine("ben", problem="Its data folder is full."),
    machine("cyd", n_slots=0),
)
PART = Part(name="0", kind="part", key="k", settings={})


@pytest.fixture
def client(monkeypatch):
    client = FakeClient()
    monkeypatch.setattr(cluster, "_connected", lambda scheduler: client)
    return client


@pytest.fixture
def connection(client):
    on_machine = cluster.OnMachine(do=None, facts=dict, artefact=None)
    return cluster.Cluster(
        Scheduler(address="tcp://127.0.0.1:8786"), "test", on_machine
    )


def test_a_part_is_sent_only_to_machines_that_can_take_one(client, connection):
    connection.submit("1.1/0", PART, MACHINES)
    assert client.sent_to == [["tls://ann:1"]]


def test_a_part_waits_while_one_of_its_machines_is_there_and_is_lost_once_none_is(
    client, connection
):
    client.workers = {"tls://ann:1": {}, "tls://ben:1": {}}
    connection.submit("1.1/0", PART, MACHINES)
    assert connection.end("1.1/0") is None
    del client.workers["tls://ann:1"]
    assert connection.end("1.1/0") == cluster.LOST
