"""A backend on a folder of its own that starts no workers, and one that serves several users."""

import pytest

from sparsedash.service.backend import Backend
from tests.service.made import House


@pytest.fixture
def backend(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    monkeypatch.delenv("SPARSEDASH_ARTEFACT_GB", raising=False)
    opened = Backend(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    house = House(tmp_path)
    yield house
    house.backend.close()
