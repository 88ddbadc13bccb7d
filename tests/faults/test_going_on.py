"""Real workers killed at many blocks, batches and steps of every stage: each goes on at that one,
nothing else is computed twice, and all results are the same, to the last bit.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.engine.export.export import file_hashes
from sparsedash.schema.export_settings import Export, ExportSettings
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import (
    CalibrationSettings,
    EvaluationSettings,
    Residency,
    RunSettings,
)
from sparsedash.service.backend import Backend
from sparsedash.storage.model_folders import unfinished_exports
from sparsedash.storage.store import Store
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny_gguf import write_tiny_gguf
from tests.faults.server_process import Forking, eventually, gone

pytestmark = pytest.mark.faults

N_BLOCKS = 6
STEPS = (
    "start",
    "load",
    "text",
    "calibrate",
    "prune",
    "evaluate",
    "continue",
    "write",
    "prove",
)
"""Stages at whose steps a worker is killed as well, wherever in the work that is."""
NOWHERE: Mapping[str, list[int]] = {}


@dataclass(frozen=True)
class Calm:
    """A run, a continuation and an export that nobody disturbs. counted: calls by what they are, as
    forking_worker.
    """

    settings: RunSettings
    counted: Counter[str]
    results: dict[str, object]

    @property
    def computed(self) -> dict[str, int]:
        """The blocks and batches among what is counted."""
        return {
            what: n
            for what, n in sorted(self.counted.items())
            if not what.startswith("steps of")
        }


@pytest.fixture(scope="module")
def forking() -> Iterator[Forking]:
    forking = Forking()
    yield forking
    forking.end()


@pytest.fixture(autouse=True, scope="module")
def no_workers():
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("SPARSEDASH_WORKERS", "0")
        yield


@pytest.fixture(scope="module")
def calm(tmp_path_factory, forking) -> Calm:
    return undisturbed(tmp_path_factory.mktemp("calm"), forking, "best", "sparsegpt")


@pytest.fixture(scope="module")
def calm_walk(tmp_path_factory, forking) -> Calm:
    """Of weights in files, by methods that do not look back: all is done in one walk."""
    return undisturbed(
        tmp_path_factory.mktemp("walk"),
        forking,
        "least-squares",
        "wanda",
        residency="streamed",
    )


def undisturbed(
    folder: Path, forking: Forking, *names: str, residency: Residency = "auto"
) -> Calm:
    text = f"file:{write_jsonl(folder / 'passages.jsonl', passages(40))}"
    request = RunSettings(
        model=str(write_tiny_gguf(folder / "model.gguf", num_hidden_layers=N_BLOCKS)),
        methods=tuple(replace(method_named(name), width_multiple=8) for name in names),
        sparsities_permille=(400,),
        calibration=CalibrationSettings(
            corpus=text,
            n_samples=40,
            length=64,
        ),
        evaluation=EvaluationSettings(corpus=text, n_passages=16),
        residency=residency,
    )
    assert n_attempts(request, folder / "data", forking) == 3
    return Calm(request, counted(folder / "data"), results(folder / "data"))


def counted(folder: Path) -> Counter[str]:
    return Counter((folder / "counted").read_text().splitlines())


def results(folder: Path) -> dict[str, object]:
    """Every record, continuation and export of the folder, without the times that they took."""
    store = Store(folder)
    records = {
        key: replace(
            store.get(Record, key),
            seconds=0.0,
            tokens_per_second=0.0,
        )
        for key in store.keys(Record)
    }
    written = {key: store.get(Continuation, key) for key in store.keys(Continuation)}
    exports = {key: store.get(Export, key) for key in store.keys(Export)}
    store.close()
    assert unfinished_exports(folder / "models") == []
    assert all(
        file_hashes(Path(export.folder)) == export.files for export in exports.values()
    )
    return (
        records
        | written
        | {key: export.files["model.safetensors"] for key, export in exports.items()}
    )


def n_attempts(
    asked: RunSettings,
    folder: Path,
    forking: Forking,
    planned: Mapping[str, list[int]] = NOWHERE,
) -> int:
    """How many workers it takes, one after another, until a run, a continuation and an export of it
    are done.

    planned: where they are killed.
    """
    backend = Backend(folder)
    (folder / "killed").write_text(json.dumps(dict(planned)))
    n = n_workers(backend, asked, forking)
    (run,) = backend.runs()
    assert isinstance(run, Run)
    prompt = ContinuationSettings(
        left=run.dense, right=run.sparse[0], prompt="the lamp and the boat", n_tokens=6
    )
    n += n_workers(backend, prompt, forking)
    n += n_workers(
        backend,
        ExportSettings(
            dense=run.dense,
            sparse=run.sparse[0],
            form="padded",
        ),
        forking,
    )
    backend.close()
    return n


def n_workers(
    backend: Backend,
    asked: RunSettings | ContinuationSettings | ExportSettings,
    forking: Forking,
) -> int:
    job = backend.submit(asked)
    n = 0
    while backend.job(job.id).state != "done":
        pid = forking.start(backend.data_dir)
        n = n + 1
        eventually(lambda pid=pid: gone(pid))
        # Its threads may hold its locks a moment longer than it lives itself.
        eventually(lambda: backend.job(job.id).state != "running")
        ended = backend.job(job.id)
        assert ended.state in ("done", "crashed"), (
            f"{ended.error_text}\n{backend.log_tail(job.id)}"
        )
        if ended.state == "crashed":
            assert "worker process died" in ended.error_text
            backend.retry(job.id)
    return n


def goes_on_after(
    n_each: int,
    calm: Calm,
    folder: Path,
    forking: Forking,
    *,
    in_one_walk: bool = False,
) -> None:
    """Kill the workers `n_each` times in every long stage, or in everything that is done in the
    walk.
    """
    drawn = random.Random(n_each)
    planned = {
        what: sorted(drawn.sample(range(1, n + 1), min(n_each, n)))
        for what, n in calm.computed.items()
    }
    if in_one_walk:
        del planned["answered batches"]
    n_killed = {what: len(numbers) for what, numbers in planned.items()}
    assert n_attempts(calm.settings, folder, forking, planned) == 3 + sum(
        n_killed.values()
    )
    counts = counted(folder)
    again = {what: counts[what] - n for what, n in calm.computed.items()}
    print(f"\nof {calm.computed}: killed at {planned}, computed again {again}")
    # Each kill costs the one block or batch that was under way, in a walk the first passages' way
    # as well.
    assert again == n_killed | (
        {"answered batches": sum(n_killed.values())} if in_one_walk else {}
    )
    assert results(folder) == calm.results


def test_a_worker_killed_in_any_long_stage_goes_on_at_that_block(
    calm, forking, tmp_path
):
    assert min(calm.computed.values()) >= N_BLOCKS - 1
    goes_on_after(1, calm, tmp_path / "data", forking)


@pytest.mark.long
def test_workers_killed_at_many_blocks_of_every_long_stage_go_on_there(
    calm, forking, tmp_path
):
    goes_on_after(10, calm, tmp_path / "data", forking)


@pytest.mark.long
def test_a_worker_killed_at_any_step_of_any_stage_gives_the_same_results(
    calm, forking, tmp_path
):
    drawn = random.Random(9)
    counts = {f"steps of {stage}": calm.counted[f"steps of {stage}"] for stage in STEPS}
    planned = {
        what: sorted(drawn.sample(range(1, n + 1), min(9, n)))
        for what, n in counts.items()
    }
    n_killed = sum(map(len, planned.values()))
    print(f"\nof {counts}: killed at {planned}")
    assert n_killed >= len(STEPS)
    assert (
        n_attempts(calm.settings, tmp_path / "data", forking, planned) == 3 + n_killed
    )
    assert results(tmp_path / "data") == calm.results


@pytest.mark.long
def test_a_worker_killed_in_the_one_walk_goes_on_at_that_block(
    calm_walk, forking, tmp_path
):
    assert min(calm_walk.computed.values()) >= N_BLOCKS - 1
    goes_on_after(6, calm_walk, tmp_path / "data", forking, in_one_walk=True)
