"""Real workers killed at many blocks and batches of every long stage: each goes on at that one, and nothing else is
computed twice; the records are the same, to the last bit.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.schema.records import Record
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, Residency, RunSettings
from sparsedash.service.backend import Backend
from sparsedash.storage.store import Store
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny import save_tiny
from tests.faults.house import Forking, eventually, gone

pytestmark = pytest.mark.faults

N_BLOCKS = 12
N_EACH = 10
NOWHERE: Mapping[str, list[int]] = {}


@dataclass(frozen=True)
class Calm:
    """A run that nobody disturbs. counted: blocks and batches, by what they are; see forking_worker."""

    asked: RunSettings
    counted: Counter[str]
    records: dict[str, Record]


@pytest.fixture(scope="module")
def forking() -> Iterator[Forking]:
    forking = Forking(counted=True)
    yield forking
    forking.end()


@pytest.fixture(scope="module")
def calm(tmp_path_factory, forking) -> Calm:
    return undisturbed(tmp_path_factory.mktemp("calm"), forking, "obs-sequential", "sparsegpt")


@pytest.fixture(scope="module")
def calm_walk(tmp_path_factory, forking) -> Calm:
    """Of weights in files, by methods that do not look back: all is done in one walk."""
    return undisturbed(tmp_path_factory.mktemp("walk"), forking, "least-squares", "sparsegpt", residency="streamed")


def undisturbed(folder: Path, forking: Forking, *names: str, residency: Residency = "auto") -> Calm:
    text = f"file:{write_jsonl(folder / 'passages.jsonl', passages(60))}"
    asked = RunSettings(
        model=str(save_tiny(folder / "model", num_hidden_layers=N_BLOCKS)),
        methods=tuple(replace(method_named(name), width_multiple=8) for name in names),
        sparsities_permille=(400,),
        calibration=CalibrationSettings(corpus=text, n_samples=60, length=64),
        evaluation=EvaluationSettings(corpus=text, n_passages=24),
        residency=residency,
    )
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("SPARSEDASH_WORKERS", "0")
        assert n_attempts(asked, folder / "data", forking) == 1
    return Calm(asked, counted(folder / "data"), records(folder / "data"))


def counted(folder: Path) -> Counter[str]:
    return Counter((folder / "counted").read_text().splitlines())


def records(folder: Path) -> dict[str, Record]:
    """Every record of the folder, without the times that it took."""
    store = Store(folder)
    found = {key: store.get(Record, key) for key in store.keys(Record)}
    store.close()
    return {key: replace(record, seconds=0.0, tokens_per_second=0.0) for key, record in found.items()}


def n_attempts(asked: RunSettings, folder: Path, forking: Forking, planned: Mapping[str, list[int]] = NOWHERE) -> int:
    """How many workers it takes, one after another, until the run is done. planned: where they are killed."""
    backend, n = Backend(folder), 0
    (folder / "killed").write_text(json.dumps(dict(planned)))
    job = backend.submit(asked)
    while backend.job(job.id).state != "done":
        pid, n = forking.start(folder), n + 1
        eventually(lambda pid=pid: gone(pid))
        # Its threads may hold its locks a moment longer than it lives itself.
        eventually(lambda: backend.job(job.id).state != "running")
        ended = backend.job(job.id)
        assert ended.state in ("done", "crashed"), f"{ended.error_text}\n{backend.log_tail(job.id)}"
        if ended.state == "crashed":
            assert "without a word" in ended.error_text
            backend.retry(job.id)
    backend.close()
    return n


def killed_at(n_each: int, calm: Calm) -> dict[str, list[int]]:
    """At which blocks and batches, counted over all attempts."""
    drawn = random.Random(n_each)
    return {what: sorted(drawn.sample(range(1, n + 1), min(n_each, n))) for what, n in sorted(calm.counted.items())}


def goes_on_after(n_each: int, calm: Calm, folder: Path, forking: Forking, *, in_one_walk: bool = False) -> None:
    """Kill the run's workers `n_each` times in every long stage, or in everything that is done in the walk."""
    planned = killed_at(n_each, calm)
    if in_one_walk:
        del planned["answered batches"]
    n_killed = {what: len(numbers) for what, numbers in planned.items()}
    assert n_attempts(calm.asked, folder, forking, planned) == 1 + sum(n_killed.values())
    again = {what: n - calm.counted[what] for what, n in counted(folder).items()}
    print(f"\nof {dict(calm.counted)}: killed at {planned}, computed again {again}")
    # Each kill costs the one block or batch that was under way, in a walk the first passages' way as well.
    assert again == n_killed | ({"answered batches": sum(n_killed.values())} if in_one_walk else {})
    assert records(folder) == calm.records


def test_a_worker_killed_in_any_long_stage_goes_on_at_that_block(calm, forking, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    assert min(calm.counted.values()) >= N_EACH
    goes_on_after(2, calm, tmp_path / "data", forking)


@pytest.mark.long
def test_workers_killed_at_ten_blocks_of_every_long_stage_go_on_there(calm, forking, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    goes_on_after(N_EACH, calm, tmp_path / "data", forking)


@pytest.mark.long
def test_a_worker_killed_in_the_one_walk_goes_on_at_that_block(calm_walk, forking, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    assert min(calm_walk.counted.values()) >= N_EACH
    goes_on_after(2, calm_walk, tmp_path / "data", forking, in_one_walk=True)


@pytest.mark.long
def test_workers_killed_at_ten_blocks_of_the_one_walk_go_on_there(calm_walk, forking, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    goes_on_after(N_EACH, calm_walk, tmp_path / "data", forking, in_one_walk=True)
