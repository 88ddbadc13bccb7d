"""Every test here gets a house of its own, and nothing that lives in it outlives the test."""

from collections.abc import Iterator

import pytest

from tests.faults.server_process import House


@pytest.fixture
def house(tmp_path, monkeypatch) -> Iterator[House]:
    monkeypatch.setenv("SPARSEDASH_WORKERS", "1")
    monkeypatch.setenv("SPARSEDASH_LINGER_S", "30")
    house = House(tmp_path)
    yield house
    house.end()
