"""What holds for every test: no network, few threads, the same examples on every machine, in CI a second try."""

import os

# Before anything imports torch or the hub client, and inherited by every child process.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from sparsedash.storage.store import Store

_OF_SEVERAL_PROCESSES = [
    Path(__file__).parent / name for name in ("browser", "faults", "service/test_cluster_with_engine.py")
]

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In CI what watches other processes is tried once more where it fails; what needed that is named at the end."""
    for item in items:
        if os.environ.get("CI") and any(path in (item.path, *item.path.parents) for path in _OF_SEVERAL_PROCESSES):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store in a new data folder."""
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()
