"""A backend on a folder of its own that starts no process, and one that serves several users."""

import pytest

from sparsedash.service.backend import Backend
from sparsedash.service.machine_speed import MachineSpeed
from tests.service.made import House


@pytest.fixture
def no_process(monkeypatch):
    """Neither a worker nor a measurement of this machine is started."""
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    monkeypatch.setattr(MachineSpeed, "known", lambda speed: None)


@pytest.fixture
def backend(tmp_path, monkeypatch, no_process):
    monkeypatch.delenv("SPARSEDASH_ARTEFACT_GB", raising=False)
    opened = Backend(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def house(tmp_path, no_process):
    house = House(tmp_path)
    yield house
    house.backend.close()
