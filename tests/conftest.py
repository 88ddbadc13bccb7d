"""What holds for every test: no network, few threads, the same examples on every machine."""

import os

# Before anything imports torch or the hub client, and inherited by every child process.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from sparsedash.storage.store import Store

settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    database=None,
)
settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """Leave what was imported, torch above all, out of every collection of garbage: a third of a
    second each.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store in a new data folder."""
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


class Clock:
    """A clock that stands still until its `now` is set, in seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()
