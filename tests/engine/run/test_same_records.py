"""Streamed = resident, one pass = several, together = alone, resumed = whole: the same records to
the bit.
"""

import re
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import pytest
import torch

from sparsedash.catalog import resources
from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.engine.calibration import (
    curves,
    gradients,
    sequential_refit,
    statistics,
)
from sparsedash.engine.comparison.model_pair import ModelPairCache
from sparsedash.engine.comparison.text_comparison import (
    continue_prompt,
    measure_divergence,
)
from sparsedash.engine.evaluation import evaluate
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.pruning import channel_pruning, compensation, weight_pruning
from sparsedash.engine.run import pipeline, run_context
from sparsedash.engine.run.model_making import rebuild_model
from sparsedash.engine.texts import generation
from sparsedash.schema.pair_records import ContinuationSettings, DivergenceSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import CalibrationSettings
from sparsedash.storage.store import Store
from tests.engine.run.small_runs import (
    N_BLOCKS,
    count_calls,
    fresh_records,
    ran,
    records,
)

PARTS = (
    "/batch/",
    "/change/",
    "/hidden",
    "/chosen/",
    "/masked/",
    "/answers",
    "/written/",
)
N_TEXTS = 20
N_PASSAGES = 12
PASSAGES_IN_BATCH = 128 // 12
ROUND = N_BLOCKS + 1
"""Steps of the evaluation, and of the backward pass, of one batch."""
ONE_PASS = "sparsegpt on dense activations"
"""Compensated as well, and none of the presets."""
ALL = (
    *(method.name for method in METHODS if not method.settings.prunes_experts),
    ONE_PASS,
)
LOCAL = ("least-squares", "wanda-channels", "wanda", ONE_PASS)
"""None of them looks back."""


class Kill(NamedTuple):
    """At the n-th step of a stage. most: calls of a function in both attempts together; 0: as many
    as are reported.

    others: steps at which tests/faults kills as well.
    """

    stage: str
    after: int
    counted: tuple[Any, str]
    most: int
    others: tuple[int, ...] = ()


class Row(NamedTuple):
    """Methods, a kill on the way, and how many models are evaluated together."""

    names: tuple[str, ...]
    kill: Kill | None = None
    way: str = "resident"
    n_together: int = 4


BEST = ("best",)
CALIBRATED = statistics._RunningSums, "statistics"
SCORED = channel_pruning, "layer_of"
REFITTED = compensation, "damped_solution"
"""Once a block for the refit."""
MASKED = weight_pruning, "MaskedBlock"
JUDGED = curves.CurveMeasurement, "losses"
BACKWARD = gradients, "_mean_loss"
MEASURED = compensation, "passage_error"
ROWS: dict[str, Row] = {
    "all, streamed": Row(ALL, way="streamed"),
    "two, resident again": Row(ALL[:2]),
    "a single pass": Row(LOCAL, way="streamed"),
    "one at a time": Row(LOCAL[:2], way="streamed", n_together=1),
    # The block that was under way is begun again.
    "calibration": Row(BEST, Kill("calibrate", 3, CALIBRATED, N_BLOCKS, (2,))),
    # The block whose curve was under way is scored again.
    "scores": Row(
        BEST,
        Kill(
            "prune",
            2,
            SCORED,
            2 * N_BLOCKS + 1,
            (1, 3),
        ),
    ),
    "channels": Row(("obs",), Kill("prune", 4, REFITTED, 2 * N_BLOCKS, (5,))),
    "masks, refitted": Row((ONE_PASS,), Kill("prune", 1, MASKED, N_BLOCKS, (0, 2))),
    # In the second block before it is pruned; or in the first, behind that, and in the last.
    "masks in sequence": Row(
        ("sparsegpt",), Kill("refit", 3, MASKED, N_BLOCKS, (1, 4, 5))
    ),
    "masks": Row(("wanda",), Kill("prune", 1, MASKED, N_BLOCKS, (0, 2))),
    "curves": Row(("obs-by-curves",), Kill("prune", 2, JUDGED, N_BLOCKS + 1, (1,))),
    "gradients": Row(
        ("retrain-free (published)",),
        Kill(
            "backward",
            ROUND,
            BACKWARD,
            0,
            (2 * ROUND + 1,),
        ),
    ),
    # Two steps a block, and one before the first: killed in the second block, or in the first and
    # the last.
    "refit": Row(
        ("best",),
        Kill(
            "refit",
            4,
            (sequential_refit._Sums, "refit"),
            N_BLOCKS,
            (1, 5),
        ),
    ),
    "dense evaluation": Row(BEST, Kill("evaluate", ROUND, MEASURED, N_BLOCKS)),
    "evaluation": Row(
        BEST,
        Kill(
            "evaluate",
            3 * ROUND,
            MEASURED,
            N_BLOCKS,
            (2 * ROUND,),
        ),
    ),
    "streamed evaluation": Row(
        BEST,
        Kill(
            "evaluate",
            2 * ROUND,
            MEASURED,
            2 * N_BLOCKS,
            (ROUND,),
        ),
        way="streamed",
    ),
    # Blocks that were calibrated and pruned in a single pass are not again, but passages begin
    # again.
    "walk": Row(
        LOCAL[:1],
        Kill("walk", 8, REFITTED, N_BLOCKS, (2, 5)),
        way="streamed",
    ),
}


class Killed(BaseException):
    """As a signal: nothing handles it."""


@pytest.fixture(scope="module", autouse=True)
def everything_is_long():
    """One batch is finished at a time, of a few passages each, and kept at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsedash.storage.checkpoint.CHECKPOINT_INTERVAL_S", 0.0)
        patch.setattr(evaluate, "BATCH_TOKENS", 128)
        few = {
            "KEPT_BYTES": 1,
            "KEPT_SHARE": 0,
            "HELD_SHARE": 0,
            "MAX_TEXTS": 2,
            "MIN_TEXTS": 2,
        }
        for name, value in few.items():
            patch.setattr(resources, name, value)
        patch.setattr(gradients, "FISHER_BATCH_TOKENS", 256)
        yield


def settings_of(settings, names, way):
    one_pass = replace(method_named("sparsegpt"), compensation="least-squares")
    methods = [one_pass if name == ONE_PASS else method_named(name) for name in names]
    return replace(
        settings,
        methods=tuple(
            replace(method, width_multiple=8) if method.is_structured else method
            for method in methods
        ),
        sparsities_permille=(400,),
        evaluation=replace(settings.evaluation, n_passages=N_PASSAGES),
        residency=way,
    )


class Made(NamedTuple):
    """Every preset, in one run: its settings, store, model_cache, run, and records by their keys."""

    store: Store
    model_cache: ModelCache
    run: Any
    by_key: dict[str, Record]


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """Resident, without a kill."""
    store = Store(tmp_path_factory.mktemp("resident"))
    model_cache = ModelCache()
    run = pipeline.run(
        settings_of(settings, ALL, "resident"),
        store,
        model_cache=model_cache,
    )
    yield Made(
        store, model_cache, run, {record.key: record for record in records(store, run)}
    )
    store.close()


def stage_of(step):
    if (step.stage, step.unit) == ("prune", "batches"):
        return "refit"
    return "backward" if step.message.startswith("backward") else step.stage


def killed_at(stage, at, seen):
    """A callback that notes the steps of a stage, and raises at the n-th."""

    def on_step(step):
        if stage_of(step) == stage:
            seen.append(step.done)
            if at is not None and len(seen) > at:
                raise Killed

    return on_step


def resumed(settings, folder, kill):
    """The records after a kill and a second attempt, what that reports, and the parts left in the
    store.
    """
    store = Store(folder)
    with pytest.raises(Killed):
        ran(settings, store, killed_at(kill.stage, kill.after, []))
    store.close()
    store = Store(folder)
    again = []
    resumed_records = records(
        store, ran(settings, store, killed_at(kill.stage, None, again))
    )
    names = [entry.name for entry in store.entries("artefacts")]
    leftovers = list(filter(re.compile("|".join(PARTS)).search, names))
    store.close()
    return resumed_records, again, leftovers


@pytest.mark.parametrize("name", ROWS)
def test_every_way_and_every_kill_gives_the_same_records(
    name, settings, whole, tmp_path, monkeypatch
):
    check_row(
        ROWS[name],
        settings,
        whole,
        tmp_path,
        monkeypatch,
    )


def check_row(row, settings, whole, tmp_path, monkeypatch):
    names, kill, way, n_together = row
    monkeypatch.setattr(pipeline, "MODELS_TOGETHER", n_together)
    settings = settings_of(settings, names, way)
    if kill is None:
        store = Store(tmp_path / "data")
        run_records = records(store, ran(settings, store))
        store.close()
    else:
        calls = count_calls(monkeypatch, *kill.counted)
        rows = count_calls(monkeypatch, evaluate._Evaluation, "_forward")
        run_records, again, leftovers = resumed(settings, tmp_path / "data", kill)
        assert leftovers == []
        # A backward pass reads as many batches as it reports.
        assert len(calls) <= (kill.most or again[-1])
        readings = chain(*(together for _, together in rows))
        n_asked = sum(len(reading.rows) for reading in readings)
        # In a single pass, passages begin again; else the batch that was under way.
        assert n_asked <= 2 * N_PASSAGES + (
            2 * N_PASSAGES if kill.stage == "walk" else PASSAGES_IN_BATCH
        )
    assert len(run_records) == len(names) + 1
    assert run_records == [whole.by_key[record.key] for record in run_records]


def test_a_single_pass_without_text_gives_the_same_records(settings, store, tmp_path):
    names = ("random", "magnitude-2:4")
    run_records = records(store, ran(settings_of(settings, names, "streamed"), store))
    assert run_records == fresh_records(
        settings_of(settings, names, "resident"), tmp_path / "resident"
    )


def test_text_that_the_model_writes_goes_on_where_it_was(
    settings, tmp_path, monkeypatch
):
    variant = settings_of(settings, ("wanda-channels",), "resident")
    variant = replace(
        variant,
        calibration=CalibrationSettings(n_samples=2 * N_TEXTS, length=64),
        prompts=(),
    )
    store = Store(tmp_path / "whole")
    expected = records(store, ran(variant, store))
    store.close()
    calls = count_calls(monkeypatch, generation, "_generate")
    resumed_records, _, leftovers = resumed(
        variant, tmp_path / "killed", Kill("text", 60, (generation, "_generate"), 0)
    )
    assert resumed_records == expected and leftovers == [] and len(calls) <= N_TEXTS + 1


def generated(store, model_cache, run):
    request = ContinuationSettings(
        left=run.dense,
        right=run.sparse[0],
        others=run.sparse[2:4],
        prompt="the lamp",
    )
    return continue_prompt(
        replace(request, n_tokens=8), store, ModelPairCache(model_cache)
    )


def diverged(store, model_cache, run):
    request = DivergenceSettings(
        left=run.dense,
        right=run.sparse[0],
        text="the lamp and the boat",
    )
    return measure_divergence(request, store, ModelPairCache(model_cache))


def rebuilt(store, model_cache, run):
    blocks = rebuild_model(
        store.get(Record, run.sparse[0]), store, ignore_steps, model_cache
    ).sparse.blocks
    return [(block.kept.tolist(), block.out_weight.tolist()) for block in blocks]


@pytest.mark.parametrize("do", [generated, diverged, rebuilt])
def test_rebuilt_models_are_the_same_block_by_block(do, whole, monkeypatch):
    monkeypatch.setattr(whole.store, "put", lambda *_: None)
    resident = do(whole.store, whole.model_cache, whole.run)
    # As on a machine whose memory is too small: rebuilding a record's model asks for neither way.
    monkeypatch.setattr(run_context, "memory_bytes", lambda: 1)
    model_cache = ModelCache()
    with torch.inference_mode():
        assert do(whole.store, model_cache, whole.run) == resident
    assert model_cache._kept.residency.streamed
