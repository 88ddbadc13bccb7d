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

from sparsedash.service import model_lookup
from sparsedash.storage.store import Store
from sparsedash.storage.trials import trial_problem

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


@pytest.fixture(autouse=True, scope="session")
def remembered_look_ups() -> Iterator[None]:
    """A config is looked up once, and its answer remembered: two seconds each."""
    answers = dict[str, str]()

    def remembered(module: str, file: str, *, seconds: int, too_much: str) -> str:
        config = Path(file).read_text(encoding="utf-8")
        if config not in answers:
            answers[config] = trial_problem(
                module, file, seconds=seconds, too_much=too_much
            )
        return answers[config]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_lookup, "trial_problem", remembered)
        yield


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
