"""A job that is killed in a long stage goes on there: nothing is computed twice."""

from dataclasses import replace

import pytest
import safetensors.torch
import torch

from sparsedash.catalog.presets import method_named
from sparsedash.engine.calibration import gradients, sequential_refit
from sparsedash.engine.evaluation import evaluate
from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.pruning import channel_pruning, compensation, weight_pruning
from sparsedash.engine.run import pipeline
from sparsedash.engine.texts import generation
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.storage import store
from sparsedash.storage.store import Store

N_BLOCKS = 3
PARTS = ("/batch/", "/change/", "/hidden", "/chosen/", "/errors/", "/masked/", "/answers", "/texts/")


class Killed(BaseException):
    """As a signal: nothing handles it."""


@pytest.fixture(autouse=True)
def everything_is_long(monkeypatch):
    monkeypatch.setattr(store, "EVERY_S", 0.0)
    # One batch is finished at a time, of a few passages each.
    monkeypatch.setattr(evaluate, "KEPT_BYTES", 1)
    monkeypatch.setattr(evaluate, "KEPT_SHARE", 0)
    monkeypatch.setattr(evaluate, "HELD_SHARE", 0)
    monkeypatch.setattr(evaluate, "BATCH_TOKENS", 128)
    monkeypatch.setattr(gradients, "FISHER_BATCH_TOKENS", 256)
    monkeypatch.setattr(gradients, "SENSITIVITY_BATCH_TOKENS", 256)


@pytest.fixture
def settings(model_folder, passage_file):
    return RunSettings(
        model=str(model_folder),
        methods=(replace(method_named("best"), width_multiple=8),),
        sparsities_permille=(400,),
        calibration=CalibrationSettings(corpus=f"file:{passage_file}", n_samples=40, length=32),
        evaluation=EvaluationSettings(corpus=f"file:{passage_file}", n_passages=30),
    )


def told(step):
    """The stage, or "backward" for a backward pass, "refit" for a sequential refit."""
    if (step.stage, step.unit) == ("prune", "batches"):
        return "refit"
    return "backward" if step.message.startswith("backward") else step.stage


class Watched:
    """Hears the steps, and is killed at the n-th of a stage."""

    def __init__(self, stage="", at=0):
        self.steps, self._stage, self._at = [], stage, at

    def __call__(self, step):
        self.steps.append(step)
        if told(step) == self._stage and len(self.of(self._stage)) > self._at:
            raise Killed

    def of(self, stage):
        return [step.done for step in self.steps if told(step) == stage]


def results(run, store):
    return [replace(store.get(Record, key), seconds=0, tokens_per_second=0) for key in (run.dense, *run.sparse)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Gives what a run's records are when nothing happens to it, made once."""
    made = {}

    def of(settings):
        if settings.key() not in made:
            store = Store(tmp_path_factory.mktemp("calm"))
            made[settings.key()] = results(pipeline.run(settings, store, ignore_steps, ModelShelf()), store)
            store.close()
        return made[settings.key()]

    return of


def killed_and_begun_again(settings, folder, stage, at, meanwhile=lambda store: None):
    """What the second attempt has said, and the records. meanwhile: done to the store between the two."""
    store = Store(folder)
    with pytest.raises(Killed):
        pipeline.run(settings, store, Watched(stage, at), ModelShelf())
    store.close()
    store, again = Store(folder), Watched()
    meanwhile(store)
    found = results(pipeline.run(settings, store, again, ModelShelf()), store)
    left = [name for name in store._artefacts if any(part in name for part in PARTS)]
    store.close()
    return again, found, left


@pytest.mark.parametrize("at", [2, 3])
def test_a_calibration_goes_on_at_the_block_where_it_was(at, settings, uninterrupted, tmp_path):
    # One batch a block, and one step before the first: it is killed in the second block, and in the third.
    again, found, left = killed_and_begun_again(settings, tmp_path / "data", "calibrate", at)
    assert again.of("calibrate")[0] == at - 1
    assert found == uninterrupted(settings)
    assert left == []


@pytest.mark.parametrize("at", range(1, 2 * N_BLOCKS))
def test_pruning_scores_and_solves_no_block_twice(at, settings, uninterrupted, tmp_path, monkeypatch):
    solved, scored = [], []
    refitted, layer = channel_pruning._refit, channel_pruning._method_layer
    monkeypatch.setattr(channel_pruning, "_refit", lambda *asked: solved.append(1) or refitted(*asked))
    monkeypatch.setattr(
        channel_pruning, "_method_layer", lambda *asked, **more: scored.append(1) or layer(*asked, **more)
    )
    _, found, left = killed_and_begun_again(settings, tmp_path / "data", "prune", at)
    assert len(solved) == N_BLOCKS
    assert len(scored) == 2 * N_BLOCKS
    assert found == uninterrupted(settings)
    assert left == []


@pytest.mark.parametrize("at", range(N_BLOCKS))
@pytest.mark.parametrize("name", ["sparsegpt", "wanda"])
def test_no_block_is_masked_twice(name, at, settings, uninterrupted, tmp_path, monkeypatch):
    masked = []
    mask = weight_pruning._mask_block
    monkeypatch.setattr(weight_pruning, "_mask_block", lambda *asked: masked.append(1) or mask(*asked))
    settings = replace(settings, methods=(method_named(name),))
    _, found, left = killed_and_begun_again(settings, tmp_path / "data", "prune", at)
    assert len(masked) == N_BLOCKS
    assert found == uninterrupted(settings)
    assert left == []


@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("name", ["best", "retrain-free (published)"])
def test_no_batch_of_a_backward_pass_is_read_twice(name, at, settings, uninterrupted, tmp_path, monkeypatch):
    read = []
    watched = gradients._watched
    monkeypatch.setattr(gradients, "_watched", lambda *asked: read.append(1) or watched(*asked))
    method = replace(method_named(name), width_multiple=8)
    settings = replace(settings, methods=(method,))
    again, found, left = killed_and_begun_again(settings, tmp_path / "data", "backward", at)
    assert len(read) == again.of("backward")[-1] > at
    assert found == uninterrupted(settings)
    assert left == []


@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_sequential_refit_goes_on_at_the_block_where_it_was(at, settings, uninterrupted, tmp_path, monkeypatch):
    # Three batches a block, and one step before the first.
    refitted = []
    refit = sequential_refit._Sums.refit
    monkeypatch.setattr(sequential_refit._Sums, "refit", lambda *asked: refitted.append(1) or refit(*asked))
    method = replace(method_named("obs-sequential"), width_multiple=8)
    settings = replace(settings, methods=(method,))
    again, found, left = killed_and_begun_again(settings, tmp_path / "data", "refit", at)
    assert again.of("refit")[0] == 3 * (at // 3)
    assert len(refitted) <= N_BLOCKS + 1
    assert found == uninterrupted(settings)
    assert left == []


@pytest.mark.parametrize("at", [5, 60])
def test_no_text_that_the_model_wrote_itself_is_written_twice(at, settings, uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "MOST_TEXTS", 2)
    monkeypatch.setattr(generation, "FEWEST_TEXTS", 2)
    settings = replace(settings, calibration=CalibrationSettings(n_samples=40, length=64))
    written = []
    write = generation._generate
    monkeypatch.setattr(generation, "_generate", lambda *asked: written.append(1) or write(*asked))
    _, found, left = killed_and_begun_again(settings, tmp_path / "data", "text", at)
    # One was under way when it was killed.
    assert len(written) == 20 + 1
    assert found == uninterrupted(settings)
    assert left == []


LEFT = {
    "garbage": b"no form at all",
    "cut": (10**6).to_bytes(8, "little") + b'{"kept":',
    "other names": safetensors.torch.save({"another name": torch.zeros(2)}),
    "other batches": safetensors.torch.save({"block": torch.tensor(1), "0": torch.zeros(1, 2, 3)}),
    "other fields": b'[1.5, [[0, {"index": 0, "of another version": true}]]]',
}


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT.keys())
@pytest.mark.parametrize(
    ("stage", "at"), [("calibrate", 2), ("prune", 2), ("prune", N_BLOCKS + 2), ("evaluate", 2 * (N_BLOCKS + 1))]
)
def test_what_another_version_has_left_counts_as_none(left, stage, at, settings, uninterrupted, tmp_path):
    def spoil(store):
        found = [entry.name for entry in store.entries("artefacts") if entry.tag.startswith("unfinished ")]
        assert found
        for name in found:
            store.put_artefact(name, left, "unfinished tiny")

    _, found, _ = killed_and_begun_again(settings, tmp_path / "data", stage, at, spoil)
    assert found == uninterrupted(settings)


@pytest.mark.parametrize("way", ["resident", "streamed"])
@pytest.mark.parametrize("at", [2 * (N_BLOCKS + 1), 4 * (N_BLOCKS + 1), 4 * (N_BLOCKS + 1) + 2, 6 * (N_BLOCKS + 1)])
def test_an_evaluation_asks_no_passage_twice(at, way, settings, uninterrupted, tmp_path, monkeypatch):
    asked, measured = [], []
    measure = compensation._block_errors
    monkeypatch.setattr(compensation, "_block_errors", lambda *asked: measured.append(1) or measure(*asked))
    read = evaluate.read

    def watched(loaded, batches, on_block):
        asked.extend(row for batch in batches for row in batch.rows)
        return read(loaded, batches, on_block)

    monkeypatch.setattr(evaluate, "read", watched)
    _, found, left = killed_and_begun_again(replace(settings, residency=way), tmp_path / "data", "evaluate", at)
    # The batch that was read when it was killed was not finished.
    longest_batch = 128 // 12
    assert len(asked) <= 2 * 30 + longest_batch
    assert len(measured) == N_BLOCKS
    assert found == uninterrupted(settings)
    assert left == []
