"""A cluster that is there for all tests of a module: a scheduler and two workers with the real engine."""

from collections.abc import Iterator

import pytest

from tests.dask_house import DaskHouse


@pytest.fixture(scope="module")
def dask(tmp_path_factory) -> Iterator[DaskHouse]:
    house = DaskHouse(tmp_path_factory.mktemp("dask"))
    house.start_scheduler()
    for name in ("ann", "ben"):
        house.start_worker(name)
    yield house
    house.end()
