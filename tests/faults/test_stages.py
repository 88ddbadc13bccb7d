"""Real workers killed in every stage of their work: what is asked for again has the same numbers, to the last bit.

The model is large enough that every stage takes long enough to be met, and unpacked from a .gguf file each time.
"""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sparsedash.engine.export.export import file_hashes
from sparsedash.jobs.job import Job
from sparsedash.schema.export_settings import Export, ExportSettings
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service.backend import Backend
from sparsedash.storage.store import Store
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny_gguf import write_tiny_gguf
from tests.faults.house import Forking, eventually, gone

pytestmark = pytest.mark.faults

STAGES = ("unpack", "load", "text", "calibrate", "prune", "evaluate", "continuation", "write", "prove")
"""The last two are those of an export."""
OF_A_FINISHED_RUN = ("continuation", "write", "prove")

N_EACH = 9
LARGER = {"hidden_size": 128, "intermediate_size": 768, "num_hidden_layers": 6, "head_dim": 32}


@pytest.fixture(scope="module")
def forking() -> Iterator[Forking]:
    forking = Forking()
    yield forking
    forking.end()


@dataclass(frozen=True)
class Whole:
    """What nobody disturbed. seconds: of each stage."""

    folder: Path
    asked: RunSettings
    prompt: ContinuationSettings
    export: ExportSettings
    seconds: dict[str, float]
    numbers: dict[str, object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, forking) -> Iterator[Whole]:
    folder = tmp_path_factory.mktemp("whole")
    text = f"file:{write_jsonl(folder / 'passages.jsonl', passages(60))}"
    asked = RunSettings(
        model=str(write_tiny_gguf(folder / "model.gguf", **LARGER)),
        methods=(MethodSettings(width_multiple=8),),
        sparsities_permille=(250, 500),
        calibration=CalibrationSettings(n_samples=64, length=64),
        evaluation=EvaluationSettings(corpus=text, n_passages=40),
    )
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("SPARSEDASH_WORKERS", "0")
        backend = Backend(folder / "data")
        finished(backend, backend.submit(asked), forking)
        (run,) = backend.runs()
        # Continuations and exports are asked for in a folder that has the run already, but not what they make.
        backend.close()
        shutil.copytree(folder / "data", folder / "with-run")
        backend = Backend(folder / "data")
        prompt = ContinuationSettings(left=run.dense, right=run.sparse[0], prompt="the lamp and the boat")
        job = backend.submit(prompt)
        finished(backend, job, forking)
        took = backend.job(job.id)
        to_export = ExportSettings(dense=run.dense, sparse=run.sparse[0], form="uniform")
        job = backend.submit(to_export)
        finished(backend, job, forking)
        wrote = backend.job(job.id)
        backend.close()
        seconds = {
            **run.seconds,
            "load": run.seconds["load"] / 4,
            "unpack": run.seconds["load"],
            "continuation": took.finished_at - took.started_at,
            # Writing takes next to nothing of an export; nearly all is the fresh process that proves it.
            "write": 0.02,
            "prove": wrote.finished_at - wrote.started_at,
        }
        yield Whole(folder, asked, prompt, to_export, seconds, numbers(folder / "data"))


def finished(backend: Backend, job: Job, forking: Forking) -> None:
    pid = forking.start(backend.data_dir)
    eventually(lambda: gone(pid))
    ended = backend.job(job.id)
    assert ended.state == "done", f"{ended.error_text}\n{backend.log_tail(job.id)}"


def numbers(folder: Path) -> dict[str, object]:
    """Every record, continuation and export of the folder, without the times that they took."""
    store = Store(folder)
    records = {key: store.get(Record, key) for key in store.keys(Record)}
    written = {key: store.get(Continuation, key) for key in store.keys(Continuation)}
    exported = {key: store.get(Export, key) for key in store.keys(Export)}
    (run,) = (store.get(Run, key) for key in store.keys(Run))
    store.close()
    assert run.finished
    assert set(records) == {run.dense, *run.sparse}
    timeless = {key: replace(record, seconds=0.0, tokens_per_second=0.0) for key, record in records.items()}
    return timeless | written | {key: weights_of(export) for key, export in exported.items()}


def weights_of(export: Export) -> str:
    """The hash of the weights, of an export that is as its record says."""
    assert file_hashes(Path(export.folder)) == export.files
    return export.files["model.safetensors"]


class Watch:
    """Sees which stage the newest job of a folder is in, as often as it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.db = sqlite3.connect(folder / "jobs.sqlite", isolation_level=None)

    def stage(self) -> str:
        query = "SELECT kind, stage, unit FROM jobs ORDER BY id DESC LIMIT 1"
        kind, stage, unit = self.db.execute(query).fetchone()
        if kind == "continuation":
            return "continuation" if stage else ""
        if kind == "export":
            return str(stage) if stage in ("write", "prove") else "before it is written"
        if stage == "text" and unit != "tokens":
            return "reading text"  # which takes no time; text that the model writes does
        if stage != "load":
            return str(stage)
        if any(self.folder.glob("models/unfinished-*")):
            return "unpack"
        return "load" if any(self.folder.glob("models/*/")) else "before it is unpacked"

    def wait_for(self, stage: str, pid: int) -> None:
        """Return once the job is in this stage or its worker is gone."""
        while self.stage() != stage and not gone(pid):
            time.sleep(0.001)


def killed_in(stage: str, delay: float, folder: Path, whole: Whole, forking: Forking) -> str:
    """Kill a worker in a stage, and let another one bring the job to its end. Returns the stage that it was met in.

    delay: how far into the stage, 0 to 1, by what that took undisturbed.
    """
    if stage in OF_A_FINISHED_RUN:
        shutil.copytree(whole.folder / "with-run", folder)
    backend = Backend(folder)
    job = submitted(stage, backend, whole)
    pid = forking.start(folder)
    watch = Watch(folder)
    watch.wait_for(stage, pid)
    time.sleep(delay * whole.seconds[stage])
    met = watch.stage()
    watch.db.close()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: gone(pid))
    # Its threads may hold its locks a moment longer than it lives itself.
    eventually(lambda: backend.job(job.id).state != "running")
    killed = backend.job(job.id)
    assert killed.state in ("queued", "crashed", "done")
    if killed.state == "crashed":
        assert "without a word" in killed.error_text
        backend.retry(job.id)
    if killed.state != "done":
        finished(backend, job, forking)
    backend.close()
    assert not list(folder.glob("models/unfinished-*"))
    found = numbers(folder)
    assert found.items() <= whole.numbers.items()
    made = {"continuation": whole.prompt, "write": whole.export, "prove": whole.export}
    assert stage not in made or made[stage].key() in found
    return met if killed.state == "crashed" else killed.state


def submitted(stage: str, backend: Backend, whole: Whole) -> Job:
    if stage == "continuation":
        return backend.submit(whole.prompt)
    if stage in OF_A_FINISHED_RUN:
        return backend.submit(whole.export)
    return backend.submit(whole.asked)


def kill_in_every_stage(
    n_each: int, latest: float, folder: Path, whole: Whole, forking: Forking
) -> Counter[tuple[str, str]]:
    """How often a kill that was meant for a stage met which. latest: how far into it at most, 0 to 1."""
    moments, met = random.Random(n_each), Counter[tuple[str, str]]()
    for number in range(n_each):
        for stage in STAGES:
            # What comes several times in a run takes only a part of its whole time each, and unpacking one of loading.
            delay = latest * moments.random() * (0.4 if stage in ("unpack", "prune", "evaluate") else 1.0)
            met[stage, killed_in(stage, delay, folder / f"{stage}-{number}", whole, forking)] += 1
    print(f"\nkilled in {dict(met)}; seconds of each stage {whole.seconds}")
    return met


def test_a_worker_killed_in_any_stage_gives_the_same_numbers_after_a_retry(forking, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    met = kill_in_every_stage(1, 0.2, tmp_path, whole, forking)
    assert sum(met.values()) == len(STAGES)
    assert {stage for _, stage in met} & set(STAGES)


@pytest.mark.long
def test_workers_killed_at_many_moments_of_every_stage_give_the_same_numbers(forking, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    met = kill_in_every_stage(N_EACH, 0.7, tmp_path, whole, forking)
    assert sum(met.values()) == N_EACH * len(STAGES)
    for stage in STAGES:
        assert sum(n for (_, found), n in met.items() if found == stage) >= N_EACH / 2, stage
