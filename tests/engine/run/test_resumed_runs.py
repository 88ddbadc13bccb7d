"""A killed run resumes from its checkpoint: the same records as without the kill, and nothing computed twice."""

from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.engine.calibration import gradients, sequential_refit
from sparsedash.engine.calibration.statistics import StatisticsCollector
from sparsedash.engine.evaluation import evaluate
from sparsedash.engine.pruning import channel_pruning, compensation, weight_pruning
from sparsedash.engine.texts import generation
from sparsedash.schema.settings import CalibrationSettings
from sparsedash.storage import store as stores
from sparsedash.storage.store import Store
from tests.engine.run.small_runs import N_BLOCKS, count_calls, fresh_records, ran, records

PARTS = ("/batch/", "/change/", "/hidden", "/chosen/", "/errors/", "/masked/", "/answers", "/written/")
N_TEXTS, N_PASSAGES, PASSAGES_IN_BATCH = 20, 30, 128 // 12
ROUND = 2 * (N_BLOCKS + 1)
"""Steps of the evaluation of one batch or two, of the dense model."""


class Kill(NamedTuple):
    """At the n-th step of a stage. most: calls of a function in both attempts together."""

    method: str
    stage: str
    at: int
    counted: tuple[Any, str]
    most: int
    other_places: tuple[int, ...] = ()
    streamed: bool = False


KILLS = {
    # One step before the first block, and one batch a block; the block that was under way is begun again.
    "calibration": Kill("best", "calibrate", 3, (StatisticsCollector, "_block"), N_BLOCKS + 1, (2,)),
    "scores": Kill("best", "prune", 2, (channel_pruning, "_method_layer"), 2 * N_BLOCKS, (1, 3)),
    "channels": Kill("best", "prune", 4, (channel_pruning, "_refit"), N_BLOCKS, (5,)),
    "masks, refitted": Kill("sparsegpt", "prune", 1, (weight_pruning, "_mask_block"), N_BLOCKS, (0, 2)),
    "masks": Kill("wanda", "prune", 1, (weight_pruning, "_mask_block"), N_BLOCKS, (0, 2)),
    "sensitivities": Kill("best", "backward", 1, (gradients, "_watched"), 0, (3,)),
    "gradients": Kill("retrain-free (published)", "backward", 3, (gradients, "_watched"), 0, (1,)),
    # Three steps a block, and one before the first.
    "sequential refit": Kill("obs-sequential", "refit", 4, (sequential_refit._Sums, "refit"), N_BLOCKS + 1, (1, 7)),
    "generated text": Kill("least-squares", "text", 60, (generation, "_generate"), N_TEXTS + 1, (5,)),
    "dense evaluation": Kill("best", "evaluate", ROUND, (compensation, "_block_errors"), N_BLOCKS),
    "evaluation": Kill(
        "best", "evaluate", 2 * ROUND + 2, (compensation, "_block_errors"), N_BLOCKS, (2 * ROUND, 3 * ROUND)
    ),
    "streamed evaluation": Kill(
        "best", "evaluate", 2 * ROUND + 2, (compensation, "_block_errors"), N_BLOCKS, (ROUND, 2 * ROUND), streamed=True
    ),
    # Blocks that were calibrated and pruned in a single pass are not again, but passages begin again.
    "single pass": Kill("least-squares", "walk", 8, (channel_pruning, "_refit"), N_BLOCKS, (2, 5), streamed=True),
}


class Killed(BaseException):
    """As a signal: nothing handles it."""


@pytest.fixture(autouse=True)
def everything_is_long(monkeypatch):
    monkeypatch.setattr(stores, "EVERY_S", 0.0)
    # One batch is finished at a time, of a few passages each.
    for name, value in {"KEPT_BYTES": 1, "KEPT_SHARE": 0, "HELD_SHARE": 0, "BATCH_TOKENS": 128}.items():
        monkeypatch.setattr(evaluate, name, value)
    monkeypatch.setattr(gradients, "FISHER_BATCH_TOKENS", 256)
    monkeypatch.setattr(gradients, "SENSITIVITY_BATCH_TOKENS", 256)
    monkeypatch.setattr(generation, "MOST_TEXTS", 2)
    monkeypatch.setattr(generation, "FEWEST_TEXTS", 2)


def settings_of(kill, settings):
    asked = replace(
        settings,
        methods=(replace(method_named(kill.method), width_multiple=8),),
        sparsities_permille=(400,),
        evaluation=replace(settings.evaluation, n_passages=N_PASSAGES),
        residency="streamed" if kill.streamed else "resident",
    )
    own_text = CalibrationSettings(n_samples=2 * N_TEXTS, length=64)
    return replace(asked, calibration=own_text) if kill.stage == "text" else asked


def stage_of(step):
    if (step.stage, step.unit) == ("prune", "batches"):
        return "refit"
    return "backward" if step.message.startswith("backward") else step.stage


class Watch:
    """Counts the steps of a stage, and raises at the n-th."""

    def __init__(self, stage, at=None):
        self.done, self._stage, self._at = [], stage, at

    def __call__(self, step):
        if stage_of(step) == self._stage:
            self.done.append(step.done)
            if self._at is not None and len(self.done) > self._at:
                raise Killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Gives the records of a run without a kill, made once."""
    made = {}

    def of(settings):
        if settings.key() not in made:
            made[settings.key()] = fresh_records(settings, tmp_path_factory.mktemp("whole"))
        return made[settings.key()]

    return of


def resumed(settings, folder, stage, at):
    """What the second attempt reports, its records, and the parts left in the store."""
    store = Store(folder)
    with pytest.raises(Killed):
        ran(settings, store, Watch(stage, at))
    store.close()
    store, again = Store(folder), Watch(stage)
    found = records(store, ran(settings, store, again))
    left = [entry.name for entry in store.entries("artefacts") if any(part in entry.name for part in PARTS)]
    store.close()
    return again.done, found, left


def check_resumed(kill, at, settings, whole, tmp_path, monkeypatch):
    asked = settings_of(kill, settings)
    expected = whole(asked)
    calls, rows = count_calls(monkeypatch, *kill.counted), count_calls(monkeypatch, evaluate._Evaluation, "_read_")
    done, found, left = resumed(asked, tmp_path / "data", kill.stage, at)
    assert found == expected
    assert left == []
    # A backward pass reads as many batches as it reports.
    assert len(calls) <= (kill.most or done[-1])
    n_asked = sum(len(batch.rows) for _, batches, _ in rows for batch in batches)
    # In a single pass, passages begin again; else the batch that was under way.
    assert n_asked <= 2 * N_PASSAGES + (2 * N_PASSAGES if kill.stage == "walk" else PASSAGES_IN_BATCH)


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_run_resumes_in_every_stage(name, settings, whole, tmp_path, monkeypatch):
    check_resumed(KILLS[name], KILLS[name].at, settings, whole, tmp_path, monkeypatch)
